"""Slots with different adapters take turns; none waits for ever."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.runtime.slots import Slot
from edgeslm.runtime.turns import Turns


def _slot(number: int, adapter: Any, *, answering: bool = True) -> Slot:
    job: Any = SimpleNamespace(answering=answering)
    return Slot(number, job=job, adapter=adapter)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=8))
def test_each_turn_has_one_adapter_and_all_come_round(kinds: list[tuple[int, bool]]) -> None:
    adapters: list[Any] = [None, object(), object(), object()]
    slots = [
        _slot(number, adapters[kind], answering=answering)
        for number, (kind, answering) in enumerate(kinds)
    ]
    turns = Turns()
    waited = dict.fromkeys(range(len(slots)), 0)
    for _ in range(100):
        turn = turns.next([*slots, Slot(99)])
        assert turn
        assert len({slot.adapter for slot in turn}) == 1
        assert turn == [slot for slot in slots if slot.adapter is turn[0].adapter]
        for slot in slots:
            waited[slot.sequence] = 0 if slot in turn else waited[slot.sequence] + 1
        assert max(waited.values()) <= 8 * 3


def test_a_single_adapter_is_never_interrupted() -> None:
    slots = [_slot(0, None), _slot(1, None)]
    turns = Turns()
    assert all(turns.next(slots) == slots for _ in range(50))


def test_nobody_has_no_turn() -> None:
    turns = Turns()
    assert turns.next([Slot(0)]) == []
    slot = _slot(0, object())
    assert turns.next([slot]) == [slot]
