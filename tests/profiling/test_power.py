from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.profiling.power import (
    Idle,
    Stretch,
    idle_power,
    is_long_enough,
    needed_seconds,
    per_token,
)

RUNS = [Stretch(20.0, 2.0, 10), Stretch(22.0, 2.0, 10), Stretch(21.0, 2.0, 10)]


def test_gross_is_the_median_stretch() -> None:
    found = per_token(RUNS, 0.0, None)
    assert found is not None
    assert found.gross == pytest.approx(2.1)
    assert (found.net, found.net_uncertainty) == (None, None)
    assert found.seconds == 6.0


def test_net_leaves_out_what_the_idle_machine_draws() -> None:
    found = per_token(RUNS, 0.0, Idle(4.0, 0.5, 5.0))
    assert found is not None
    assert found.net == pytest.approx((21 - 4 * 2) / 10)
    assert found.net_uncertainty == pytest.approx(math.hypot(found.gross_uncertainty, 0.5 * 2 / 10))


def test_uncertainty_comes_from_the_spread_and_from_the_period() -> None:
    spread = 1.4826 * 0.1 / math.sqrt(3)
    exact, slow = per_token(RUNS, 0.0, None), per_token(RUNS, 0.2, None)
    assert exact is not None
    assert slow is not None
    assert exact.gross_uncertainty == pytest.approx(spread)
    late = 10.5 * 0.2 / math.sqrt(6) / 10
    assert slow.gross_uncertainty == pytest.approx(math.hypot(spread, late))
    assert exact.enough_samples
    assert slow.enough_samples
    too_slow = per_token(RUNS, 0.21, None)
    assert too_slow is not None
    assert not too_slow.enough_samples


def test_the_baseline_is_the_median_of_its_parts() -> None:
    parts = [Stretch(watts, 1.0) for watts in (3.0, 3.1, 3.2, 3.3, 9.0)]
    found = idle_power(parts, 0.001)
    assert found is not None
    assert found.watts == pytest.approx(3.2)
    assert found.seconds == 5.0
    assert found.uncertainty_watts == pytest.approx(1.4826 * 0.1 / math.sqrt(5), rel=0.01)
    assert idle_power([], 0.001) is None


def test_parts_that_the_meter_is_too_slow_for_are_one() -> None:
    found = idle_power([Stretch(0.0, 1.0), Stretch(10.0, 1.0), Stretch(0.0, 1.0)], 2.0)
    assert found is not None
    assert found.watts == pytest.approx(10 / 3)


def test_ten_changes_are_enough() -> None:
    assert needed_seconds(0.5) == 5.0
    assert is_long_enough(5.0, 0.5)
    assert not is_long_enough(4.9, 0.5)
    assert is_long_enough(0.0, 0.0)


def test_nothing_measured_is_nothing() -> None:
    assert per_token([], 0.1, None) is None
    assert per_token([Stretch(1.0, 1.0, 0)], 0.1, None) is None


@given(
    st.lists(
        st.builds(
            Stretch,
            st.floats(0, 1e6),
            st.floats(1e-3, 1e4),
            st.integers(1, 10**6),
        ),
        min_size=1,
        max_size=12,
    ),
    st.floats(0, 100),
)
def test_figures_are_finite_and_lie_within_the_samples(
    stretches: list[Stretch], period: float
) -> None:
    found = per_token(stretches, period, idle_power(stretches, period))
    assert found is not None
    each = [stretch.joules / stretch.tokens for stretch in stretches]
    assert min(each) <= found.gross <= max(each)
    assert found.gross_uncertainty >= 0
    assert found.net_uncertainty is not None
    assert math.isfinite(found.net_uncertainty)
