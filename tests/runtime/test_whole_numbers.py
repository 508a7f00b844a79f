"""Grammars of ranges, read as regular expressions."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.runtime.whole_numbers import between

_ENDS = st.one_of(st.integers(-150, 150), st.integers(-(10**15), 10**15))


def _matches(grammar: str, text: str) -> bool:
    return re.fullmatch(grammar.replace('"', "").replace(" ", ""), text) is not None


@given(_ENDS, _ENDS, st.data())
def test_all_in_between_and_no_other(one: int, other: int, data: st.DataObject) -> None:
    low, high = sorted((one, other))
    grammar = between(low, high)
    near = st.sampled_from((low, high)).flatmap(lambda end: st.integers(end - 12, end + 12))
    for number in data.draw(st.lists(st.one_of(near, st.integers(low, high)), min_size=20)):
        assert _matches(grammar, str(number)) == (low <= number <= high)
    for wrong in ("", "-", "-0", "00", "01", "+1", "1.0"):
        assert not _matches(grammar, wrong)


@given(st.integers(-(10**15), 10**15), st.integers(-(10**16) + 1, 10**16 - 1))
def test_one_bound_is_enough(bound: int, number: int) -> None:
    assert _matches(between(bound, None), str(number)) == (number >= bound)
    assert _matches(between(None, bound), str(number)) == (number <= bound)


def test_every_small_range() -> None:
    for low in range(-12, 13):
        for high in range(low, 121, 7):
            grammar = between(low, high)
            found = [number for number in range(-30, 140) if _matches(grammar, str(number))]
            assert found == list(range(low, high + 1))
