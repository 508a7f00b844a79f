"""Allocations against all combinations of small instances, and on instances like a model."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from instances import (
    KIND,
    best_score,
    largest_step,
    like_a_model,
    small,
    spread,
)

from edgeslm.packager.quantize.allocation import (
    Allocation,
    Candidate,
    Infeasible,
    Limits,
    Options,
    allocate,
    marginal,
    smallest_bytes,
)

shares = st.floats(0, 1, allow_nan=False)
SHARES = st.tuples(shares, shares)
MODEL = like_a_model(211, seed=1)


def between(options, share):
    """A byte limit at so much of the way from the smallest mix to the largest."""
    least, most = spread(options, "bytes")
    return Limits(bytes=round(least + share * (most - least)))


def both_between(options, pair):
    least, most = spread(options, "seconds")
    seconds = least + pair[1] * (most - least)
    return Limits(bytes=between(options, pair[0]).bytes, seconds=seconds)


@settings(deadline=None)
@given(small(), SHARES)
def test_never_over_a_limit_and_one_candidate_for_each_tensor(options, pair):
    try:
        allocation = allocate(options, both_between(options, pair))
    except Infeasible:
        assume(False)
    limits = both_between(options, pair)
    assert allocation.bytes <= limits.bytes
    assert allocation.seconds <= limits.seconds * (1 + 1e-9)
    assert len(allocation.chosen) == len(options)
    for item, chosen in zip(options, allocation.chosen, strict=True):
        assert chosen in item.candidates


@settings(deadline=None)
@given(small(), shares)
def test_one_limit_is_met_within_one_step_of_the_best(options, share):
    limits = between(options, share)
    score = allocate(options, limits).score
    assert score >= best_score(options, limits) - 1e-9
    less = Limits(bytes=int(limits.bytes - largest_step(options, "bytes")))
    if less.bytes >= smallest_bytes(options):
        assert score <= best_score(options, less) + 1e-9


@settings(deadline=None)
@given(small(), SHARES)
def test_two_limits_are_met_within_two_steps_of_the_best(options, pair):
    limits = both_between(options, pair)
    less = Limits(
        bytes=max(int(limits.bytes - 2 * largest_step(options, "bytes")), 0),
        seconds=max(limits.seconds - 2 * largest_step(options, "seconds"), 0.0),
    )
    bound = best_score(options, less)
    try:
        score = allocate(options, limits).score
    except Infeasible:
        assert bound is None
        return
    assert score >= best_score(options, limits) - 1e-9
    assert bound is None or score <= bound + 1e-9


def test_nearly_all_small_instances_are_solved_to_the_best():
    """Measured on 1,500 of each kind: all with one limit, 99.6 % with two."""
    solved = {"one": 0, "both": 0}
    for seed in range(100):
        options = [
            Options(item.tensor, item.candidates[seed % 5 :: 5]) for item in like_a_model(5, seed)
        ]
        one, both = between(options, 0.4), both_between(options, (0.4, 0.5))
        best = best_score(options, one)
        solved["one"] += allocate(options, one).score <= best * (1 + 1e-9)
        best = best_score(options, both)
        solved["both"] += best is None or allocate(options, both).score <= best * (1 + 1e-9)
    assert solved["one"] >= 97
    assert solved["both"] >= 95


@settings(deadline=None)
@given(small(largest=8), SHARES)
def test_one_step_more_never_hurts(options, pair):
    limits = both_between(options, pair)
    more = Limits(
        bytes=int(limits.bytes + 2 * largest_step(options, "bytes")),
        seconds=limits.seconds + 2 * largest_step(options, "seconds"),
    )
    try:
        score = allocate(options, limits).score
    except Infeasible:
        return
    assert allocate(options, more).score <= score + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_a_larger_budget_never_scores_worse_on_what_looks_like_a_model(seed):
    options = like_a_model(60, seed)
    scores = [allocate(options, between(options, share / 1000)).score for share in range(5, 300, 7)]
    for less, more in itertools.pairwise(scores):
        assert more <= less


@settings(deadline=None)
@given(small())
def test_an_ample_budget_gives_the_least_score(options):
    allocation = allocate(options, both_between(options, (1, 1)))
    least = sum(min(entry.score for entry in item.candidates) for item in options)
    assert allocation.score == pytest.approx(least)
    assert marginal(allocation).binds is None


@settings(deadline=None)
@given(small())
def test_what_no_mix_keeps_is_refused(options):
    assume(options)
    with pytest.raises(Infeasible):
        allocate(options, Limits(bytes=smallest_bytes(options) - 1))
    fastest = spread(options, "seconds")[0]
    assume(fastest > 0)
    with pytest.raises(Infeasible):
        allocate(options, Limits(seconds=fastest * 0.99))


def test_a_limit_is_needed():
    with pytest.raises(ValueError, match="limit"):
        Limits()


def test_seconds_choose_other_types_than_bytes():
    """The small type is slow, as the codebook types are on most processors."""
    small_slow = Candidate(KIND, 10, 2.0, seconds=9.0)
    large_fast = Candidate(KIND, 30, 1.9, seconds=3.0)
    options = [Options(str(index), (small_slow, large_fast)) for index in range(10)]
    assert allocate(options, Limits(seconds=30)).chosen == (large_fast,) * 10
    assert allocate(options, Limits(bytes=100)).chosen == (small_slow,) * 10
    mixed = allocate(options, Limits(bytes=200, seconds=60))
    assert mixed.chosen.count(large_fast) == 5
    with pytest.raises(Infeasible):
        allocate(options, Limits(bytes=180, seconds=60))


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.3])
def test_the_budget_is_used_to_a_thousandth(share):
    limits = between(MODEL, share)
    assert 0.999 * limits.bytes <= allocate(MODEL, limits).bytes <= limits.bytes


@pytest.mark.parametrize("part", [0.97, 0.9, 0.85])
def test_two_limits_are_both_used(part):
    by_bytes = allocate(MODEL, between(MODEL, 0.1))
    limits = Limits(bytes=by_bytes.bytes, seconds=by_bytes.seconds * part)
    allocation = allocate(MODEL, limits)
    assert 0.999 * limits.bytes <= allocation.bytes <= limits.bytes
    assert 0.999 * limits.seconds <= allocation.seconds <= limits.seconds
    assert by_bytes.score <= allocation.score
    assert marginal(allocation).binds == "both"


def test_a_limit_that_is_far_away_does_not_bind():
    limits = between(MODEL, 0.1)
    alone = allocate(MODEL, limits)
    assert marginal(alone).binds == "bytes"
    ample = allocate(MODEL, Limits(bytes=limits.bytes, seconds=alone.seconds * 2))
    assert ample == alone
    by_speed = allocate(MODEL, Limits(bytes=limits.bytes * 2, seconds=alone.seconds * 0.5))
    assert marginal(by_speed).binds == "seconds"


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_the_price_foretells_what_a_little_more_buys(share):
    limits = between(MODEL, share)
    more = Limits(bytes=limits.bytes + limits.bytes // 100)
    allocation = allocate(MODEL, limits)
    saved = allocation.score - allocate(MODEL, more).score
    foretold = marginal(allocation).score_per_megabyte * (more.bytes - limits.bytes) / 1e6
    assert saved == pytest.approx(foretold, rel=0.2)


def test_one_large_tensor_does_not_spoil_the_rest():
    """An embedding whose next step is more than all the others have to give."""
    embedding = Options(
        "embedding", tuple(Candidate(KIND, size, 9000 / size) for size in (300, 500, 900))
    )
    others = [
        Options(str(index), (Candidate(KIND, 10, 0.4), Candidate(KIND, 20, 0.1)))
        for index in range(20)
    ]
    assert allocate([embedding, *others], Limits(bytes=700)).chosen[0].bytes == 500
    assert allocate([embedding, *others], Limits(bytes=699)).chosen[0].bytes == 300


def test_what_is_worth_most_per_byte_comes_first():
    worth = [(index * 37) % 50 for index in range(50)]
    options = [
        Options(str(gain), (Candidate(KIND, 10, float(gain)), Candidate(KIND, 20, 0.0)))
        for gain in worth
    ]
    allocation = allocate(options, Limits(bytes=50 * 10 + 20 * 10))
    assert allocation.score == sum(range(30))


def test_nothing_to_allocate():
    assert allocate([], Limits(bytes=0, seconds=0.0)) == Allocation(())
