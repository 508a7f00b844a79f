"""Memory that counts when it is used: pages that hold nothing go back to the system.

llama.cpp writes zeros into a KV cache when it makes one, and so takes all of its memory, however
little is said then. Linux can take such pages back: when they are touched again, they are there
and zero. Pages of a mapped file come from the file again. On other systems nothing happens.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_MAPS = Path("/proc/self/maps")
_BLOCK = 1 << 20
_LEAST_BLOCKS = 4
_MMAP_THRESHOLD = -3
"""Its number in glibc's malloc.h."""
_LARGE = 1 << 20

Range = tuple[int, int]
"""First address, and the one after the last."""


def anonymous() -> list[Range]:
    """Memory that is of no file, and may be written; empty where the system does not tell."""
    return [range_ for range_, rights, path in _mappings() if rights == "rw-p" and not path]


def give_back_zeros(before: Sequence[Range]) -> int:
    """Give back what was mapped since then and holds nothing but zeros; how many bytes it was.

    Only large stretches, without their ends: Python's own memory, of which it may make use at any
    time, comes in pieces of one block. No other thread may make buffers meanwhile.

    Args:
        before: What `anonymous` was.
    """
    given = 0
    for start, end in _without(anonymous(), before):
        for run in _zero_runs(-(-start // _BLOCK) * _BLOCK, end):
            given += _give_back((run[0] + _BLOCK, run[1] - _BLOCK))
    return given


def give_back_file(path: Path) -> int:
    """Give back the pages of a file that is mapped to be read; how many bytes it is mapped with."""
    wanted = os.path.realpath(path)
    return sum(
        _give_back(range_)
        for range_, rights, mapped in _mappings()
        if mapped == wanted and "w" not in rights
    )


def keep_large_apart() -> None:
    """Have each large buffer in pages of its own from now on, which go back when it is freed.

    glibc puts them into its heap once it has seen such a one freed; where buffers are replaced
    again and again, as with each change of adapter, the gaps they leave stay. Elsewhere nothing
    happens.
    """
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    if tell is not None:
        tell(_MMAP_THRESHOLD, _LARGE)


def _mappings() -> Iterator[tuple[Range, str, str]]:
    """Addresses, rights and path of all mappings of this process."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    try:
        lines = _MAPS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        addresses, rights, _, _, _, *path = line.split(maxsplit=5)
        start, _, end = addresses.partition("-")
        yield (int(start, 16), int(end, 16)), rights, path[0] if path else ""


def _without(ranges: Sequence[Range], others: Sequence[Range]) -> Iterator[Range]:
    """What of the ranges is in none of the others; all are in order."""
    for start, end in ranges:
        for other_start, other_end in others:
            if other_end <= start or other_start >= end:
                continue
            if start < other_start:
                yield start, other_start
            start = other_end
        if start < end:
            yield start, end


def _zero_runs(start: int, end: int) -> Iterator[Range]:
    """Where whole blocks hold nothing, many in a row."""
    first = start
    for block in range(start, end, _BLOCK):
        if block + _BLOCK <= end and _is_zero(block):
            continue
        if block - first >= _LEAST_BLOCKS * _BLOCK:
            yield first, block
        first = block + _BLOCK
    last = start + (max(end - start, 0) // _BLOCK) * _BLOCK
    if last - first >= _LEAST_BLOCKS * _BLOCK:
        yield first, last


def _is_zero(block: int) -> bool:
    memory: Any = (ctypes.c_uint64 * (_BLOCK // 8)).from_address(block)
    return not np.frombuffer(memory, np.uint64).any()


def _give_back(range_: Range) -> int:
    """Its bytes; 0 where the system keeps them, as it does with what is locked."""
    start, end = range_
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return end - start if advise(start, end - start, mmap.MADV_DONTNEED) == 0 else 0
