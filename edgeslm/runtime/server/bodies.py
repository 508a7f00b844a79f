"""What clients get, field by field."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

Finish = Literal["stop", "length", "tool_calls"]


class PromptDetails(Struct):
    """Of the prompt's tokens, those that were not computed again."""

    cached_tokens: int


class Usage(Struct):
    """Tokens that a request took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | UnsetType = UNSET


class Timings(Struct):
    """Measured for one answer, in milliseconds and tokens per second."""

    prompt_n: int
    prompt_ms: float
    prompt_per_second: float | None
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float | None


class TopLogprob(Struct):
    """A token that might have come."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Struct):
    """A token that came."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    """How likely the tokens of an answer were."""

    content: list[TokenLogprob]


class TextLogprobs(Struct):
    """The same in the form of /v1/completions; `text_offset` counts characters."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Function(Struct):
    """What is called, and with what, as JSON."""

    name: str
    arguments: str


class Call(Struct):
    """A call that the client is asked to carry out."""

    id: str
    function: Function
    type: str = "function"
    index: int | UnsetType = UNSET


class Answer(Struct):
    """An answer in a conversation."""

    content: str | None
    role: str = "assistant"
    tool_calls: list[Call] | UnsetType = UNSET


class ChatChoice(Struct):
    """One of the answers."""

    index: int
    message: Answer
    finish_reason: Finish
    logprobs: ChatLogprobs | None = None


class Chat(Struct):
    """The answer of /v1/chat/completions."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings
    object: str = "chat.completion"
    system_fingerprint: str = ""


class Delta(Struct):
    """What is new in an answer."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[Call] | UnsetType = UNSET


class ChatChunkChoice(Struct):
    """A piece of one of the answers."""

    index: int
    delta: Delta
    finish_reason: Finish | None = None
    logprobs: ChatLogprobs | None = None


class ChatChunk(Struct):
    """A piece of a stream of /v1/chat/completions."""

    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    timings: Timings | UnsetType = UNSET
    object: str = "chat.completion.chunk"
    system_fingerprint: str = ""


class TextChoice(Struct):
    """One of the continuations, or a piece of it."""

    index: int
    text: str
    finish_reason: Finish | None
    logprobs: TextLogprobs | None = None


class Completion(Struct):
    """The answer of /v1/completions, or a piece of its stream."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | UnsetType | None = UNSET
    timings: Timings | UnsetType = UNSET
    object: str = "text_completion"
    system_fingerprint: str = ""


class Embedding(Struct):
    """A vector; in base64, its little-endian 32-bit floats."""

    index: int
    embedding: list[float] | str
    object: str = "embedding"


class EmbeddingUsage(Struct):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Struct):
    """The answer of /v1/embeddings."""

    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
    object: str = "list"


class ModelCard(Struct):
    """A model that can be asked."""

    id: str
    created: int
    context_length: int
    owned_by: str = "edgeslm"
    object: str = "model"


class ModelList(Struct):
    """The answer of /v1/models."""

    data: list[ModelCard]
    object: str = "list"


class Problem(Struct):
    """What is wrong, in OpenAI's form."""

    message: str
    type: str
    code: str | None = None
    param: str | None = None


class ProblemBody(Struct):
    """The body of every answer that is an error."""

    error: Problem


class Health(Struct):
    """Whether the server answers."""

    status: str
