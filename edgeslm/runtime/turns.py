"""Who computes next where not all can do so together: an adapter changes a whole batch."""

from __future__ import annotations

from collections.abc import Sequence

from edgeslm.llama.adapter import Adapter
from edgeslm.runtime.slots import Slot

_STEPS = 8
"""Tokens of each answer before others have their turn: changing adapters takes time, too."""


class Turns:
    """Gives the slots of one adapter at a time, each adapter after those that wait longer."""

    def __init__(self) -> None:
        self._current: Adapter | None = None
        self._left = 0
        self._clock = 0
        self._served: dict[Adapter | None, int] = {}

    def next(self, slots: Sequence[Slot]) -> list[Slot]:
        """The slots whose jobs may share the next batch."""
        busy = [slot for slot in slots if slot.job is not None]
        waiting = {slot.adapter: None for slot in busy}
        if self._current not in waiting or (self._left <= 0 and len(waiting) > 1):
            oldest = min(waiting, key=lambda adapter: self._served.get(adapter, 0), default=None)
            self._current, self._left = oldest, _STEPS
        self._clock += 1
        self._left -= 1
        self._served[self._current] = self._clock
        turn = [slot for slot in busy if slot.adapter is self._current]
        if any(slot.job is not None and not slot.job.answering for slot in turn):
            self._left = 0  # a piece of a prompt takes as long as many steps
        return turn
