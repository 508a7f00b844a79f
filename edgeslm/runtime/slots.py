"""Places in the KV cache where answers grow, and which of their tokens to compute next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeslm.llama.adapter import Adapter
from edgeslm.runtime.job import Job


@dataclass
class Slot:
    """One sequence of the KV cache.

    Attributes:
        sequence: Its number there.
        cached: The tokens that the cache holds of it, in their positions.
        job: What is answered there; None while it waits with what it holds.
        adapter: What changed the model while it computed them.
        exact: How many of them were computed with nothing but those before them; None for all.
    """

    sequence: int
    cached: list[int] = field(default_factory=list)
    job: Job | None = None
    adapter: Adapter | None = None
    exact: int | None = None

    def overlap(self, prompt: Sequence[int], adapter: Adapter | None = None) -> int:
        """How many of the cached tokens `prompt` begins with, of use to those with `adapter`.

        At least one token of it is left to compute, since its logits are needed.
        """
        if adapter is not self.adapter:
            return 0
        shared = common(self.cached, prompt[:-1])
        return shared if self.exact is None else min(shared, self.exact)


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """With how many equal tokens both begin."""
    shared = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        shared += 1
    return shared


@dataclass(frozen=True)
class Share:
    """Tokens of one slot in the next batch, at the positions after what it holds.

    Attributes:
        slot: Whose.
        tokens: Which.
        ends: Whether its next token can be chosen after them.
        rows: After how many of the last of them the logits are wanted.
    """

    slot: Slot
    tokens: tuple[int, ...]
    ends: bool
    rows: int


def next_shares(slots: Sequence[Slot], capacity: int, rows: int) -> list[Share]:
    """What to compute next.

    Answers go on first, by a token each. What is left goes to prompts: equal parts for all, and
    what a short one does not need to the others.

    Args:
        slots: All of them.
        capacity: Most tokens; at least as many as there are slots.
        rows: Most tokens after which logits are wanted; at least as many as there are slots.
    """
    busy = [slot for slot in slots if slot.job is not None]
    shares = [
        Share(slot, (slot.job.last_token,), ends=True, rows=1)
        for slot in busy
        if slot.job is not None and slot.job.answering
    ]
    left = capacity - len(shares)
    rests = [
        (slot, slot.job.next_tokens(len(slot.cached)))
        for slot in busy
        if slot.job is not None and not slot.job.answering
    ]
    rests.sort(key=lambda rest: len(rest[1]))
    rows -= len(shares) + len(rests)  # one for each, whether it comes to its end or not
    for index, (slot, rest) in enumerate(rests):
        scored = slot.job is not None and slot.job.options.score_prompt
        most = left // (len(rests) - index)
        part = rest[: min(most, rows + 1) if scored else most]
        ends = slot.job is not None and len(slot.cached) + len(part) == len(slot.job.prompt)
        left -= len(part)
        if scored:
            rows -= len(part) - 1
        shares.append(Share(slot, part, ends, rows=len(part) if scored else int(ends)))
    return shares
