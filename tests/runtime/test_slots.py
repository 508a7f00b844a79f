"""What a step computes: every answer goes on, and prompts share the rest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.runtime.slots import Slot, next_shares


def _slot(number: int, prompt: int, cached: int, answer: int, scored: bool = False) -> Slot:
    """One with a prompt of so many tokens, of which the cache holds some, or an answer."""
    job: Any = SimpleNamespace(
        prompt=tuple(range(prompt)),
        length=prompt + answer,
        answering=bool(answer),
        rest=lambda held: text[held:],
        options=SimpleNamespace(score_prompt=scored),
    )
    text = (*range(prompt), *range(1000, 1000 + answer))
    held = prompt + answer - 1 if answer else min(cached, prompt - 1)
    return Slot(number, list(range(held)), job)


_SLOTS = st.lists(
    st.tuples(st.integers(1, 60), st.integers(0, 60), st.integers(0, 2)), min_size=1, max_size=6
)


@given(_SLOTS, st.integers(6, 64))
def test_no_answer_waits_and_no_batch_overflows(
    kinds: list[tuple[int, int, int]], capacity: int
) -> None:
    slots = [_slot(number, *kind) for number, kind in enumerate(kinds)]
    shares = next_shares([*slots, Slot(99)], capacity, len(slots))
    assert sum(len(share.tokens) for share in shares) <= capacity
    assert {share.slot.sequence for share in shares} == set(range(len(slots)))
    for share in shares:
        job: Any = share.slot.job
        assert share.tokens
        if job.answering:
            assert (share.tokens, share.ends) == (job.rest(len(share.slot.cached)), True)
            assert len(share.tokens) == 1
        else:
            begin = len(share.slot.cached)
            assert share.tokens == job.prompt[begin : begin + len(share.tokens)]
            assert share.ends == (begin + len(share.tokens) == len(job.prompt))


@given(_SLOTS, st.integers(6, 64))
def test_nothing_is_left_free_while_a_prompt_waits(
    kinds: list[tuple[int, int, int]], capacity: int
) -> None:
    slots = [_slot(number, *kind) for number, kind in enumerate(kinds)]
    shares = next_shares(slots, capacity, len(slots))
    unfinished = [share for share in shares if not share.ends]
    if unfinished:
        assert sum(len(share.tokens) for share in shares) == capacity
        longest = max(len(share.tokens) for share in unfinished)
        assert longest - min(len(share.tokens) for share in unfinished) <= 1


@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=6), st.data())
def test_rows_of_logits_are_never_too_many(kinds: list[tuple[int, bool]], data: Any) -> None:
    slots = [_slot(number, prompt, 0, 0, scored) for number, (prompt, scored) in enumerate(kinds)]
    rows = data.draw(st.integers(len(slots), 80))
    capacity = data.draw(st.integers(len(slots), 80))
    shares = next_shares(slots, capacity, rows)
    assert len(shares) == len(slots)
    assert sum(share.rows for share in shares) <= rows
    assert sum(len(share.tokens) for share in shares) <= capacity
    for share in shares:
        job: Any = share.slot.job
        assert share.tokens
        scored = job.options.score_prompt
        assert share.rows == (len(share.tokens) if scored else int(share.ends))


def test_a_short_prompt_is_done_beside_a_long_one() -> None:
    long, short = _slot(0, 500, 0, 0), _slot(1, 10, 0, 0)
    shares = {share.slot.sequence: share for share in next_shares([long, short], 100, 2)}
    assert (len(shares[0].tokens), shares[0].ends) == (90, False)
    assert (len(shares[1].tokens), shares[1].ends) == (10, True)


def test_an_answer_that_is_no_longer_held_is_computed_again() -> None:
    slot = _slot(0, 30, 0, 5, scored=True)
    slot.cached.clear()
    (part,) = next_shares([slot], 20, 1)
    assert (len(part.tokens), part.ends, part.rows) == (20, False, 0)
    (whole,) = next_shares([slot], 64, 1)
    assert (len(whole.tokens), whole.ends, whole.rows) == (35, True, 1)


def test_one_token_of_a_prompt_is_always_left_to_compute() -> None:
    assert Slot(0, [1, 2, 3]).overlap([1, 2, 3]) == 2
    assert Slot(0, [1, 2, 3]).overlap([1, 2, 9, 9]) == 2
    assert Slot(0, [1, 2, 3]).overlap([1]) == 0
