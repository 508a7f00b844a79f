"""The verbs that talk: run, chat."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeslm.cli import options, output
from edgeslm.cli.memory import fitted, given
from edgeslm.cli.streaming import interruptible, show, statistics_line
from edgeslm.errors import InvalidOption
from edgeslm.files import read_text
from edgeslm.records import to_json

if TYPE_CHECKING:
    from edgeslm.llama.context import ContextOptions
    from edgeslm.llama.model import Model
    from edgeslm.runtime.generation import Generation
    from edgeslm.runtime.prompt import PromptEncoder

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
    kv_type: options.KvType = "F16",
    ubatch: options.Ubatch = 512,
    ram: options.UsableRam = None,
    threads: options.Threads = None,
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
    from edgeslm.runtime.session import Session

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
    generation = GenerationOptions(max_tokens, tuple(stop or ()), sampling)
    wishes = _context_options(context, kv_type, ubatch, threads)
    context_options = fitted(model, wishes, ram, given(invocation))
    text = _prompt_text(prompt)
    with _open(model) as opened:
        _warn_beyond_training(opened, context_options.length)
        encoder = PromptEncoder(opened, None if template is None else read_text(template))
        raw = raw or _continues_text(encoder, system)
        if raw:
            tokens = encoder.encode_text(text)
        else:
            messages = [Message("system", system)] if system else []
            tokens = encoder.encode_messages([*messages, Message("user", text)])
        with Session(opened, context_options) as session, interruptible() as cancelled:
            answer = session.generate(
                tokens, generation, on_text=None if json else show, cancelled=cancelled.is_set
            )
    _print_answer(answer, json=json)


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
    kv_type: options.KvType = "F16",
    ubatch: options.Ubatch = 512,
    ram: options.UsableRam = None,
    threads: options.Threads = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print each exchange as one line of JSON.")
    ] = False,
) -> None:
    """Chat in the terminal, offline. Type /help there for its commands.

    Ctrl-C stops the answer; at the prompt, Ctrl-D or /quit ends the chat.

    Examples:
        edgeslm chat model.gguf
        edgeslm chat packed/ --system 'You answer in one sentence.'
    """
    from edgeslm.cli.terminal import Terminal
    from edgeslm.llama.sampler import SamplingOptions
    from edgeslm.runtime.chat import Conversation
    from edgeslm.runtime.generation import GenerationOptions
    from edgeslm.runtime.prompt import PromptEncoder
    from edgeslm.runtime.session import Session

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
    generation = GenerationOptions(max_tokens, sampling=sampling)
    wishes = _context_options(context, kv_type, ubatch, threads)
    context_options = fitted(model, wishes, ram, given(invocation))
    with _open(model) as opened, Session(opened, context_options) as session:
        encoder = PromptEncoder(opened, None if template is None else read_text(template))
        encoder.require_template()
        _warn_beyond_training(opened, context_options.length)
        conversation = Conversation(session, encoder, system=system)
        Terminal(conversation, generation, json_lines=json).loop()


COMMANDS = (run, chat)


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


def _open(path: Path) -> Model:
    from edgeslm.bundle.model_path import find_model
    from edgeslm.llama.model import Model

    return Model(find_model(path))


def _continues_text(encoder: PromptEncoder, system: str | None) -> bool:
    """Whether the model has no chat template, which the user is told."""
    if encoder.has_template:
        return False
    if system:
        encoder.require_template()
    output.warn("this model has no chat template: it continues the text, as with --raw")
    return True


def _warn_beyond_training(model: Model, context: int) -> None:
    if context > model.trained_context_length:
        output.warn(
            f"the model was trained for {model.trained_context_length} tokens, "
            f"not for a context of {context}"
        )


def _context_options(
    context: int, kv_type: str, ubatch: int, threads: int | None
) -> ContextOptions:
    from edgeslm.llama.context import ContextOptions
    from edgeslm.runtime.governor import default_threads

    return ContextOptions(
        length=context,
        kv_type=kv_type.upper(),
        ubatch=ubatch,
        threads=default_threads() if threads is None else threads,
    )


def _prompt_text(prompt: str | None) -> str:
    if prompt == "-" or (prompt is None and not sys.stdin.isatty()):
        prompt = sys.stdin.buffer.read().decode("utf-8", "replace")
    if not prompt or not prompt.strip():
        raise InvalidOption("the prompt is empty", hint="Say something: -p 'Hello'")
    return prompt


def _print_answer(answer: Generation, *, json: bool) -> None:
    if json:
        output.print_json(
            {
                **to_json(answer),
                "prefill_tokens_per_second": answer.prefill_tokens_per_second,
                "decode_tokens_per_second": answer.decode_tokens_per_second,
            }
        )
    else:
        print(flush=True)
        print(statistics_line(answer), file=sys.stderr)
    if answer.finish_reason.value == "cancelled":
        raise KeyboardInterrupt
