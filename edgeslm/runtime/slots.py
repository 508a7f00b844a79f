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
        dropped: How many tokens of the job were dropped after those, to make room.
        most: How many tokens the cache has held of it at once, so far.
    """

    sequence: int
    cached: list[int] = field(default_factory=list)
    job: Job | None = None
    adapter: Adapter | None = None
    exact: int | None = None
    dropped: int = 0
    most: int = 0

    @property
    def held(self) -> int:
        """Up to which token of the job nothing is left to compute."""
        return len(self.cached) + self.dropped

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
        draft: The last of them, if they are guesses that the answer may go on with.
    """

    slot: Slot
    tokens: tuple[int, ...]
    ends: bool
    rows: int
    draft: tuple[int, ...] = ()


def next_shares(slots: Sequence[Slot], capacity: int, rows: int) -> list[Share]:
    """What to compute next.

    Answers go on first, by a token each. What is left goes to prompts: equal parts for all, and
    what a short one does not need to the others. llama.cpp computes together what neighbours have
    equally many tokens of, so they come in the order of their sequences.

    Args:
        slots: All of them, in the order of their sequences.
        capacity: Most tokens; at least as many as there are slots.
        rows: Most tokens after which logits are wanted; at least as many as there are slots.
    """
    rests = [(slot, slot.job.rest(slot.held)) for slot in slots if slot.job is not None]
    shares = [Share(slot, rest, ends=True, rows=1) for slot, rest in rests if _goes_on(slot, rest)]
    if len(shares) == len(rests):
        return shares
    left = capacity - len(shares)
    rests = [(slot, rest) for slot, rest in rests if not _goes_on(slot, rest)]
    rests.sort(key=lambda rest: len(rest[1]))
    rows -= len(shares) + len(rests)  # one for each, whether it comes to its end or not
    for index, (slot, rest) in enumerate(rests):
        scored = _is_scored(slot)
        most = left // (len(rests) - index)
        part = rest[: min(most, rows + 1) if scored else most]
        ends = slot.job is not None and slot.held + len(part) == slot.job.length
        left -= len(part)
        if scored:
            rows -= len(part) - 1
        shares.append(Share(slot, part, ends, rows=len(part) if scored else int(ends)))
    return sorted(shares, key=lambda share: share.slot.sequence)


def _goes_on(slot: Slot, rest: Sequence[int]) -> bool:
    """Whether its answer only lacks its last token in the cache."""
    return slot.job is not None and slot.job.answering and len(rest) == 1


def _is_scored(slot: Slot) -> bool:
    job = slot.job
    return job is not None and job.options.score_prompt and not job.answering
