"""The index finds what a search through the whole text finds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.runtime.lookup import PromptLookup

_TEXTS = st.lists(st.integers(0, 3), max_size=60)


def _searched(text: list[int], shortest: int, longest: int) -> tuple[int, int]:
    """The latest place where the longest end of the text, up to `longest`, came before."""
    for length in range(longest, shortest - 1, -1):
        for place in range(len(text) - 1, length - 1, -1):
            if text[place - length : place] == text[len(text) - length :]:
                while length < min(place, 16) and text[place - length - 1] == text[-length - 1]:
                    length += 1
                return place, length
    return 0, 0


@given(_TEXTS, _TEXTS, st.integers(1, 3), st.integers(0, 3))
def test_it_finds_what_a_search_finds(
    prompt: list[int], answer: list[int], shortest: int, more: int
) -> None:
    lookup = PromptLookup(prompt, shortest=shortest, longest=shortest + more)
    text = list(prompt)
    assert lookup.match() == _searched(text, shortest, shortest + more)
    for token in answer:
        lookup.append(token)
        text.append(token)
        assert lookup.match() == _searched(text, shortest, shortest + more)


@given(_TEXTS, st.integers(1, 20), st.data())
def test_what_comes_after_a_place_goes_on_with_itself(
    text: list[int], count: int, data: st.DataObject
) -> None:
    lookup = PromptLookup(text)
    if text:
        place = data.draw(st.integers(0, len(text) - 1))
        whole = list(text)
        for index in range(count):
            whole.append(whole[place + index])
        assert lookup.after(place, count) == tuple(whole[len(text) :])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200), st.integers(8, 30))
def test_no_more_is_remembered_than_was_said(tokens: list[int], remembered: int) -> None:
    """What is found then is what a search through the part that is left finds."""
    lookup = PromptLookup(tokens[:5], remembered=remembered)
    for index, token in enumerate(tokens[5:], 6):
        lookup.append(token)
        assert len(lookup) <= remembered
        assert len(lookup) >= min(index, remembered // 2)
        assert lookup.match() == _searched(tokens[index - len(lookup) : index], 2, 4)


def test_a_loop_is_foreseen() -> None:
    lookup = PromptLookup([9, 1, 2, 3, 1, 2, 3, 1, 2])
    place, length = lookup.match()
    assert length == 5
    assert lookup.after(place, 7) == (3, 1, 2, 3, 1, 2, 3)
