"""The verbs that talk: run, chat."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeslm.cli import options, output
from edgeslm.cli.memory import given
from edgeslm.cli.opening import Opened, Wanted, opened
from edgeslm.cli.streaming import interruptible, show, statistics_line
from edgeslm.errors import InvalidOption
from edgeslm.files import read_text
from edgeslm.records import to_json

if TYPE_CHECKING:
    from edgeslm.cli.keeping import Keeper
    from edgeslm.runtime.generation import Generation
    from edgeslm.runtime.prompt import PromptEncoder
    from edgeslm.runtime.tuned import Settled

_CONTEXT = 2048


def run(
    invocation: typer.Context,
    model: options.Model,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="What to say; '-' reads stdin."),
    ] = None,
    max_tokens: options.MaxTokens = None,
    system: options.System = None,
    template: options.Template = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without a chat template.")
    ] = False,
    temperature: options.Temperature = 0.7,
    top_k: options.TopK = 40,
    top_p: options.TopP = 0.95,
    min_p: options.MinP = 0.05,
    repeat_penalty: options.RepeatPenalty = 1.0,
    presence_penalty: options.PresencePenalty = 0.0,
    frequency_penalty: options.FrequencyPenalty = 0.0,
    dry: options.Dry = 0.0,
    xtc: options.Xtc = 0.0,
    seed: options.Seed = None,
    grammar: Annotated[
        Path | None,
        typer.Option("--grammar", metavar="FILE", help="Answer only what this GBNF allows."),
    ] = None,
    json_schema: Annotated[
        Path | None,
        typer.Option("--json-schema", metavar="FILE", help="Answer in JSON that fits this schema."),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", metavar="TEXT", help="End the answer here; may be repeated."),
    ] = None,
    context: options.Context = _CONTEXT,
    kv_type: options.KvType = None,
    adapter: options.Adapter = None,
    prompt_cache: options.PromptCache = "512M",  # type: ignore[assignment]
    ubatch: options.Ubatch = 512,
    ram: options.UsableRam = None,
    threads: options.Threads = None,
    draft: options.Draft = None,
    guess: options.Guess = None,
    json: options.Json = False,
) -> None:
    """Answer one prompt: the answer on stdout, what it took on stderr.

    Examples:
        edgeslm run model.gguf -p 'Name the capital of France.' --temperature 0 -n 32
        edgeslm run model.gguf --raw -p 'Once upon a time' -n 64 --seed 7
        cat letter.txt | edgeslm run model.gguf -p -
        edgeslm run model.gguf -p 'A city in France' --json-schema city.json
    """
    from edgeslm.llama.sampler import SamplingOptions
    from edgeslm.runtime.generation import GenerationOptions
    from edgeslm.runtime.messages import Message
    from edgeslm.runtime.prompt import PromptEncoder

    if raw and (system or template):
        option = "--system" if system else "--template"
        raise InvalidOption(
            f"{option} needs the chat template that --raw leaves out", hint="Use one of the two."
        )
    sampling = SamplingOptions(
        temperature,
        top_k,
        top_p,
        min_p,
        repeat_penalty,
        seed=seed,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        dry_multiplier=dry,
        xtc_probability=xtc,
        grammar=_grammar(grammar, json_schema),
    )
    generation = GenerationOptions(
        max_tokens,
        tuple(stop or ()),
        sampling,
        shift=True,
        speculate=options.speculate(draft, guess),
    )
    text = _prompt_text(prompt)
    wanted = Wanted(
        *(model, context, kv_type, ubatch, threads, adapter, prompt_cache, draft),
        guesses=generation.may_guess,
        ram=ram,
        explicit=given(invocation),
    )
    with opened(wanted) as ready:
        _warn_beyond_training(ready)
        encoder = PromptEncoder(ready.model, None if template is None else read_text(template))
        raw = raw or _continues_text(encoder, system)
        if raw:
            tokens, keep = encoder.encode_text(text), 0
        else:
            told = system or ready.system
            messages = [Message("system", told)] if told else []
            messages.append(Message("user", text))
            tokens = encoder.encode_messages(messages)
            keep = encoder.beginning(tokens, messages)
        with interruptible() as cancelled:
            answer = ready.session.generate(
                tokens,
                replace(generation, keep=keep, adapter=ready.adapter),
                on_text=None if json else show,
                cancelled=cancelled.is_set,
            )
        settled = ready.settled
    _print_answer(answer, settled, json=json)


def chat(
    invocation: typer.Context,
    model: options.Model,
    system: options.System = None,
    template: options.Template = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = 0.7,
    top_k: options.TopK = 40,
    top_p: options.TopP = 0.95,
    min_p: options.MinP = 0.05,
    repeat_penalty: options.RepeatPenalty = 1.0,
    presence_penalty: options.PresencePenalty = 0.0,
    frequency_penalty: options.FrequencyPenalty = 0.0,
    dry: options.Dry = 0.0,
    xtc: options.Xtc = 0.0,
    seed: options.Seed = None,
    context: options.Context = _CONTEXT,
    kv_type: options.KvType = None,
    adapter: options.Adapter = None,
    prompt_cache: options.PromptCache = "512M",  # type: ignore[assignment]
    ubatch: options.Ubatch = 512,
    ram: options.UsableRam = None,
    threads: options.Threads = None,
    draft: options.Draft = None,
    guess: options.Guess = None,
    go_on: Annotated[
        bool, typer.Option("--continue", help="Go on with the last conversation with this model.")
    ] = False,
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Keep nothing of what is said and typed.")
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Show answers as they are written, without styles.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print each exchange as one line of JSON.")
    ] = False,
) -> None:
    """Chat in the terminal, offline. Type /help there for its commands.

    Ctrl-C stops the answer; at the prompt, Ctrl-D or /quit ends the chat.

    Examples:
        edgeslm chat model.gguf
        edgeslm chat model.gguf --continue
        edgeslm chat packed/ --system 'You answer in one sentence.'
    """
    from edgeslm.cli.display import can_style
    from edgeslm.cli.terminal import ChatOptions, Terminal
    from edgeslm.llama.sampler import SamplingOptions
    from edgeslm.runtime.chat import Conversation
    from edgeslm.runtime.generation import GenerationOptions
    from edgeslm.runtime.prompt import PromptEncoder

    sampling = SamplingOptions(
        temperature,
        top_k,
        top_p,
        min_p,
        repeat_penalty,
        seed=seed,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        dry_multiplier=dry,
        xtc_probability=xtc,
    )
    if go_on and no_history:
        raise InvalidOption(
            "--continue needs what --no-history forbids", hint="Use one of the two."
        )
    interactive = sys.stdin.isatty()
    keeper = _keeper(model, wanted=go_on or interactive, forbidden=no_history)
    former = keeper.last() if go_on else None
    wanted = Wanted(
        *(model, context, kv_type, ubatch, threads, adapter, prompt_cache, draft),
        guesses=guess is not False,  # /set may change what is repeatable
        ram=ram,
        explicit=given(invocation),
    )
    with opened(wanted) as ready:
        encoder = PromptEncoder(ready.model, None if template is None else read_text(template))
        encoder.require_template()
        _warn_beyond_training(ready)
        conversation = Conversation(ready.session, encoder, system=system or ready.system)
        generation = GenerationOptions(
            max_tokens,
            sampling=sampling,
            shift=True,
            adapter=ready.adapter,
            speculate=options.speculate(draft, guess),
        )
        shown = ChatOptions(
            styled=can_style() and not plain,
            json_lines=json,
            interactive=interactive,
            keep_lines=not no_history,
        )
        terminal = Terminal(conversation, generation, keeper, shown)
        if former is not None:
            terminal.go_on(*former, system=system)
        terminal.loop()


def _keeper(model: Path, *, wanted: bool, forbidden: bool) -> Keeper:
    """What keeps the conversation; a program that talks through a pipe keeps it itself."""
    from edgeslm.bundle.model_path import find_model, name_of
    from edgeslm.cli.keeping import Keeper
    from edgeslm.files import sampled_sha256, state_folder
    from edgeslm.runtime.history import History

    folder = state_folder("chats") if wanted and not forbidden else None
    if folder is None:
        return Keeper(None, name_of(model))
    return Keeper(History(folder), name_of(model), sampled_sha256(find_model(model)))


def _grammar(grammar: Path | None, json_schema: Path | None) -> str | None:
    """The text of what an answer must follow."""
    if grammar is not None and json_schema is not None:
        raise InvalidOption(
            "--grammar and --json-schema exclude each other", hint="Use one of the two."
        )
    if json_schema is not None:
        from edgeslm.runtime.schema import grammar_of_schema

        return grammar_of_schema(read_text(json_schema))
    return None if grammar is None else read_text(grammar)


def _continues_text(encoder: PromptEncoder, system: str | None) -> bool:
    """Whether the model has no chat template, which the user is told."""
    if encoder.has_template:
        return False
    if system:
        encoder.require_template()
    output.warn("this model has no chat template: it continues the text, as with --raw")
    return True


def _warn_beyond_training(ready: Opened) -> None:
    context, trained = ready.settled.options.length, ready.model.trained_context_length
    if context > trained:
        output.warn(f"the model was trained for {trained} tokens, not for a context of {context}")


def _prompt_text(prompt: str | None) -> str:
    if prompt == "-" or (prompt is None and not sys.stdin.isatty()):
        prompt = sys.stdin.buffer.read().decode("utf-8", "replace")
    if not prompt or not prompt.strip():
        raise InvalidOption("the prompt is empty", hint="Say something: -p 'Hello'")
    return prompt


def _print_answer(answer: Generation, settled: Settled, *, json: bool) -> None:
    if json:
        output.print_json(
            {
                **to_json(answer),
                "prefill_tokens_per_second": answer.prefill_tokens_per_second,
                "decode_tokens_per_second": answer.decode_tokens_per_second,
                "settings": settled.described(),
            }
        )
    else:
        print(flush=True)
        print(statistics_line(answer), file=sys.stderr)
    if answer.finish_reason.value == "cancelled":
        raise KeyboardInterrupt
