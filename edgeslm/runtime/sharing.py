"""A beginning that another slot holds: copied from there where that is less work than computing.

Each slot's tokens lie in a part of the cache that no other can see. llama.cpp gives all that a slot
holds, in one piece, so a few tokens at the beginning of a long text may cost more to copy than to
compute; and the piece is memory beyond the cache's, for a moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeslm.estimate.work import prompt_weights
from edgeslm.llama.context import Context
from edgeslm.llama.state import (
    can_take_beginning,
    restore_state,
    state_bytes,
    take_beginning,
)
from edgeslm.runtime.slots import Slot

_BYTES_PER_WEIGHT = 1 / 50
"""Bytes of the source's state that are copied, by weights that one token less is multiplied with.
Both took equally long at 1 / 31: 30 ms for 22.6 MB and 4.5 ms for a token (SmolLM2 Q4_1, F16 cache,
two threads of an EPYC)."""
_SMALL = 8 << 20
"""Bytes that may be taken at any time."""


@dataclass(frozen=True)
class Taken:
    """Tokens that a slot holds, and their state."""

    tokens: list[int]
    state: memoryview


class Sharing:
    """Copies between the slots of one context.

    Args:
        context: Theirs.
        slots: All of them.
    """

    def __init__(self, context: Context, slots: Sequence[Slot]) -> None:
        self._context = context
        self._slots = slots
        self._length = context.sequence_length
        self._weights = prompt_weights(context.model.structure)
        self._possible = True

    def pays(self, source: Slot, count: int, gained: int) -> bool:
        """Whether to copy from `source`.

        Args:
            source: A slot that holds the beginning.
            count: Tokens of it.
            gained: How many of them would have to be computed otherwise.
        """
        held = len(source.cached)
        if not self._possible or gained <= 0:
            return False
        if not can_take_beginning(self._context, held, count):
            return False
        size = state_bytes(self._context, source.sequence)
        return size <= _BYTES_PER_WEIGHT * self._weights * gained and (
            size <= _SMALL or held + count <= self._untouched()
        )

    def take(self, source: Slot, count: int) -> Taken | None:
        """The first `count` tokens of `source`; None if that cannot be: then not tried again."""
        state = take_beginning(self._context, source.sequence, count)
        self._possible = state is not None
        return None if state is None else Taken(source.cached[:count], state)

    def give(self, taken: Taken, target: Slot) -> None:
        """Have the empty `target` hold what was taken, if it can be; otherwise not tried again."""
        self._possible = restore_state(self._context, target.sequence, taken.state)
        if self._possible:
            target.cached = taken.tokens
            target.most = max(target.most, len(taken.tokens))

    def _untouched(self) -> int:
        """Tokens for which the cache has not yet taken the memory that is planned for it."""
        if not self._context.options.as_it_fills:
            return 0
        return sum(self._length - slot.most for slot in self._slots)
