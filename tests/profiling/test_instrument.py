from __future__ import annotations

from collections.abc import Iterator

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.instrument import Instrument
from edgeslm.profiling.meters.base import Scope
from edgeslm.profiling.power import Stretch
from edgeslm.records import Provenance


class ListMeter:
    """Gives the readings of a list, and dies when there are no more."""

    name = "list"
    scope = Scope.BOARD
    provenance = Provenance.MEASURED
    source = "a list"

    def __init__(self, *readings: float, period_seconds: float = 0.1) -> None:
        self._readings: Iterator[float] = iter(readings)
        self.period_seconds = period_seconds

    def read_joules(self) -> float:
        for reading in self._readings:
            return reading
        raise MeasurementFailure("the list is at its end")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_stretch_lies_between_two_readings() -> None:
    clock = Clock()
    instrument = Instrument(ListMeter(3.0, 8.0), clock=clock)
    start = instrument.mark()
    clock.now = 2.0
    assert instrument.since(start, 10) == Stretch(5.0, 2.0, 10)


def test_a_meter_that_dies_is_not_asked_again() -> None:
    instrument = Instrument(ListMeter(3.0), clock=Clock())
    start = instrument.mark()
    assert instrument.failure is None
    assert instrument.since(start) is None
    assert instrument.failure == "the list is at its end"
    assert instrument.mark().joules is None
    assert not instrument.tells_idle_from_busy


def test_resting_gives_the_parts_of_a_baseline() -> None:
    clock = Clock()
    readings = [0.0, 4.0, 4.0, 8.0, 8.0, 12.0, 12.0, 16.0, 16.0, 20.0, 20.0]
    parts = Instrument(ListMeter(*readings), clock=clock).rest(10.0, sleep=clock.sleep)
    assert parts == (Stretch(4.0, 2.0),) * 5


def test_without_a_meter_there_is_nothing() -> None:
    instrument = Instrument(None)
    assert instrument.since(instrument.mark()) is None
    assert instrument.period_seconds == 0.0
    assert not instrument.tells_idle_from_busy
    assert instrument.failure is None


def test_arithmetic_cannot_tell_idle_from_busy() -> None:
    assert not Instrument(ListMeter(period_seconds=0.0)).tells_idle_from_busy
    assert Instrument(ListMeter(period_seconds=0.1)).tells_idle_from_busy
