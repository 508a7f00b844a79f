"""How many rounds a benchmark takes, and how well it says it knows a ratio."""

from __future__ import annotations

import importlib.util
import random
import statistics
from pathlib import Path

import pytest

_FILE = Path(__file__).parent.parent / "scripts" / "rounds.py"
_SPEC = importlib.util.spec_from_file_location("rounds", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
rounds = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(rounds)


@pytest.mark.parametrize(
    ("count", "left_out"),
    # tables of the sign test, one-sided 5%: the greatest number of minus signs that is significant
    [(5, 0), (8, 1), (15, 3), (20, 5), (25, 7), (40, 14)],
)
def test_the_interval_is_that_of_the_sign_test(count: int, left_out: int) -> None:
    samples = list(range(count))
    random.Random(1).shuffle(samples)
    assert rounds.interval(samples) == (left_out, count - 1 - left_out)


def test_of_very_few_samples_the_interval_is_all_of_them() -> None:
    assert rounds.interval([2.0]) == (2.0, 2.0)
    assert rounds.interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


@pytest.mark.parametrize("count", [15, 40])
def test_nine_of_ten_intervals_hold_the_true_median(count: int) -> None:
    source = random.Random(2)
    held = 0
    for _ in range(1000):
        low, high = rounds.interval([source.lognormvariate(0, 0.2) for _ in range(count)])
        held += low <= 1 <= high
    assert 880 <= held <= 980


def test_rounds_go_on_until_every_ratio_is_known() -> None:
    steady, unsteady = [1 + number / 1000 for number in range(15)], [0.8, 1.2, 1.0] * 5
    assert rounds.enough(None, steady)
    assert not rounds.enough(None, steady[:14])
    assert not rounds.enough(None, unsteady)
    assert not rounds.enough(None, steady, unsteady)


def test_rounds_end_at_the_latest_after_forty() -> None:
    unsteady = [0.8, 1.2] * 20
    assert not rounds.enough(None, unsteady[:39])
    assert rounds.enough(None, unsteady)


def test_whether_they_end_does_not_hang_by_what_the_ratio_is() -> None:
    steady = [1 + number / 1000 for number in range(15)]
    for factor in (0.1, 0.5, 2.0, 10.0):
        assert rounds.enough(None, [factor * each for each in steady])


def test_as_many_as_wanted_are_just_as_many() -> None:
    assert not rounds.enough(3, [1.0, 1.0])
    assert rounds.enough(3, [0.5, 1.0, 2.0])
    assert not rounds.enough(50, [1.0] * 49)
    assert not rounds.enough(0, [])


def test_what_is_printed_has_the_median_first() -> None:
    samples = [0.9, 1.1, 1.0, 1.2, 0.8]
    assert statistics.median(samples) == 1
    assert rounds.spread(samples) == " 1.000 [0.800 to 1.200] (0.800 to 1.200)"
