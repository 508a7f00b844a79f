"""Pages go back to the system and nothing changes."""

from __future__ import annotations

import mmap
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.llama import pages
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model

_MIB = 1 << 20
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes pages back")


def _resident(pattern: str) -> int:
    """Bytes that are resident of this process, of the kind named."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(pattern):
            return int(line.split()[1]) * 1024
    raise ValueError(pattern)


def _mapped(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


@linux
def test_zeros_are_given_back_and_stay_zeros() -> None:
    before = pages.anonymous()
    with _mapped(64 * _MIB) as memory:
        memory.write(bytes(64 * _MIB))
        said = {place: random.Random(place).randbytes(9) for place in (17, 30 * _MIB, 50 * _MIB)}
        for place, data in said.items():
            memory[place : place + 9] = data
        full = _resident("RssAnon")
        given_back = pages.give_back_zeros(before)
        assert given_back > 40 * _MIB
        assert full - _resident("RssAnon") > 40 * _MIB
        expected = bytearray(64 * _MIB)
        for place, data in said.items():
            expected[place : place + 9] = data
        assert memory[:] == bytes(expected)


@linux
def test_what_was_there_before_is_left_alone() -> None:
    with _mapped(64 * _MIB) as memory:
        memory.write(bytes(64 * _MIB))
        full = _resident("RssAnon")
        pages.give_back_zeros(pages.anonymous())
        assert _resident("RssAnon") > full - 8 * _MIB


@linux
def test_a_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = random.Random(0).randbytes(16 * _MIB)
    path.write_bytes(data)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        assert memory[:] == data
        full = _resident("RssFile")
        assert pages.give_back_file(path) == 16 * _MIB
        assert full - _resident("RssFile") > 8 * _MIB
        assert memory[:] == data


def test_a_file_that_is_not_mapped(tmp_path: Path) -> None:
    assert pages.give_back_file(tmp_path / "none") == 0


@linux
def test_a_context_that_fills_computes_the_same(tiny_model: Path) -> None:
    options = {"length": 1 << 19, "batch": 32}
    with Model(tiny_model) as model:
        tokens = model.tokenize("hello there and here")
        results, resident = [], []
        for as_it_fills in (False, True):
            empty = _resident("RssAnon")
            with Context(model, ContextOptions(**options, as_it_fills=as_it_fills)) as context:
                resident.append(_resident("RssAnon") - empty)
                context.prefill(tokens)
                results.append(context.logits().copy())
                kv_bytes = context.buffer_bytes["kv"]
    np.testing.assert_array_equal(*results)
    assert kv_bytes > 32 * _MIB
    assert resident[1] < resident[0] - kv_bytes / 2


_RANGES = st.lists(st.integers(0, 40), unique=True, max_size=12).map(
    lambda ends: list(zip(sorted(ends)[::2], sorted(ends)[1::2], strict=False))
)


@given(_RANGES, _RANGES)
def test_what_is_new(now: list[pages.Range], before: list[pages.Range]) -> None:
    def places(ranges: list[pages.Range]) -> set[int]:
        return {place for start, end in ranges for place in range(start, end)}

    new = list(pages._without(now, before))
    assert places(new) == places(now) - places(before)
    assert sum(end - start for start, end in new) == len(places(new))
