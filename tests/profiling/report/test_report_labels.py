"""Axes and labels: ticks lie on the axis, labels cover nothing."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeslm.profiling.report.labels import Box, place, shortened, spread, text_width
from edgeslm.profiling.report.scales import scale, tick_text

BOUNDS = Box(40, 20, 350, 240)
NUMBERS = st.floats(-1e15, 1e15, allow_nan=False) | st.floats(1e-12, 1e3)
PLACES = st.lists(
    st.tuples(st.floats(45, 345), st.floats(25, 235)), min_size=1, max_size=15, unique=True
)


@given(st.lists(NUMBERS, min_size=1, max_size=8), st.booleans(), st.booleans())
@example(values=[5e-324], may_be_log=False, from_zero=False)
@example(values=[5e-324], may_be_log=True, from_zero=True)
def test_values_and_ticks_lie_on_the_axis(
    values: list[float], may_be_log: bool, from_zero: bool
) -> None:
    axis = scale(values, 10, 110, may_be_log=may_be_log, from_zero=from_zero)
    for value in values:
        assert 9.99 <= axis(value) <= 110.01
    for tick in axis.ticks:
        assert 9.9 <= axis(tick) <= 110.1
    assert list(axis.ticks) == sorted(axis.ticks)
    assert len(axis.ticks) <= 40


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([3.0, 21.0], (5, 10, 15, 20)),
        ([0.0, 100.0], (0, 25, 50, 75, 100)),
        ([0.002, 0.4], (0.003, 0.01, 0.03, 0.1, 0.3)),
    ],
)
def test_ticks_are_round(values: list[float], ticks: tuple[float, ...]) -> None:
    assert scale(values, 0, 100, may_be_log=True).ticks == pytest.approx(ticks)


def test_ticks_are_short() -> None:
    assert [tick_text(value, 0.3) for value in (0.003, 0.1)] == ["0.003", "0.1"]
    assert tick_text(20_000, 40_000) == "20k"
    assert tick_text(0, 40_000) == "0"


@given(PLACES)
def test_labels_cover_neither_each_other_nor_a_point(points: list[tuple[float, float]]) -> None:
    texts = [f"Q{index}_K_M" for index in range(len(points))]
    placed = place(points, texts, BOUNDS, 11)
    for one, other in itertools.combinations(placed, 2):
        assert not one.box.meets(other.box)
    for each in placed:
        assert each.box.inside(BOUNDS)
        assert not any(
            each.box.left < x < each.box.right and each.box.top < y < each.box.bottom
            for x, y in points
        )


def test_a_few_points_all_get_their_labels() -> None:
    placed = place([(100, 100), (104, 101), (200, 60)], ["Q4_0", "Q4_1", "Q8_0"], BOUNDS, 11)
    assert [each.index for each in placed] == [0, 1, 2]


def test_a_taken_place_stays_free() -> None:
    corner = Box(100, 90, 200, 110)
    (placed,) = place([(95, 100)], ["Q4_0"], BOUNDS, 11, avoid=[corner])
    assert not placed.box.meets(corner)


@given(st.lists(st.floats(0, 200), min_size=1, max_size=20))
def test_ends_are_moved_apart_in_their_order(places: list[float]) -> None:
    moved = spread(places, 13, 0, 200)
    assert all(-0.001 <= each <= 200.001 for each in moved)
    gap = min(13, 200 / max(len(places) - 1, 1))
    for one, other in itertools.pairwise(sorted(moved)):
        assert other - one >= gap - 0.001
    for (a, before), (b, after) in itertools.combinations(zip(places, moved, strict=True), 2):
        assert a == b or math.copysign(1, a - b) == math.copysign(1, before - after)


@given(st.text(max_size=60))
def test_shortened_text_fits(text: str) -> None:
    short = shortened(text, 11, 80)
    assert text_width(short, 11) <= 80 or short == "…"
    if text_width(text, 11) <= 80:
        assert short == text
