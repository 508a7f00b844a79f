"""A race finds the fastest, keeps what is simpler if nothing is clearly faster, and ends early."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.profiling.racing import Rounds, between, clearly_faster, counts, race, spread

_SPEEDS = st.lists(st.floats(0.1, 1e5), min_size=1, max_size=8)
_ROUNDS = st.builds(
    lambda least, more: Rounds(least, least + more), st.integers(1, 4), st.integers(0, 4)
)


@given(_SPEEDS, _ROUNDS)
def test_without_noise_the_simplest_of_the_fastest_wins(
    speeds: list[float], rounds: Rounds
) -> None:
    found = race(range(len(speeds)), speeds.__getitem__, rounds)
    assert max(speeds) - speeds[found.best] <= 0.02 * speeds[found.best] * 1.0001
    for simpler in speeds[: found.best]:
        assert max(speeds) - simpler > 0.02 * simpler * 0.9999


@given(_SPEEDS, _ROUNDS, st.integers(0, 1000))
def test_every_setting_runs_and_none_too_often(
    speeds: list[float], rounds: Rounds, seed: int
) -> None:
    noise = random.Random(seed)
    runs: Counter[int] = Counter()
    done = []

    def measure(setting: int) -> float:
        runs[setting] += 1
        return speeds[setting] * noise.uniform(0.8, 1.2)

    found = race(range(len(speeds)), measure, rounds, after_run=done.append)
    assert set(runs) == set(range(len(speeds)))
    assert max(runs.values()) <= rounds.most
    assert runs[found.best] >= rounds.least
    assert {each: len(samples) for each, samples in found.samples.items()} == runs
    assert sum(done) == sum(runs.values())
    assert found.best not in found.given_up


def test_the_hopeless_run_twice_and_the_close_as_often_as_allowed() -> None:
    noise = random.Random(3)
    speeds = {"slow": 50.0, "good": 100.0, "as good": 100.0}
    found = race(list(speeds), lambda each: speeds[each] * noise.uniform(0.97, 1.03), Rounds(3, 6))
    assert len(found.samples["slow"]) == 2
    assert len(found.samples["good"]) == len(found.samples["as good"]) == 6
    assert (found.best, found.given_up) == ("good", ("slow",))


def test_settings_run_in_turn_and_every_second_round_backwards() -> None:
    order: list[str] = []

    def measure(setting: str) -> float:
        order.append(setting)
        return 1.0

    race(["a", "b", "c"], measure, Rounds(3, 3))
    assert "".join(order) == "abccbaabc"


def test_one_disturbed_run_decides_nothing() -> None:
    speeds = {"few": iter([60, 60, 60, 60]), "many": iter([100, 100, 12, 100])}
    found = race(["few", "many"], lambda each: float(next(speeds[each])), Rounds(4, 4))
    assert found.best == "many"


@pytest.mark.parametrize(
    ("one", "other", "faster"),
    [
        ([102.1], [100.0], True),
        ([101.9], [100.0], False),
        ([110, 90, 100], [95, 95, 95], False),
        ([110, 90, 100], [85, 85, 85], True),
    ],
)
def test_faster_means_more_than_the_noise(
    one: list[float], other: list[float], faster: bool
) -> None:
    assert clearly_faster(one, other) == faster
    assert not clearly_faster(other, one)


def test_spread_is_the_usual_distance_from_the_median() -> None:
    assert spread([100, 90, 110]) == 10
    assert spread([100, 100, 1]) == 0


@given(st.integers(1, 512))
def test_counts_rise_from_one_to_the_most(most: int) -> None:
    found = counts(most)
    assert (found[0], found[-1]) == (1, most)
    assert list(found) == sorted(set(found))
    assert set(range(1, min(most, 8) + 1)) <= set(found)
    assert len(found) <= 24


def test_halfway_to_the_neighbours() -> None:
    assert counts(64) == (1, 2, 3, 4, 5, 6, 7, 8, 12, 18, 27, 40, 60, 64)
    assert between(counts(64), 18) == (15, 22)
    assert between(counts(64), 64) == (62,)
    assert between((1, 2, 3), 2) == ()
    assert between((1, 2), 1) == ()
