"""Watts into joules: sums by hand, threads that end, sensors that die."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters.base import Scope
from edgeslm.profiling.meters.sampled import Integral, SampledMeter
from edgeslm.records import Provenance

NEVER = 3600.0
"""A period so long that only the readings take samples."""


def replay(*samples: tuple[float, float]) -> Integral:
    """An integral that sees these watts at these seconds."""
    times = iter([at for at, _ in samples for _ in range(2)])
    watts = iter([value for _, value in samples])
    return Integral(lambda: next(watts), longest_gap_seconds=100, clock=lambda: next(times))


def meter(read_watts: Callable[[], float], period: float = NEVER) -> SampledMeter:
    return SampledMeter("test", Scope.BOARD, "a test", read_watts, period_seconds=period)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "meter-test"]


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def test_joules_are_the_area_under_the_watts() -> None:
    integral = replay((0, 2.0), (1, 4.0), (3, 4.0), (3.5, 0.0))

    readings = [integral.sample() for _ in range(4)]

    assert readings == pytest.approx([0.0, 3.0, 11.0, 12.0])  # 3, then 2 s at 4 W, then a triangle


def test_a_sample_counts_for_the_middle_of_its_reading() -> None:
    times = iter([0.0, 0.2, 1.0, 1.4])
    integral = Integral(lambda: 5.0, clock=lambda: next(times))

    integral.sample()

    assert integral.sample() == pytest.approx(5.0 * (1.2 - 0.1))


def test_negative_watts_count_as_none() -> None:
    integral = replay((0, -3.0), (1, -1.0), (2, 2.0))

    assert [integral.sample() for _ in range(3)] == pytest.approx([0.0, 0.0, 1.0])


@given(
    st.lists(
        st.tuples(
            st.floats(0.001, 50), st.floats(-1e6, 1e6, allow_nan=False, allow_infinity=False)
        ),
        min_size=2,
        max_size=20,
    )
)
def test_joules_never_decrease(steps: list[tuple[float, float]]) -> None:
    at = 0.0
    samples = []
    for pause, watts in steps:
        at += pause
        samples.append((at, watts))
    integral = replay(*samples)

    readings = [integral.sample() for _ in samples]

    assert all(math.isfinite(joules) for joules in readings)
    assert readings == sorted(readings)


@pytest.mark.parametrize("watts", [math.nan, math.inf, -math.inf])
def test_what_is_no_power_ends_it(watts: float) -> None:
    with pytest.raises(ValueError, match="no power"):
        replay((0, watts)).sample()


def test_a_long_silence_is_no_measurement() -> None:
    times = iter([0.0, 0.0, 61.0, 61.0])
    integral = Integral(lambda: 1.0, longest_gap_seconds=60, clock=lambda: next(times))
    integral.sample()

    with pytest.raises(ValueError, match=r"nothing was read for 61\.0 seconds"):
        integral.sample()


def test_a_thread_samples_between_the_readings() -> None:
    watts = [1.0]
    samples = []

    def read_watts() -> float:
        samples.append(watts[0])
        return watts[0]

    tested = meter(read_watts, period=0.01)
    assert threads() == []  # nothing happens before the first reading
    first = tested.read_joules()
    wait_until(lambda: len(samples) > 5)
    taken = len(samples)

    assert tested.read_joules() > first
    assert taken > 5
    tested.close()
    wait_until(lambda: not threads())


def test_the_thread_ends_with_its_meter() -> None:
    tested = meter(lambda: 1.0, period=0.01)
    tested.read_joules()
    assert len(threads()) == 1

    del tested
    gc.collect()

    wait_until(lambda: not threads())


def test_a_sensor_that_dies_between_readings_fails_the_next_one() -> None:
    source = [5.0]

    def read_watts() -> float:
        if not source:
            raise OSError("the cable is out")
        return source[0]

    tested = meter(read_watts, period=0.01)
    tested.read_joules()
    source.clear()
    wait_until(lambda: not threads())
    source.append(5.0)  # it is back, but what it missed is lost

    for _ in range(2):
        with pytest.raises(MeasurementFailure, match="the cable is out") as caught:
            tested.read_joules()
        assert caught.value.hint


def test_a_bug_in_a_sensor_is_no_dead_sensor() -> None:
    def read_watts() -> float:
        raise TypeError("a bug")

    with pytest.raises(TypeError):
        meter(read_watts).read_joules()


def test_it_says_what_it_is() -> None:
    tested = SampledMeter(
        "x",
        Scope.PACKAGE,
        "here",
        lambda: 1.0,
        period_seconds=0.5,
        provenance=Provenance.ESTIMATED,
    )

    assert (tested.name, tested.scope, tested.source) == ("x", Scope.PACKAGE, "here")
    assert (tested.provenance, tested.period_seconds) == (Provenance.ESTIMATED, 0.5)
