"""A beginning that another slot holds: copied from there where that is less work than computing.

Each slot's tokens lie in a part of the cache that no other can see. llama.cpp gives all that a slot
holds, in one piece, so a few tokens at the beginning of a long text may cost more to copy than to
compute; and the piece is memory beyond the cache's, for a moment.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeslm.llama.context import Context
from edgeslm.llama.state import can_copy_beginning, copy_beginning, state_bytes
from edgeslm.runtime.slots import Slot

_BYTES_PER_WEIGHT = 1 / 64
"""Bytes of the source's state that are copied, by weights that one token less is multiplied with.
Both took equally long at 1 / 40: 30 ms for 22.6 MB and 4.5 ms for a token (SmolLM2 Q4_1, F16 cache,
two threads of an EPYC)."""
_SMALL = 8 << 20
"""Bytes that may be taken at any time."""


class Sharing:
    """Copies between the slots of one context.

    Args:
        context: Theirs.
        slots: All of them.
    """

    def __init__(self, context: Context, slots: Sequence[Slot]) -> None:
        self._context = context
        self._slots = slots
        self._length = context.length // len(slots)

    def pays(self, source: Slot, count: int, gained: int) -> bool:
        """Whether to copy from `source`.

        Args:
            source: A slot that holds the beginning.
            count: Tokens of it.
            gained: How many of them would have to be computed otherwise.
        """
        held = len(source.cached)
        if gained <= 0 or not can_copy_beginning(self._context, held, count):
            return False
        size = state_bytes(self._context, source.sequence)
        return size <= _BYTES_PER_WEIGHT * self._context.model.parameters * gained and (
            size <= _SMALL or held + count <= self._untouched()
        )

    def copy(self, source: Slot, target: Slot, count: int) -> bool:
        """Have the empty `target` hold the first `count` tokens of `source`; False if it cannot."""
        done = copy_beginning(self._context, source.sequence, target.sequence, count)
        if done:
            target.cached = source.cached[:count]
            target.most = max(target.most, count)
        return done

    def _untouched(self) -> int:
        """Tokens for which the cache has not yet taken the memory that is planned for it."""
        if not self._context.options.as_it_fills:
            return 0
        return sum(self._length - slot.most for slot in self._slots)
