"""What clients send, field by field: the part of OpenAI's API that means something here.

Fields that are not named here are ignored, as clients send many that concern only a cloud.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

Text = Annotated[str, Meta(max_length=2_000_000)]
Name = Annotated[str, Meta(max_length=256)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-100, le=100)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Stops = Annotated[list[Text], Meta(max_length=16)]

MOST_CHOICES = 8
MOST_PROMPTS = 256


class StreamOptions(Struct):
    """What a stream holds besides the answer."""

    include_usage: bool = False


class Request(Struct, kw_only=True):
    """What all answers have in common.

    Those after `seed` are not OpenAI's: llama.cpp's server takes them by the same names.
    """

    model: Name = ""
    temperature: Annotated[float, Meta(ge=0, le=10)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Bias] | None = None
    stop: Text | Stops | None = None
    n: Annotated[int, Meta(ge=1, le=MOST_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: Seed | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, lt=1)] | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    dry_multiplier: Annotated[float, Meta(ge=0, le=100)] | None = None
    xtc_probability: Annotated[float, Meta(ge=0, le=1)] | None = None
    grammar: Text | None = None


class CompletionRequest(Request, kw_only=True):
    """POST /v1/completions: text, or token ids, to be continued.

    `prompt` is a text, a list of texts, a list of token ids, or a list of such lists.
    """

    prompt: Text | Annotated[list[Text | Token | list[Token]], Meta(min_length=1)]
    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: Text | None = None
    best_of: int | None = None


class ContentPart(Struct):
    """A part of a message; only text is understood."""

    type: Name
    text: Text | None = None


class CalledFunction(Struct):
    """The tool that a model called, and with what, as JSON."""

    name: Name
    arguments: Text = "{}"


class CalledTool(Struct):
    """A call in an assistant's message."""

    function: CalledFunction
    id: Name = ""
    type: Name = "function"


class ChatMessage(Struct):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[ContentPart] | None = None
    name: Name | None = None
    tool_calls: list[CalledTool] | None = None
    tool_call_id: Name | None = None


class OfferedFunction(Struct):
    """A tool that a model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    description: Text | None = None
    parameters: dict[str, Any] | None = None


class OfferedTool(Struct):
    """A tool."""

    function: OfferedFunction
    type: Literal["function"] = "function"


class ChosenFunction(Struct):
    """The tool that has to be called."""

    name: Name


class ToolChoice(Struct):
    """One tool, by its name."""

    function: ChosenFunction
    type: Literal["function"] = "function"


class Schema(Struct):
    """A JSON schema that the answer fits."""

    schema: dict[str, Any] = {}
    name: Name | None = None


class ResponseFormat(Struct):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None


class ChatRequest(Request, kw_only=True):
    """POST /v1/chat/completions: a conversation to be answered."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=10_000)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[OfferedTool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None


class EmbeddingRequest(Struct, kw_only=True):
    """POST /v1/embeddings: texts, or token ids, to become vectors."""

    input: Text | Annotated[list[Text | Token | list[Token]], Meta(min_length=1)]
    model: Name = ""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


def decoder(kind: type[Struct]) -> msgspec.json.Decoder[Any]:
    """Reads bodies of `kind`."""
    return msgspec.json.Decoder(kind)
