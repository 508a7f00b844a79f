"""Blocks that the other side has are found wherever they are now, and nothing else is."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.bundle.delta_blocks import BLOCK_BYTES, Run, block_hashes, find_runs


def rebuilt(runs: list[Run[str]], new: bytes, sources: dict[str, bytes]) -> bytes:
    parts = []
    for run in runs:
        count = run.end - run.start
        if run.source is None:
            parts.append(new[run.start : run.end])
        else:
            parts.append(sources[run.source][run.offset : run.offset + count])
    return b"".join(parts)


def noise(count: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(count)


@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 3000), st.binary(max_size=40))),
    st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_what_is_found_gives_the_new_bytes(edits: list[tuple[int, int, bytes]], seed: int) -> None:
    old = noise(17_000, seed)
    new = old
    for place, gone, come in edits:
        new = new[:place] + come + new[place + gone :]
    sources = {"old": old, "other": noise(3000, 99)}
    runs = find_runs(new, [(name, block_hashes(data)) for name, data in sources.items()])
    assert [run.start for run in runs] == [0, *(run.end for run in runs)][: len(runs)]
    assert (runs[-1].end if runs else 0) == len(new)
    assert rebuilt(runs, new, sources) == new


def test_an_insertion_costs_two_blocks_at_most() -> None:
    old = noise(100_000)
    new = old[:50_123] + b"something new" + old[50_123:]
    runs = find_runs(new, [("old", block_hashes(old))])
    lacking = sum(run.end - run.start for run in runs if run.source is None)
    assert 13 < lacking < 13 + 2 * BLOCK_BYTES
    assert len(runs) <= 4  # blocks that follow each other are one run


def test_the_run_goes_on_where_several_have_the_same_block() -> None:
    old = noise(BLOCK_BYTES) * 2 + noise(5 * BLOCK_BYTES, 1)
    runs = find_runs(old, [("old", block_hashes(old))])
    assert rebuilt(runs, old, {"old": old}) == old
    assert len(runs) <= 2


def test_nothing_known_nothing_found() -> None:
    assert find_runs(b"", []) == []
    assert find_runs(b"abc", [("old", ())]) == [Run(0, 3)]
