"""From answers to the bodies that clients get."""

from __future__ import annotations

import base64
import codecs
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from edgeslm.llama.model import Model
from edgeslm.runtime.generation import FinishReason, Generation
from edgeslm.runtime.messages import ToolCall
from edgeslm.runtime.server import bodies
from edgeslm.runtime.token_scores import TokenScore


@dataclass(frozen=True)
class Heading:
    """What every body of one request begins with."""

    model: str
    id: str = field(default_factory=lambda: f"edgeslm-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))


def finish(answer: Generation, calls: Sequence[ToolCall] = ()) -> bodies.Finish:
    """Why it ended, in OpenAI's words; one that was cancelled ended early."""
    if calls:
        return "tool_calls"
    return "stop" if answer.finish_reason is FinishReason.STOP else "length"


def usage(answers: Sequence[Generation], choices: int) -> bodies.Usage:
    """Tokens of all answers; a prompt with several answers counts once."""
    prompt = sum(answer.prompt_tokens for answer in answers[::choices])
    cached = sum(answer.reused_tokens for answer in answers[::choices])
    completion = sum(len(answer.tokens) for answer in answers)
    details = bodies.PromptDetails(cached)
    return bodies.Usage(prompt, completion, prompt + completion, details)


def timings(answer: Generation) -> bodies.Timings:
    """How long one answer took."""
    return bodies.Timings(
        prompt_n=answer.prompt_tokens - answer.reused_tokens,
        prompt_ms=1000 * answer.prefill_seconds,
        prompt_per_second=answer.prefill_tokens_per_second,
        predicted_n=len(answer.tokens),
        predicted_ms=1000 * answer.decode_seconds,
        predicted_per_second=answer.decode_tokens_per_second,
    )


def calls(found: Sequence[ToolCall], *, numbered: bool = False) -> list[bodies.Call]:
    """Tool calls; in a stream they are numbered."""
    return [
        bodies.Call(
            call.id,
            bodies.Function(call.name, call.arguments),
            index=number if numbered else UNSET,
        )
        for number, call in enumerate(found)
    ]


def chat_logprobs(model: Model, scores: Sequence[TokenScore]) -> bodies.ChatLogprobs:
    """Scores in the form of /v1/chat/completions."""
    return bodies.ChatLogprobs([_token_logprob(model, each) for each in scores])


def _token_logprob(model: Model, scored: TokenScore) -> bodies.TokenLogprob:
    text, data = _spelling(model, scored.token)
    alternatives = []
    for token, logprob in scored.alternatives:
        other, other_data = _spelling(model, token)
        alternatives.append(bodies.TopLogprob(other, logprob, other_data))
    return bodies.TokenLogprob(text, scored.logprob, data, alternatives)


def _spelling(model: Model, token: int) -> tuple[str, list[int]]:
    data = model.token_bytes(token, special=True)
    return data.decode("utf-8", "replace"), list(data)


class TextLogprobsWriter:
    """Scores in the form of /v1/completions, whose tokens say where in the text they begin.

    Args:
        model: Whose tokens they are.
        listed: Whether alternatives were asked for.
    """

    def __init__(self, model: Model, *, listed: bool) -> None:
        self._model = model
        self._listed = listed
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, scores: Sequence[TokenScore | int]) -> bodies.TextLogprobs:
        """The next tokens; one that has no score, as nothing comes before it, is its id alone."""
        result = bodies.TextLogprobs([], [], [], [])
        for scored in scores:
            token = scored if isinstance(scored, int) else scored.token
            data = self._model.token_bytes(token, special=True)
            result.tokens.append(data.decode("utf-8", "replace"))
            result.text_offset.append(self._offset)
            self._offset += len(self._decoder.decode(self._model.token_bytes(token)))
            if isinstance(scored, int):
                result.token_logprobs.append(None)
                result.top_logprobs.append(None)
            else:
                result.token_logprobs.append(scored.logprob)
                result.top_logprobs.append(self._alternatives(scored) if self._listed else None)
        return result

    def _alternatives(self, scored: TokenScore) -> dict[str, float]:
        """By their text; of two with the same text, the likelier one."""
        found: dict[str, float] = {}
        for token, logprob in (*scored.alternatives, (scored.token, scored.logprob)):
            text = self._model.token_bytes(token, special=True).decode("utf-8", "replace")
            found.setdefault(text, logprob)
        return found


def embedding(vector: NDArray[np.float32], *, encoded: bool) -> list[float] | str:
    """A vector as numbers, or in base64."""
    if encoded:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]
