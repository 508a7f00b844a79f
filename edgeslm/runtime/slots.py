"""Places in the KV cache where answers grow, and which of their tokens to compute next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeslm.runtime.job import Job


@dataclass
class Slot:
    """One sequence of the KV cache.

    Attributes:
        sequence: Its number there.
        cached: The tokens that the cache holds of it, in their positions.
        job: What is answered there; None while it waits with what it holds.
    """

    sequence: int
    cached: list[int] = field(default_factory=list)
    job: Job | None = None

    def overlap(self, prompt: Sequence[int]) -> int:
        """How many of the cached tokens `prompt` begins with.

        At least one token of it is left to compute, since its logits are needed.
        """
        shared = 0
        for cached, wanted in zip(self.cached, prompt[:-1], strict=False):
            if cached != wanted:
                break
            shared += 1
        return shared


@dataclass(frozen=True)
class Share:
    """Tokens of one slot in the next batch, at the positions after what it holds.

    `ends` says that the logits after the last of them are wanted.
    """

    slot: Slot
    tokens: tuple[int, ...]
    ends: bool


def next_shares(slots: Sequence[Slot], capacity: int) -> list[Share]:
    """What to compute next, at most `capacity` tokens: at least as many as there are slots.

    Answers go on first, by a token each. What is left goes to prompts: equal parts for all, and
    what a short one does not need to the others.
    """
    busy = [slot for slot in slots if slot.job is not None]
    shares = [
        Share(slot, (slot.job.last_token,), ends=True)
        for slot in busy
        if slot.job is not None and slot.job.answering
    ]
    left = capacity - len(shares)
    rests = [
        (slot, slot.job.prompt[len(slot.cached) :])
        for slot in busy
        if slot.job is not None and not slot.job.answering
    ]
    rests.sort(key=lambda rest: len(rest[1]))
    for index, (slot, rest) in enumerate(rests):
        part = rest[: left // (len(rests) - index)]
        left -= len(part)
        shares.append(Share(slot, part, ends=len(part) == len(rest)))
    return shares
