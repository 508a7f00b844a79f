"""How far to guess ahead: as far as it pays, and at little risk."""

from __future__ import annotations

import ctypes
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.llama.activations import _Tensor
from edgeslm.llama.context import Batch, Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.runtime.speculation import (
    SIZES,
    Ledger,
    Prospect,
    Rate,
    StepCosts,
    chances,
    match_rates,
    parts,
    passes,
    plan,
)

_SECONDS = st.floats(1e-4, 10)


def _costs(extra: float, second: float = 1.0) -> StepCosts:
    """Steps in which each token after the first takes so much of the first one's time."""
    costs = StepCosts()
    for tokens in range(1, 33):
        costs.add(tokens, second * (1 + extra * (tokens - 1)))
    return costs


def test_what_was_measured_is_believed_and_one_hiccup_is_not() -> None:
    costs = StepCosts()
    for seconds in (1.0, 1.1, 50.0, 1.1, 1.2):
        costs.add(1, seconds)
    assert costs.seconds(1) == 1.1
    costs.add(8, 3.0)
    assert costs.seconds(8) == 3.0


@given(st.dictionaries(st.sampled_from((1, 2, 4, 8, 16)), _SECONDS, min_size=1), st.data())
def test_what_was_not_measured_lies_between_its_neighbours(
    known: dict[int, float], data: st.DataObject
) -> None:
    costs = StepCosts()
    for tokens, seconds in known.items():
        costs.add(tokens, seconds)
    tokens = data.draw(st.integers(1, 20))
    lower = [seconds for size, seconds in sorted(known.items()) if size <= tokens]
    upper = [seconds for size, seconds in sorted(known.items()) if size >= tokens]
    guess = costs.seconds(tokens)
    assert guess > 0
    if lower and upper:
        slack = 1e-9 + 1e-9 * guess
        assert min(lower[-1], upper[0]) - slack <= guess <= max(lower[-1], upper[0]) + slack


@given(st.lists(st.booleans(), max_size=300), st.floats(0.05, 0.95))
def test_a_rate_is_a_probability(guesses: list[bool], prior: float) -> None:
    rate = Rate(prior)
    for right in guesses:
        before = rate.value
        rate.add(right)
        assert 0 < rate.value < 1
        assert rate.value > before if right else rate.value < before


def test_a_rate_forgets() -> None:
    rate = Rate(0.5)
    for right in [True] * 500 + [False] * 100:
        rate.add(right)
    assert rate.value < 0.2
    for _ in range(1000):
        rate.fade()
    assert rate.value == pytest.approx(0.5)


def test_a_longer_match_promises_more() -> None:
    rates = match_rates()
    assert chances(rates, 2, 4) == [rates[0].value] * 2 + [rates[1].value] * 2
    assert sum(chances(rates, 16, 7)) > sum(chances(rates, 8, 7)) > sum(chances(rates, 2, 7))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=20), st.sampled_from(SIZES))
def test_parts_fit_into_a_step(offers: list[int], size: int) -> None:
    prospects = [Prospect([0.9] * offer) for offer in offers]
    counts = parts(prospects, size)
    assert all(count <= offer for count, offer in zip(counts, offers, strict=True))
    assert sum(counts) + len(offers) <= max(size, len(offers))


@given(
    st.lists(st.lists(st.floats(0.01, 0.99), max_size=15), min_size=1, max_size=8),
    st.floats(0, 1.2),
    st.floats(0, 100),
    st.integers(1, 16),
)
def test_a_plan_keeps_what_it_promises(
    offers: list[list[float]], extra: float, credit: float, most: int
) -> None:
    costs, prospects = _costs(extra), [Prospect(offer) for offer in offers]
    counts = plan(prospects, costs, credit=credit, most=most)
    assert len(counts) == len(offers)
    if any(counts):
        assert len(offers) + sum(counts) <= most
        plain = costs.seconds(len(offers))
        seconds = costs.step({number: 1 + count for number, count in enumerate(counts)})
        assert seconds - plain <= credit
        expected = [
            prospect.expected(count) for prospect, count in zip(prospects, counts, strict=True)
        ]
        assert sum(expected) / seconds > len(offers) / plain
        for alone in expected:
            assert alone / seconds >= 0.8 / plain


@settings(deadline=None, max_examples=40)
@given(lengths=st.dictionaries(st.integers(0, 3), st.integers(1, 5), min_size=1))
def test_llama_cpp_computes_a_step_in_these_passes(
    tiny_model: Path, lengths: dict[int, int]
) -> None:
    seen = []

    def see(pointer: Any, ask: bool, _data: object) -> bool:
        tensor = pointer.contents
        if ask and tensor.name == b"l_out-0":
            seen.append(tensor.ne[1])
        return False

    kind = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.POINTER(_Tensor), ctypes.c_bool, ctypes.c_void_p)
    callback = kind(see)
    options = ContextOptions(length=1024, batch=64, threads=1, sequences=4, outputs=4)
    with (
        Model(tiny_model) as model,
        Context(model, options, evaluation_callback=callback) as context,
    ):
        batch = Batch(64)
        for sequence in sorted(lengths):
            for position in range(lengths[sequence]):
                batch.add(7, position, sequence=sequence)
        context.decode(batch)
        batch.close()
    assert seen == passes(lengths)


def test_what_a_step_of_several_passes_took_is_theirs_in_parts() -> None:
    costs = _costs(0.5, second=0.1)
    costs.learn([4, 2], 0.8)
    assert costs.seconds(4) == pytest.approx((0.25 + 0.5) / 2)  # the median of two
    assert costs.seconds(2) == pytest.approx((0.15 + 0.3) / 2)
    unknown = StepCosts()
    unknown.learn([3, 3], 0.8)
    assert unknown.seconds(3) == pytest.approx(0.4)


def test_a_draft_for_one_of_several_is_a_pass_more() -> None:
    offers = [Prospect([0.9] * 7), Prospect(), Prospect()]
    costs = _costs(0.01)
    assert plan(offers, costs, credit=1e9, most=16) == (0, 0, 0)
    assert plan([Prospect([0.9] * 7)] * 3, costs, credit=1e9, most=16) == (4, 4, 4)
    # with a gap between them, each is computed for itself anyway
    assert any(plan(offers, costs, credit=1e9, most=16, sequences=[0, 2, 4]))


def test_nothing_is_drafted_before_anything_was_measured() -> None:
    assert plan([Prospect([0.99] * 15)], StepCosts(), credit=1e9, most=16) == (0,)


@pytest.mark.parametrize(
    ("extra", "chance", "drafted"),
    [(0.05, 0.99, 15), (0.05, 0.3, 3), (0.6, 0.99, 15), (0.6, 0.5, 0), (1.0, 0.99, 0)],
)
def test_what_pays_is_drafted(extra: float, chance: float, drafted: int) -> None:
    assert plan([Prospect([chance] * 15)], _costs(extra), credit=1e9, most=16) == (drafted,)


def test_a_draft_that_takes_long_to_make_does_not_pay() -> None:
    costs = _costs(0.05)
    quick = Prospect([0.9] * 7, lambda count: 0.05 * count)
    slow = Prospect([0.9] * 7, lambda count: 0.95 * count)
    assert plan([quick], costs, credit=1e9, most=16) == (7,)
    assert plan([slow], costs, credit=1e9, most=16) == (0,)


def test_an_answer_that_has_no_draft_is_not_made_to_wait() -> None:
    copying, writing = Prospect([0.99] * 15), Prospect()
    assert plan([copying, writing], _costs(0.5), credit=1e9, most=16) == (0, 0)
    assert sum(plan([copying, copying], _costs(0.3), credit=1e9, most=16)) > 0
    assert plan([copying] * 16, _costs(0.05), credit=1e9, most=16) == (0,) * 16


@settings(deadline=None, max_examples=50)
@given(
    st.randoms(use_true_random=False),
    st.floats(0.02, 1.5),
    st.floats(0, 1),
    st.lists(st.sampled_from((2, 5, 9, 16)), min_size=1, max_size=5),
)
def test_what_is_lost_is_bounded(
    chance: random.Random, extra: float, truth: float, lengths: list[int]
) -> None:
    """Whatever is guessed and whatever steps cost: 1%, a few steps, never more."""
    costs, ledger, rates = StepCosts(), Ledger(), match_rates()
    spent, tokens, worst = 0.0, 0, 0.0
    while tokens < 600:
        # drafts look good whatever happens to them: the rates are never told
        prospect = Prospect(chances(rates, chance.choice(lengths), 15))
        (count,) = plan([prospect], costs, credit=ledger.credit, most=16)
        right = 0
        while right < count and chance.random() < truth:
            right += 1
        took = 1 + extra * count
        if not costs.known or costs.seconds(1 + count) < took:
            worst = max(worst, took - costs.seconds(1 + count))
        costs.add(1 + count, took)
        plain = costs.seconds(1)
        ledger.step(plain, spent=costs.seconds(1 + count) - plain, saved=right * plain)
        spent += took
        tokens += 1 + right
    assert spent <= tokens * 1.01 + 1.5 + worst + 1e-6
