from __future__ import annotations

import pickle
import struct
from array import array
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.gguf.arrays import Array, Numbers, Texts
from edgeslm.gguf.reader import read_header
from edgeslm.gguf.types import Field, ValueType
from edgeslm.gguf.writer import write_gguf


def _texts(items: list[str]) -> Texts:
    encoded = [item.encode() for item in items]
    return Texts(b"".join(encoded), array("Q", accumulate(map(len, encoded))))


def _numbers(items: list[int], code: str = "i") -> Numbers:
    return Numbers(struct.pack(f"<{len(items)}{code}", *items), code)


def _check(made: Array[object], items: list[object]) -> None:
    assert len(made) == len(items)
    assert list(made) == items
    assert [made[index] for index in range(len(items))] == items
    assert made[1:] == tuple(items[1:])
    assert made[::-1] == tuple(reversed(items))
    assert made == tuple(items)
    assert tuple(items) == made
    assert made != (*items, None)
    assert pickle.loads(pickle.dumps(made)) == made
    with pytest.raises(IndexError):
        made[len(items)]
    if items:
        assert made[-1] == items[-1]
        assert items[0] in made
        assert made != tuple(items[1:])


@given(st.lists(st.lists(st.text(max_size=3), max_size=4), min_size=2, max_size=2))
def test_texts_have_equal_digests_where_they_are_equal(both: list[list[str]]) -> None:
    one, other = map(_texts, both)
    assert (one.digest() == other.digest()) == (one == other)
    assert one.digest() == _texts(both[0]).digest()


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=2, max_size=2))
def test_numbers_have_equal_digests_where_they_are_equal(both: list[list[int]]) -> None:
    one, other = map(_numbers, both)
    assert (one.digest() == other.digest()) == (one == other)
    assert one.digest() != _numbers(both[0], "q").digest()


@given(st.lists(st.text()))
def test_texts_are_a_sequence_of_strings(items: list[str]) -> None:
    _check(_texts(items), items)


@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_numbers_are_a_sequence_of_numbers(items: list[int]) -> None:
    _check(_numbers(items), items)


def test_both_kinds_compare_by_their_items() -> None:
    assert _texts(["1"]) != _numbers([1])
    assert _numbers([1, 0], "i") == _numbers([1, 0], "B") == _numbers([1, 0], "?")
    assert _texts(["ab", "c"]) != _texts(["a", "bc"])
    assert _texts(["a"]) != ["a"]
    assert repr(_texts(["a", "b"])) == "Texts(('a', 'b'))"


def test_long_arrays_of_a_file_are_kept_as_they_lie_there(tmp_path: Path) -> None:
    texts = tuple(f"token {number} \u00e9" for number in range(5000))
    numbers = tuple(range(5000))
    fields = [
        Field("texts", ValueType.ARRAY, texts, ValueType.STRING),
        Field("numbers", ValueType.ARRAY, numbers, ValueType.INT32),
        Field("few", ValueType.ARRAY, (1, 2), ValueType.INT32),
    ]
    write_gguf(tmp_path / "one.gguf", fields, [], lambda index: b"")
    header = read_header(tmp_path / "one.gguf")
    assert isinstance(header.get("texts"), Texts)
    assert isinstance(header.get("numbers"), Numbers)
    assert isinstance(header.get("few"), tuple)
    assert header.metadata == {"texts": texts, "numbers": numbers, "few": (1, 2)}
    write_gguf(tmp_path / "two.gguf", header.fields(), [], lambda index: b"")
    assert (tmp_path / "two.gguf").read_bytes() == (tmp_path / "one.gguf").read_bytes()
