from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.profiling.steadiness import drift, lasting, median_error, wants_more


def test_equal_runs_are_sure() -> None:
    assert median_error([5.0] * 3) == 0
    assert not wants_more([5.0] * 3, 9)


def test_two_runs_say_nothing() -> None:
    assert median_error([1.0, 2.0]) is None
    assert not wants_more([1.0, 2.0], 9)


def test_one_disturbed_run_changes_little() -> None:
    calm = [100.0, 101, 99, 100, 101, 99, 100]
    calm_error, disturbed_error = median_error(calm), median_error([*calm, 20.0])
    assert calm_error is not None
    assert disturbed_error is not None
    assert disturbed_error < 0.02


def test_restless_runs_want_more_up_to_the_most() -> None:
    restless = [100.0, 110, 90, 105, 95, 115, 85]
    assert wants_more(restless, 8)
    assert not wants_more(restless, 7)


def test_the_interval_holds_nine_of_ten_medians() -> None:
    chance = random.Random(1)
    held = 0
    for _ in range(1000):
        samples = [chance.gauss(100, 5) for _ in range(21)]
        error = median_error(samples)
        assert error is not None
        held += abs(statistics.median(samples) - 100) <= error * 100
    assert 830 < held < 950


def test_it_holds_for_disturbances_that_last() -> None:
    chance = random.Random(2)
    held = 0
    for _ in range(300):
        samples = [100.0]
        for _ in range(120):
            samples.append(100 + 0.7 * (samples[-1] - 100) + chance.gauss(0, 4))
        samples = samples[-100:]  # when the first one is forgotten
        error = median_error(samples)
        assert error is not None
        held += abs(statistics.median(samples) - 100) <= error * 100
    assert 235 < held < 285


def test_how_long_a_disturbance_lasts() -> None:
    assert lasting([1.0, 2.0] * 20) == 1
    assert lasting([1.0] * 5) == 1
    in_blocks = ([1.0] * 5 + [2.0] * 5) * 10
    assert 2 < lasting(in_blocks) < 3.5


def test_drift_is_from_half_to_half() -> None:
    assert drift([1.0, 1.0, 1.0, 50.0, 1.2, 1.2, 1.2]) == pytest.approx(0.2)
    assert drift([1.0] * 5) is None


@given(st.lists(st.floats(0.1, 1e6), min_size=3, max_size=30), st.floats(0.01, 100))
def test_it_is_a_fraction(samples: list[float], factor: float) -> None:
    error = median_error(samples)
    assert median_error([factor * each for each in samples]) == pytest.approx(error, rel=1e-6)
