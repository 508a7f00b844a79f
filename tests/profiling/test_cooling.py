"""Waiting until a machine is as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgeslm.profiling.cooling import Reading, cool_down, is_rested, read_here
from edgeslm.profiling.remote import parse_reading


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def __call__(self) -> float:
        return self.now


def waited(readings: Iterator[Reading], before: Reading, most: float) -> float:
    clock = Clock()
    return cool_down(lambda: next(readings), before, most, clock.sleep, clock)


def test_it_waits_until_the_machine_is_cool() -> None:
    readings = iter([Reading(70, 0), Reading(60, 0), Reading(43, 0), Reading(99, 0)])
    assert waited(readings, Reading(42, 0), 100) == 4


def test_it_waits_until_others_are_done() -> None:
    readings = iter([Reading(None, 1.9), Reading(None, 0.05)])
    assert waited(readings, Reading(None, 0.0), 100) == 2


def test_it_waits_no_longer_than_it_may() -> None:
    assert waited(iter(lambda: Reading(90, 2), None), Reading(40, 0), 11) == 11
    assert waited(iter([]), Reading(40, 0), 0) == 0


@pytest.mark.parametrize(
    ("now", "before", "rested"),
    [
        (Reading(None, None), Reading(40, 0), True),
        (Reading(90, 2), Reading(None, None), True),
        (Reading(43, 0.1), Reading(40, 0.0), True),
        (Reading(43.5, 0), Reading(40, 0), False),
        (Reading(40, 0.3), Reading(40, 0.1), False),
        (Reading(40, 1.0), Reading(60, 1.5), True),
    ],
)
def test_rested(now: Reading, before: Reading, rested: bool) -> None:
    assert is_rested(now, before) is rested


def test_this_machine_can_be_read() -> None:
    reading = read_here()
    assert reading.busy_cores is None or reading.busy_cores >= 0


def test_what_a_board_answers() -> None:
    text = (
        "52100\n-274000\n48000\n--\n"
        "cpu0 100 0 50 9000 5 0 1 0 0 0\ncpu1 100 0 50 9000 5 0 1 0 0 0\n"
        "--\ncpu0 190 0 55 9010 5 0 1 0 0 0\ncpu1 100 0 50 9100 5 0 1 0 0 0\n"
    )
    reading = parse_reading(text)
    assert reading.celsius == 52.1
    assert reading.busy_cores == pytest.approx(0.95)


@pytest.mark.parametrize(
    "text", ["", "--\n--\n", "x\n--\ncpu0 a b\n--\ncpu0 1 2 3 4 5\n", "47000\n"]
)
def test_what_another_system_answers(text: str) -> None:
    assert parse_reading(text) == Reading(None, None)
