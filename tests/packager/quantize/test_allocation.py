import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.gguf.types import tensor_type
from edgeslm.packager.quantize.allocation import Candidate, Options, allocate, smallest_bytes

KIND = tensor_type("Q8_0")


@st.composite
def instances(draw, largest=5):
    candidates = st.builds(
        Candidate,
        type=st.just(KIND),
        bytes=st.integers(1, 60),
        score=st.floats(0, 100, allow_nan=False),
    )
    lists = draw(st.lists(st.lists(candidates, min_size=1, max_size=4), max_size=largest))
    return [Options(f"t{index}", tuple(entries)) for index, entries in enumerate(lists)]


def largest_bytes(options):
    return sum(max(entry.bytes for entry in item.candidates) for item in options)


def largest_step(options):
    sizes = [[entry.bytes for entry in item.candidates] for item in options]
    return max((max(each) - min(each) for each in sizes), default=0)


def best_score(options, budget):
    """Of all combinations that fit, by trying each."""
    combinations = itertools.product(*(item.candidates for item in options))
    scores = [
        sum(entry.score for entry in chosen)
        for chosen in combinations
        if sum(entry.bytes for entry in chosen) <= budget
    ]
    return min(scores)


@settings(deadline=None)
@given(instances(), st.integers(0, 400))
def test_never_over_budget_and_one_candidate_for_each_tensor(options, extra):
    budget = smallest_bytes(options) + extra
    allocation = allocate(options, budget)
    assert allocation.bytes <= budget
    assert len(allocation.chosen) == len(options)
    for item, chosen in zip(options, allocation.chosen, strict=True):
        assert chosen in item.candidates


@settings(deadline=None)
@given(instances(), st.integers(0, 400))
def test_close_to_the_best_of_all_combinations(options, extra):
    budget = smallest_bytes(options) + extra
    score = allocate(options, budget).score
    assert score >= best_score(options, budget) - 1e-9
    less = budget - largest_step(options)
    if less >= smallest_bytes(options):
        assert score <= best_score(options, less) + 1e-9


@settings(deadline=None)
@given(instances(largest=8), st.integers(0, 300), st.integers(0, 300))
def test_one_step_more_budget_never_hurts(options, extra, more):
    budget = smallest_bytes(options) + extra
    larger = budget + largest_step(options) + more
    assert allocate(options, larger).score <= allocate(options, budget).score + 1e-9


@settings(deadline=None)
@given(instances())
def test_an_ample_budget_gives_the_least_score(options):
    allocation = allocate(options, largest_bytes(options))
    least = sum(min(entry.score for entry in item.candidates) for item in options)
    assert allocation.score == pytest.approx(least)


@settings(deadline=None)
@given(instances())
def test_a_budget_below_the_smallest_is_refused(options):
    with pytest.raises(ValueError, match="smallest"):
        allocate(options, smallest_bytes(options) - 1)


def test_what_a_long_step_leaves_is_spent_on_short_ones():
    long = Options("long", (Candidate(KIND, 10, 100.0), Candidate(KIND, 1010, 0.0)))
    short = Options("short", (Candidate(KIND, 10, 1.0), Candidate(KIND, 60, 0.5)))
    allocation = allocate([long, short], 500)
    assert [entry.bytes for entry in allocation.chosen] == [10, 60]


def test_many_small_tensors_fill_the_budget():
    options = [
        Options(
            str(index),
            tuple(
                Candidate(KIND, bits * 1000, (1 + index % 7) * 4.0**-bits) for bits in range(2, 9)
            ),
        )
        for index in range(300)
    ]
    for budget in (700_000, 1_234_567, 2_000_001):
        assert 0.999 * budget <= allocate(options, budget).bytes <= budget


def test_what_is_worth_most_per_byte_comes_first():
    worth = [(index * 37) % 50 for index in range(50)]
    options = [
        Options(str(gain), (Candidate(KIND, 10, float(gain)), Candidate(KIND, 20, 0.0)))
        for gain in worth
    ]
    allocation = allocate(options, 50 * 10 + 20 * 10)
    assert allocation.score == sum(range(30))
