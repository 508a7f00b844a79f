from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.runtime.text import TextStream


def _stream(chunks: list[bytes], stops: list[str]) -> tuple[str, list[str]]:
    stream = TextStream(stops)
    pieces = [stream.feed(chunk) for chunk in chunks]
    pieces.append(stream.finish())
    return "".join(pieces), pieces


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.text(), st.lists(st.integers(min_value=0)))
def test_text_survives_any_cutting_of_its_bytes(text: str, cuts: list[int]) -> None:
    assert _stream(_cut(text.encode(), cuts), [])[0] == text


@given(st.text(alphabet="é🙂日a"), st.lists(st.integers(min_value=0)))
def test_no_piece_holds_half_a_character(text: str, cuts: list[int]) -> None:
    assert all("\ufffd" not in piece for piece in _stream(_cut(text.encode(), cuts), [])[1])


@given(
    st.text(alphabet="abc"),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(min_value=0)),
)
def test_stop_strings_cut_like_a_search_in_the_whole_text(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    chunks = _cut(text.encode(), cuts)
    found, pieces = _stream(chunks, stops)
    # The first chunk that completes a stop string decides; then the earliest one in it.
    expected = text
    seen = ""
    for chunk in chunks:
        seen += chunk.decode()
        ends = [seen.find(stop) for stop in stops if stop in seen]
        if ends:
            expected = seen[: min(ends)]
            break
    assert found == expected
    assert not any(stop in "".join(pieces) for stop in stops)


def test_nothing_comes_after_a_stop_string() -> None:
    stream = TextStream(["END"])
    assert stream.feed(b"one EN") == "one "
    assert stream.feed(b"D two") == ""
    assert stream.stopped
    assert stream.feed(b"three") == ""
    assert stream.finish() == ""


def test_text_held_for_a_stop_that_never_came_is_given_at_the_end() -> None:
    stream = TextStream(["END"])
    assert stream.feed(b"one EN") == "one "
    assert stream.finish() == "EN"
    assert not stream.stopped


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    assert _stream([b"a\xff", b"\xe2\x82"], [])[0] == "a\ufffd\ufffd"
