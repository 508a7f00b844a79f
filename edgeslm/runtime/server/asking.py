"""From a client's request to what an engine is asked: prompts as token ids, and options."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgeslm.errors import InvalidOption
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.generation import GenerationOptions
from edgeslm.runtime.messages import Message, ToolCall
from edgeslm.runtime.schema import grammar_of_schema
from edgeslm.runtime.server import wire
from edgeslm.runtime.server.hosted import Served
from edgeslm.runtime.tools import Tool, grammar_of_calls, spelled_out

_DEFAULT_COMPLETION = 16
"""Tokens, as OpenAI's API has it."""


@dataclass(frozen=True)
class Prompt:
    """Something to be continued.

    Attributes:
        tokens: As the model reads them.
        said: How many of them the client knows of: without a token that begins every text.
        text: What an echo says.
    """

    tokens: tuple[int, ...]
    said: int
    text: str = ""


@dataclass(frozen=True)
class Asked:
    """What an engine is asked for one request.

    Attributes:
        prompts: Each gets `choices` answers.
        options: For every answer; a seed is the first one's.
        choices: Answers to each prompt.
        tools: What the answer may call.
        echo: Whether answers begin with their prompts.
    """

    prompts: tuple[Prompt, ...]
    options: GenerationOptions
    choices: int = 1
    tools: tuple[Tool, ...] = ()
    echo: bool = False

    def each(self) -> list[tuple[Prompt, GenerationOptions]]:
        """All answers in their order: those to the first prompt first."""
        return [
            (prompt, replace(self.options, sampling=_seeded(self.options.sampling, choice)))
            for prompt in self.prompts
            for choice in range(self.choices)
        ]


def read_chat(hosted: Served, request: wire.ChatRequest) -> Asked:
    """What a conversation asks for.

    Raises:
        UserError: it cannot be answered.
    """
    tools, must_call = _tools(request)
    messages = _messages(request.messages)
    if hosted.options.system and not any(message.role == "system" for message in messages):
        messages.insert(0, Message("system", hosted.options.system))
    encoder = hosted.encoder
    described = [tool.described() for tool in tools] if encoder.knows_tools else []
    if not encoder.knows_tools:
        messages = spelled_out(messages, tools)
    tokens = encoder.encode_messages(messages, described)
    if request.top_logprobs and not request.logprobs:
        raise InvalidOption("top_logprobs without logprobs", hint="Set logprobs to true.")
    most = request.max_completion_tokens or request.max_tokens
    options = GenerationOptions(
        most,
        _stops(request),
        _sampling(hosted, request, _chat_grammar(request, tools if must_call else ())),
        scores=(request.top_logprobs or 0) if request.logprobs else None,
        keep=encoder.beginning(tokens, messages, described) if len(tokens) < hosted.length else 0,
        shift=most is not None,
        adapter=hosted.adapter,
        speculate=hosted.options.speculate,
    )
    return Asked((Prompt(tuple(tokens), len(tokens)),), options, request.n or 1, tools)


def read_completion(hosted: Served, request: wire.CompletionRequest) -> Asked:
    """What a text, or several, to be continued ask for.

    Raises:
        UserError: they cannot be continued.
    """
    choices, echo = request.n or 1, bool(request.echo)
    if request.suffix:
        raise InvalidOption("suffix is not supported", hint="Put all you know into the prompt.")
    if request.best_of not in (None, choices):
        raise InvalidOption("best_of is not supported", hint="Use n.")
    prompts = tuple(_read_prompt(hosted.model, prompt) for prompt in _several(request.prompt))
    if len(prompts) * choices > wire.MOST_PROMPTS:
        raise InvalidOption(
            f"{len(prompts) * choices} answers to one request",
            hint=f"{wire.MOST_PROMPTS} are the most.",
        )
    most = _DEFAULT_COMPLETION if request.max_tokens is None else request.max_tokens
    if most == 0 and not echo:
        raise InvalidOption("max_tokens is 0", hint="With echo, 0 gives the prompt alone.")
    options = GenerationOptions(
        most,
        _stops(request),
        _sampling(hosted, request, request.grammar),
        scores=request.logprobs,
        score_prompt=echo and (request.logprobs is not None or most == 0),
        adapter=hosted.adapter,
        speculate=hosted.options.speculate,
    )
    return Asked(prompts, options, choices, echo=echo)


def read_texts(hosted: Served, request: wire.EmbeddingRequest) -> list[tuple[int, ...]]:
    """Token ids of the texts that are to become vectors.

    Raises:
        UserError: they cannot.
    """
    if request.dimensions not in (None, hosted.model.hidden_size):
        raise InvalidOption(
            f"dimensions must be {hosted.model.hidden_size} with this model", hint="Leave it out."
        )
    return [_read_prompt(hosted.model, text).tokens for text in _several(request.input)]


def _several(given: str | Sequence[str | int | list[int]]) -> list[str | list[int]]:
    """Texts or lists of token ids."""
    if isinstance(given, str):
        return [given]
    numbers = [each for each in given if isinstance(each, int)]
    if numbers:
        if len(numbers) != len(given):
            raise InvalidOption("token ids are mixed with others", hint="Give one list of ids.")
        return [numbers]
    several = [each for each in given if not isinstance(each, int)]
    if len(several) > wire.MOST_PROMPTS:
        raise InvalidOption(
            f"{len(several)} texts in one request", hint=f"{wire.MOST_PROMPTS} are the most."
        )
    return several


def _read_prompt(model: Model, given: str | list[int]) -> Prompt:
    if isinstance(given, str):
        tokens = model.tokenize(given, add_special=True)
        begins = model.adds_bos and tokens[:1] == [model.bos]
        return Prompt(tuple(tokens), len(tokens) - begins, given)
    for token in given:
        if token >= model.vocabulary_size:
            raise InvalidOption(
                f"there is no token {token}", hint=f"Ids go up to {model.vocabulary_size - 1}."
            )
    return Prompt(tuple(given), len(given), model.detokenize(given))


def _messages(given: Sequence[wire.ChatMessage]) -> list[Message]:
    return [
        Message(
            "system" if message.role == "developer" else message.role,
            _content(message.content),
            tuple(
                ToolCall(call.function.name, call.function.arguments, call.id)
                for call in message.tool_calls or ()
            ),
            message.name,
            message.tool_call_id,
        )
        for message in given
    ]


def _content(content: str | list[wire.ContentPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type != "text":
            raise InvalidOption(f"a part of type {part.type!r}", hint="Only text is understood.")
    return "".join(part.text or "" for part in content)


def _tools(request: wire.ChatRequest) -> tuple[tuple[Tool, ...], bool]:
    """What may be called, and whether it must be."""
    choice = request.tool_choice
    offered = tuple(
        Tool(tool.function.name, tool.function.description or "", tool.function.parameters or {})
        for tool in request.tools or ()
    )
    if choice == "none":
        return (), False
    if isinstance(choice, wire.ToolChoice):
        offered = tuple(tool for tool in offered if tool.name == choice.function.name)
    must = choice not in (None, "auto")
    if must and not offered:
        raise InvalidOption("tool_choice names no tool that is offered", hint="List it in tools.")
    return offered, must


def _chat_grammar(request: wire.ChatRequest, must_call: Sequence[Tool]) -> str | None:
    schema = _answer_schema(request.response_format)
    asked = [bool(must_call), schema is not None, request.grammar is not None]
    if sum(asked) > 1:
        raise InvalidOption(
            "an answer cannot follow two forms", hint="A tool, a response_format, or a grammar."
        )
    if must_call:
        return grammar_of_calls(must_call)
    return request.grammar if schema is None else grammar_of_schema(json.dumps(schema))


def _answer_schema(form: wire.ResponseFormat | None) -> dict[str, Any] | None:
    """The JSON schema that the whole answer fits, if any."""
    if form is None or form.type == "text":
        return None
    if form.json_schema is not None:
        return form.json_schema.schema
    if form.type == "json_object":
        return {"type": "object"}
    raise InvalidOption("response_format has no json_schema", hint="Give the schema.")


def _sampling(hosted: Served, request: wire.Request, grammar: str | None) -> SamplingOptions:
    given = {
        name: value
        for name in (
            *("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty"),
            *("frequency_penalty", "dry_multiplier", "xtc_probability"),
        )
        if (value := getattr(request, name)) is not None
    }
    if request.grammar is not None and not hosted.options.grammars:
        raise InvalidOption(
            "grammars are not accepted here",
            hint="Give a JSON schema in response_format, or serve with --allow-grammars.",
        )
    seed = None if request.seed is None else request.seed % 2**32
    biases = tuple(_bias(*item) for item in (request.logit_bias or {}).items())
    return replace(hosted.options.sampling, **given, seed=seed, logit_bias=biases, grammar=grammar)


def _bias(token: str, bias: float) -> tuple[int, float]:
    if not token.isascii() or not token.isdigit() or len(token) > 9:
        raise InvalidOption(f"logit_bias of {token[:40]!r}", hint="Its keys are token ids.")
    return int(token), bias


def _stops(request: wire.Request) -> tuple[str, ...]:
    stop = request.stop
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _seeded(sampling: SamplingOptions, choice: int) -> SamplingOptions:
    if sampling.seed is None or not choice:
        return sampling
    return replace(sampling, seed=(sampling.seed + choice) % 2**32)
