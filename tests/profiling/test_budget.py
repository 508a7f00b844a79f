from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.profiling.budget import Runs, difference, shortened

USUAL = Runs(512, 128, (0,), 7)


def test_what_fits_stays_as_it_is() -> None:
    assert USUAL.seconds(512, 128) == 8 * 2
    assert shortened(USUAL, 512, 128, 16) == USUAL
    assert difference(USUAL, USUAL, 16) is None


def test_fewer_runs_come_before_shorter_ones() -> None:
    found = shortened(USUAL, 512, 128, 12)
    assert found == Runs(512, 128, (0,), 5)
    assert difference(USUAL, found, 12) == "shortened to keep to 12 seconds: runs 7 -> 5"


def test_a_thrashing_model_gets_short_runs() -> None:
    found = shortened(USUAL, 40.0, 1.5, 60)
    assert found.repeats == 3
    assert found.seconds(40.0, 1.5) <= 60
    assert 4 <= found.generated_tokens < 20
    assert 16 <= found.prompt_tokens < 512


def test_depths_that_take_too_long_to_fill_are_given_up() -> None:
    wanted = Runs(64, 16, (0, 512, 4096), 3)
    found = shortened(wanted, 40.0, 20.0, 60)
    assert found.depths == (0, 512)
    assert "without depth 4096" in str(difference(wanted, found, 60))


@pytest.mark.parametrize("repeats", [1, 2])
def test_never_more_runs_than_asked_for(repeats: int) -> None:
    assert shortened(Runs(512, 128, (0,), repeats), 1.0, 0.1, 5).repeats == repeats


@given(
    st.builds(
        Runs,
        st.integers(1, 4096),
        st.integers(1, 1024),
        st.lists(st.integers(0, 8192), min_size=1, max_size=4, unique=True).map(tuple),
        st.integers(1, 20),
    ),
    st.floats(0.01, 1e5),
    st.floats(0.01, 1e5),
    st.floats(0.1, 1e4),
)
def test_nothing_ever_grows(runs: Runs, reading: float, writing: float, budget: float) -> None:
    found = shortened(runs, reading, writing, budget)
    assert 1 <= found.prompt_tokens <= runs.prompt_tokens
    assert 1 <= found.generated_tokens <= runs.generated_tokens
    assert 1 <= found.repeats <= runs.repeats
    assert found.depths[0] == runs.depths[0]
    assert {*found.depths} <= {*runs.depths}
