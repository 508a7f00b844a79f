"""Whether two sets of runs differ: against counting by hand, and against its own promises."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.profiling.comparison import FALSE_SHARE, Verdict, adjust, compare

SPEEDS = st.lists(
    st.floats(0.01, 1e6, allow_nan=False) | st.integers(1, 5).map(float), min_size=1, max_size=7
)
PAIRS = st.lists(st.tuples(SPEEDS, SPEEDS), min_size=1, max_size=6)


def _counted_p(runs: list[float], baseline: list[float]) -> float:
    """From every way to deal the values out to two sides."""

    def least(ours: tuple[float, ...], theirs: list[float]) -> int:
        larger = sum(one > other for one in ours for other in theirs)
        return min(larger, len(ours) * len(theirs) - larger)

    values = [*runs, *baseline]
    seen = least(tuple(runs), baseline)
    deals = list(itertools.combinations(range(len(values)), len(runs)))
    as_clear = 0
    for deal in deals:
        ours = tuple(values[index] for index in deal)
        theirs = [value for index, value in enumerate(values) if index not in deal]
        as_clear += least(ours, theirs) <= seen
    return as_clear / len(deals)


@pytest.mark.parametrize(
    ("runs", "baseline"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]),
        ([1.0, 7.0, 3.5, 9.0], [2.0, 3.0, 4.0, 5.0, 6.0]),
        ([10.0, 11.0, 12.0], [1.0, 2.0, 10.5]),
    ],
)
def test_p_is_what_counting_every_deal_gives(runs: list[float], baseline: list[float]) -> None:
    (found,) = compare([(runs, baseline)])
    assert found.p == pytest.approx(_counted_p(runs, baseline))


def test_seven_clearly_faster_runs_are_a_difference() -> None:
    baseline = [100.0, 101.0, 99.0, 100.5, 99.5, 102.0, 98.0]
    (found,) = compare([([value * 1.3 for value in baseline], baseline)])
    assert found.verdict is Verdict.HIGHER
    assert found.p == pytest.approx(2 / math.comb(14, 7))
    assert found.ratio == pytest.approx(1.3, rel=0.01)
    assert found.low is not None and found.high is not None
    assert 1.2 < found.low < found.ratio < found.high < 1.4
    assert not found.is_small


def test_the_same_runs_do_not_differ() -> None:
    runs = [100.0, 101.0, 99.0, 100.5, 99.5]
    (found,) = compare([(runs, runs)])
    assert (found.ratio, found.p, found.verdict) == (1.0, 1.0, Verdict.NO_DIFFERENCE)


def test_three_runs_can_never_tell() -> None:
    (found,) = compare([([200.0, 201.0, 202.0], [100.0, 101.0, 102.0])])
    assert found.verdict is Verdict.TOO_FEW
    assert found.low is None


def test_one_disturbed_run_hides_nothing_and_shows_nothing() -> None:
    steady = [100.0, 100.4, 99.8, 100.2, 99.9, 100.1, 100.3]
    disturbed = [*steady[:-1], 30.0]
    (same,) = compare([(disturbed, steady)])
    assert same.verdict is Verdict.NO_DIFFERENCE
    assert same.ratio == pytest.approx(1.0, abs=0.005)
    (faster,) = compare([([value * 1.2 for value in disturbed], steady)])
    assert faster.verdict is Verdict.HIGHER


def test_a_clear_difference_among_many_without_one_needs_more_runs() -> None:
    steady = [100.0, 100.4, 99.8, 100.2, 99.9]
    shifted = [value + 10 for value in steady]
    alone = compare([(shifted, steady)])
    assert alone[0].verdict is Verdict.HIGHER
    many = compare([(shifted, steady), *[(steady, steady)] * 9])
    assert many[0].verdict is Verdict.TOO_FEW
    assert many[1].verdict is Verdict.NO_DIFFERENCE


def test_adjusted_values_are_benjamini_and_hochbergs() -> None:
    """The example of their paper: 15 values, of which 4 pass at 0.05."""
    values = [
        *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459),
        *(0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000),
    ]
    assert sum(value <= 0.05 for value in adjust(values)) == 4


def test_no_comparison_is_none() -> None:
    assert compare([]) == ()


@pytest.mark.parametrize("runs", [[], [0.0], [-1.0], [math.nan], [math.inf]])
def test_what_is_no_run_is_refused(runs: list[float]) -> None:
    with pytest.raises(ValueError):
        compare([(runs, [1.0])])


def test_very_many_runs_are_thinned() -> None:
    many = [100.0 + index % 7 for index in range(5000)]
    (found,) = compare([(many, [value * 1.5 for value in many])])
    assert found.verdict is Verdict.LOWER
    assert found.runs == 5000


@given(PAIRS)
def test_the_interval_and_the_verdict_agree(pairs: list[tuple[list[float], list[float]]]) -> None:
    for found in compare(pairs):
        if found.low is not None and found.high is not None:
            assert found.low <= found.ratio <= found.high
        holds_one = found.low is None or found.high is None or found.low <= 1 <= found.high
        differs = found.verdict in (Verdict.HIGHER, Verdict.LOWER)
        assert differs == (not holds_one) == (found.adjusted_p <= FALSE_SHARE)
        assert found.p <= found.adjusted_p <= 1


@given(SPEEDS, SPEEDS)
def test_turning_the_question_round_turns_the_answer(
    runs: list[float], baseline: list[float]
) -> None:
    (one,), (other,) = compare([(runs, baseline)]), compare([(baseline, runs)])
    assert one.p == pytest.approx(other.p)
    turned = {Verdict.HIGHER: Verdict.LOWER, Verdict.LOWER: Verdict.HIGHER}
    assert other.verdict is turned.get(one.verdict, one.verdict)
    (doubled,) = compare([([2 * value for value in runs], [2 * value for value in baseline])])
    assert doubled == one


@pytest.mark.parametrize("seed", range(5))
def test_a_false_alarm_is_rare(seed: int) -> None:
    """400 comparisons of what does not differ: at 5% some 20 alarms one by one, none together."""
    source = random.Random(seed)
    pairs = [
        ([source.gauss(100, 5) for _ in range(7)], [source.gauss(100, 5) for _ in range(7)])
        for _ in range(400)
    ]
    found = compare(pairs)
    assert 5 <= sum(each.p <= FALSE_SHARE for each in found) <= 40
    assert sum(each.adjusted_p <= FALSE_SHARE for each in found) <= 1
