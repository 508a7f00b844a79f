"""Threads give way to others at once, come back after a while, and never swing for long."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.runtime.pace import (
    Limits,
    Observation,
    Pace,
    Work,
    cooler,
    full,
    next_pace,
    wanted_by_others,
)

_AMOUNTS = st.one_of(st.none(), st.floats(0, 64))
_OBSERVATIONS = st.builds(
    Observation,
    seconds=st.floats(0.01, 20),
    own_cores=_AMOUNTS,
    asked_cores=st.floats(0, 64),
    other_cores=_AMOUNTS,
    polite_cores=st.floats(0, 64),
    slowness=st.one_of(st.none(), st.floats(1, 1000)),
    work=st.dictionaries(
        st.integers(1, 16), st.builds(Work, st.integers(1, 1000), st.floats(1e-6, 20)), max_size=4
    ),
    too_warm=st.booleans(),
    cool=st.booleans(),
)
_LIMITS = st.builds(Limits, cores=st.floats(0.5, 64), threads=st.integers(1, 64))


def shared(cores: float, threads: int, others: float, seconds: float = 2.0) -> Observation:
    """What is seen when cores are shared fairly by our threads and those of others."""
    whole = min(1.0, cores / (threads + others))
    return Observation(
        seconds,
        own_cores=threads * whole,
        asked_cores=float(threads),
        other_cores=others * whole,
    )


def follow(
    limits: Limits, windows: int, others: Callable[[int], float], pace: Pace | None = None
) -> list[int]:
    """Threads after each window, while others want what the function says."""
    pace = pace or full(limits)
    threads = []
    for window in range(windows):
        seen = shared(limits.cores, pace.threads, others(window))
        pace = next_pace(pace, seen, limits)
        threads.append(pace.threads)
    return threads


@given(st.lists(_OBSERVATIONS, max_size=60), _LIMITS)
def test_whatever_is_seen_there_are_threads_within_the_limits(
    seen: list[Observation], limits: Limits
) -> None:
    pace = full(limits)
    for each in seen:
        pace = next_pace(pace, each, limits)
        assert 1 <= pace.threads <= limits.threads


@given(st.lists(_OBSERVATIONS, max_size=40), _LIMITS)
def test_a_quiet_and_cool_machine_gets_all_threads_back(
    seen: list[Observation], limits: Limits
) -> None:
    limits = Limits(max(limits.cores, float(limits.threads)), limits.threads)
    pace = full(limits)
    for each in seen:
        pace = next_pace(pace, each, limits)
    for _ in range(60 * limits.threads):  # a thread a minute, after heat
        quiet = Observation(2.0, float(pace.threads), float(pace.threads), 0.0, 1.0)
        pace = next_pace(pace, quiet, limits)
    assert pace.threads == limits.threads


@given(st.integers(1, 16), st.integers(0, 16))
def test_what_others_want_is_seen_through_the_crowd(cores: int, others: int) -> None:
    limits = Limits(float(cores), cores)
    for threads in range(1, cores + 1):
        wanted = wanted_by_others(shared(cores, threads, others), limits)
        assert wanted == pytest.approx(min(others, 4 * cores))


@given(st.integers(1, 16), st.integers(0, 20), st.integers(1, 16))
def test_steady_neighbours_leave_us_what_they_leave_and_nothing_swings(
    cores: int, others: int, most: int
) -> None:
    limits = Limits(float(cores), min(most, cores))
    threads = follow(limits, 40, lambda _: others)
    assert set(threads[1:]) == {max(1, min(limits.threads, cores - others))}


def test_polite_programs_count_by_what_they_take_from_us() -> None:
    limits = Limits(2.0, 2)
    idle_only = Observation(2.0, 1.98, 2.0, 0.0, polite_cores=0.02)
    assert next_pace(full(limits), idle_only, limits).threads == 2
    beside_one_thread = Observation(2.0, 1.0, 1.0, 0.0, polite_cores=1.0)
    assert wanted_by_others(beside_one_thread, limits) == 0.0
    not_so_polite = Observation(2.0, 1.0, 2.0, 0.0, polite_cores=1.0)
    assert next_pace(full(limits), not_so_polite, limits).threads == 1


def test_one_window_with_a_busy_neighbour_is_enough() -> None:
    assert follow(Limits(2.0, 2), 1, lambda _: 1.0) == [1]
    assert follow(Limits(4.0, 4), 1, lambda _: 2.0) == [2]


def test_a_little_of_a_core_is_tolerated_and_half_of_one_only_once() -> None:
    assert set(follow(Limits(4.0, 4), 30, lambda _: 0.3)) == {4}
    assert follow(Limits(4.0, 4), 3, lambda _: 0.5) == [4, 3, 3]
    assert set(follow(Limits(4.0, 4), 30, lambda window: 0.5 * (window % 2))) == {4}


def test_threads_come_back_when_the_cores_were_free_for_a_while() -> None:
    threads = follow(Limits(4.0, 4), 8, lambda window: 2.0 if window < 2 else 0.0)
    assert threads == [2, 2, 2, 4, 4, 4, 4, 4]


def test_a_neighbour_that_comes_and_goes_is_trusted_less_and_less() -> None:
    def every_ten_seconds(window: int) -> float:
        return 1.0 if window % 5 < 2 else 0.0

    threads = follow(Limits(2.0, 2), 300, every_ten_seconds)
    raised = [index for index in range(1, 300) if threads[index] > threads[index - 1]]
    assert len(raised) == 1


def test_without_anyone_who_tells_only_a_collapse_makes_us_give_way() -> None:
    limits = Limits(4.0, 4)
    pace = next_pace(full(limits), Observation(2.0, slowness=2.9), limits)
    assert pace.threads == 4
    assert next_pace(pace, Observation(2.0, slowness=3.1), limits).threads == 3


def test_slow_steps_of_threads_that_never_waited_are_the_context_s() -> None:
    limits = Limits(4.0, 4)
    deep = Observation(2.0, own_cores=3.9, asked_cores=4.0, other_cores=0.0, slowness=9.0)
    assert next_pace(full(limits), deep, limits).threads == 4
    waiting = Observation(2.0, own_cores=2.0, asked_cores=4.0, other_cores=0.0, slowness=9.0)
    assert next_pace(full(limits), waiting, limits).threads == 3


def heated(windows: list[Observation], limits: Limits) -> list[int]:
    pace, threads = full(limits), []
    for each in windows:
        pace = next_pace(pace, each, limits)
        threads.append(pace.threads)
    return threads


def at_speeds(**steps_per_second: float) -> dict[int, Work]:
    """Five seconds of steps for each size: `one`, `four`."""
    sizes = {"one": 1, "four": 4}
    return {sizes[name]: Work(round(5 * speed), 5.0) for name, speed in steps_per_second.items()}


def warm(speed: float = 0.0, **speeds: float) -> Observation:
    work = at_speeds(**speeds) if speeds else at_speeds(one=speed)
    return Observation(5.0, 4.0, 4.0, 0.0, work=work, too_warm=True, cool=False)


COOL = Observation(5.0, 4.0, 4.0, 0.0, work=at_speeds(one=10.0))


def test_heat_takes_a_thread_at_a_time_and_never_more_than_half() -> None:
    threads = heated([warm(10.0)] * 30, Limits(4.0, 4))
    assert threads[:2] == [4, 3]
    assert threads[4] == 3
    assert threads[5] == 2
    assert set(threads[5:]) == {2}


def test_a_single_warm_window_is_nothing() -> None:
    assert set(heated([warm(10.0), COOL] * 10, Limits(4.0, 4))) == {4}


def test_a_thread_whose_loss_is_felt_comes_back_and_is_left_alone() -> None:
    windows = [warm(10.0)] * 2 + [warm(7.0)] * 60
    threads = heated(windows, Limits(4.0, 4))
    assert threads[1] == 3
    assert set(threads[5:]) == {4}


def test_fewer_answers_at_a_time_are_no_loss_of_speed() -> None:
    """A thread fewer cost nothing here: three of four answers ended, and steps are as fast."""
    windows = [warm(four=10.0)] * 2 + [warm(one=11.0)] * 60
    assert set(heated(windows, Limits(2.0, 2))[1:]) == {1}
    mixed = [warm(four=10.0, one=12.0)] * 2 + [warm(one=12.0)] * 60
    assert set(heated(mixed, Limits(2.0, 2))[1:]) == {1}


def test_a_loss_is_seen_in_the_sizes_that_ran_before_and_after() -> None:
    windows = [warm(four=10.0, one=12.0)] * 2 + [warm(one=8.0)] * 60
    assert set(heated(windows, Limits(2.0, 2))[5:]) == {2}


def test_threads_come_back_when_it_is_cool_for_a_minute() -> None:
    threads = heated([warm(10.0)] * 2 + [COOL] * 30, Limits(4.0, 4))
    assert threads[1] == 3
    assert threads.index(4, 2) == 13


def test_well_below_the_limit_or_unknown_is_cool() -> None:
    assert cooler(None, 85.0)
    assert cooler(77.0, 85.0)
    assert not cooler(77.1, 85.0)
