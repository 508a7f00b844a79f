"""One conversation with a model: prefill what is new, decode until it ends, count the time.

The KV cache keeps the previous prompt and answer; the next prompt is compared with it and
only what differs is computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from edgeslm.errors import InvalidOption, UserError
from edgeslm.llama.closing import Closing
from edgeslm.llama.context import Context, ContextOptions, DecodeAborted
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import Sampler, SamplingOptions
from edgeslm.runtime.text import TextStream

OnText = Callable[[str], None]
Cancelled = Callable[[], bool]


class FinishReason(str, Enum):
    """Why an answer ended."""

    STOP = "stop"
    """The model ended it, or a stop string came."""
    LENGTH = "length"
    """The number of tokens asked for, or the context, was used up."""
    CANCELLED = "cancelled"
    """The user stopped it."""


@dataclass(frozen=True)
class GenerationOptions:
    """How to generate.

    Attributes:
        max_tokens: Most tokens to generate; None generates until the context is full.
        stops: Strings that end the answer.
        sampling: How each token is chosen.
    """

    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidOption(
                f"tokens must be at least 1, not {self.max_tokens}",
                hint="Leave -n out to generate until the model ends its answer.",
            )


@dataclass(frozen=True)
class Generation:
    """An answer and what it took.

    Attributes:
        text: The answer.
        tokens: Its token ids, without the one that ended it.
        finish_reason: Why it ended.
        prompt_tokens: Tokens of the prompt, computed or reused.
        reused_tokens: How many of them were still in the KV cache.
        prefill_seconds: Time to compute the others, until the first token could be sampled.
        decode_seconds: Time from the first sampled token to the last.
        seed: The seed that repeats this answer.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    reused_tokens: int
    prefill_seconds: float
    decode_seconds: float
    seed: int

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """Speed over the tokens that were computed; None if there is nothing to divide."""
        computed = self.prompt_tokens - self.reused_tokens
        return computed / self.prefill_seconds if self.prefill_seconds and computed else None

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Speed after the first token, which belongs to prefill; None for fewer than two."""
        steps = len(self.tokens) - 1
        return steps / self.decode_seconds if self.decode_seconds and steps > 0 else None


class Session(Closing):
    """A model with a context of its own. Close it, or use it as a context manager.

    Args:
        model: Stays open, and is not closed, by the session.
        options: Size and shape of the context.
    """

    def __init__(self, model: Model, options: ContextOptions) -> None:
        if not model.can_generate:
            raise UserError(
                f"{model.path}: this is an embedding model, it generates no text",
                hint="Choose a language model.",
            )
        self.model = model
        self.context = Context(model, options)
        self._cached: list[int] = []

    def close(self) -> None:
        """Free the context."""
        self.context.close()

    def generate(
        self,
        prompt: Sequence[int],
        options: GenerationOptions,
        *,
        on_text: OnText | None = None,
        cancelled: Cancelled | None = None,
    ) -> Generation:
        """Continue `prompt`.

        Args:
            prompt: Token ids, at least one.
            options: How to generate.
            on_text: Called with each piece of text as soon as it is certain.
            cancelled: Asked between tokens, and during prefill; True ends the answer.

        Raises:
            UserError: the prompt is empty or does not fit into the context.
            NativeFailure: llama.cpp failed.
        """
        self._check(prompt)
        sampler = Sampler(self.model, options.sampling)
        try:
            return self._generate(prompt, options, sampler, on_text, cancelled)
        except BaseException:
            self._reset()
            raise
        finally:
            sampler.close()

    def _generate(
        self,
        prompt: Sequence[int],
        options: GenerationOptions,
        sampler: Sampler,
        on_text: OnText | None,
        cancelled: Cancelled | None,
    ) -> Generation:
        started = time.perf_counter()
        reused = self._reuse(prompt)
        answer = _Answer(options.stops, on_text)
        first = last = started
        try:
            self.context.prefill(prompt[reused:], reused, cancelled=cancelled)
            self._cached = list(prompt)
            token = sampler.sample(self.context)
            first = last = time.perf_counter()
            reason = self._decode(token, options, sampler, answer, cancelled)
            last = time.perf_counter()
        except DecodeAborted:
            self._reset()
            reason = FinishReason.CANCELLED
            first = last = time.perf_counter()
        answer.finish()
        return Generation(
            text=answer.text,
            tokens=tuple(answer.tokens),
            finish_reason=reason,
            prompt_tokens=len(prompt),
            reused_tokens=reused,
            prefill_seconds=first - started,
            decode_seconds=last - first,
            seed=sampler.seed,
        )

    def _decode(
        self,
        token: int,
        options: GenerationOptions,
        sampler: Sampler,
        answer: _Answer,
        cancelled: Cancelled | None,
    ) -> FinishReason:
        """Sample and decode until something ends the answer, starting with `token`."""
        room = self.context.length - len(self._cached)
        limit = min(options.max_tokens or room, room)
        while not self.model.ends_generation(token):
            answer.add(token, self.model.token_bytes(token))
            if answer.stopped:
                return FinishReason.STOP
            if len(answer.tokens) >= limit:
                return FinishReason.LENGTH
            if cancelled is not None and cancelled():
                return FinishReason.CANCELLED
            self.context.step(token, len(self._cached))
            self._cached.append(token)
            token = sampler.sample(self.context)
        return FinishReason.STOP

    def _check(self, prompt: Sequence[int]) -> None:
        if not prompt:
            raise UserError("the prompt is empty", hint="Say something with -p.")
        if len(prompt) >= self.context.length:
            raise UserError(
                f"the prompt has {len(prompt)} tokens and the context holds {self.context.length}",
                hint="Shorten it, or give a longer --context.",
            )

    def _reuse(self, prompt: Sequence[int]) -> int:
        """Cut the cache back to what it shares with `prompt`; how many tokens that is.

        At least one token is left to compute, since its logits are needed.
        """
        shared = 0
        for cached, wanted in zip(self._cached, prompt[:-1], strict=False):
            if cached != wanted:
                break
            shared += 1
        if shared == len(self._cached) or (shared and self.context.forget(shared)):
            self._cached = self._cached[:shared]
            return shared
        self._reset()
        return 0

    def _reset(self) -> None:
        self.context.forget()
        self._cached = []


class _Answer:
    """Collects the tokens and text of an answer and passes the text on."""

    def __init__(self, stops: tuple[str, ...], on_text: OnText | None) -> None:
        self._stream = TextStream(stops)
        self._on_text = on_text
        self._parts: list[str] = []
        self.tokens: list[int] = []

    @property
    def text(self) -> str:
        return "".join(self._parts)

    @property
    def stopped(self) -> bool:
        return self._stream.stopped

    def add(self, token: int, data: bytes) -> None:
        self.tokens.append(token)
        self._emit(self._stream.feed(data))

    def finish(self) -> None:
        self._emit(self._stream.finish())

    def _emit(self, text: str) -> None:
        if text:
            self._parts.append(text)
            if self._on_text is not None:
                self._on_text(text)
