"""What is asked of a model, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Literal, get_args

from edgeslm.errors import InvalidOption
from edgeslm.llama.adapter import Adapter
from edgeslm.llama.sampler import SamplingOptions

OnText = Callable[[str], None]
Cancelled = Callable[[], bool]
Speculate = Literal["auto", "on", "off", "always"]
MOST_ALTERNATIVES = 100


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
        scores: Score the answer's tokens, with so many alternatives each; None scores nothing.
        score_prompt: Score the prompt's tokens too. Nothing of it is then taken from the cache.
        keep: With how many tokens of the prompt other prompts begin as well. Their state may be
            kept on disk, and they stay where the context is full.
        shift: When the context is full, drop the older half of what follows those, and go on.
            Without `max_tokens` an answer ends after as many tokens as the context has.
        adapter: What changes the model for this answer.
        speculate: Whether tokens may be guessed ahead and computed together: "on" where that
            measures faster, "auto" the same but never where the same answer is expected again (a
            seed, or temperature 0), "off", or "always" as far as there are guesses.
    """

    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    scores: int | None = None
    score_prompt: bool = False
    keep: int = 0
    shift: bool = False
    adapter: Adapter | None = None
    speculate: Speculate = "auto"

    @cached_property
    def may_guess(self) -> bool:
        """Whether tokens may be guessed ahead.

        Who gives a seed, or temperature 0, expects the same answer again. How many tokens are
        computed together depends on how long that takes, and some kernels round differently by it:
        then nothing is guessed by itself.
        """
        repeatable = self.sampling.seed is not None or self.sampling.temperature == 0
        return self.speculate in ("on", "always") or (self.speculate == "auto" and not repeatable)

    def __post_init__(self) -> None:
        if self.speculate not in get_args(Speculate):
            raise InvalidOption(
                f"speculate is {self.speculate!r}",
                hint=f"One of: {', '.join(get_args(Speculate))}.",
            )
        if self.scores is not None and not 0 <= self.scores <= MOST_ALTERNATIVES:
            raise InvalidOption(
                f"{self.scores} alternatives for each token", hint=f"0 to {MOST_ALTERNATIVES}."
            )
        least = 0 if self.score_prompt else 1
        if self.max_tokens is not None and self.max_tokens < least:
            raise InvalidOption(
                f"tokens must be at least {least}, not {self.max_tokens}",
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
        drafted_tokens: Tokens that were guessed ahead and computed.
        accepted_tokens: How many of them were right.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    reused_tokens: int
    prefill_seconds: float
    decode_seconds: float
    seed: int
    drafted_tokens: int = 0
    accepted_tokens: int = 0

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
