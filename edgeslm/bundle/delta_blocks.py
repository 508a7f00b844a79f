"""Find in new bytes the blocks that somebody else has, knowing only those blocks' hashes.

As rsync does: of what the other side has, two hashes of every block are known, a weak one that can
be moved on by one byte at a time (Adler-32, RFC 1950) and a strong one that tells for certain. So
bytes that moved are found wherever they are now.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

BLOCK_BYTES = 1024
STRONG_DIGITS = 32
_MODULUS = 65521

Block = tuple[int, str]
"""The weak and the strong hash of a block."""
_Source = TypeVar("_Source")


@dataclass(frozen=True)
class Run(Generic[_Source]):
    """Bytes from `start` to `end` of what is new; None as a source: nobody has them."""

    start: int
    end: int
    source: _Source | None = None
    offset: int = 0


def block_hashes(data: bytes) -> tuple[Block, ...]:
    """Of each whole block."""
    ends = range(BLOCK_BYTES, len(data) + 1, BLOCK_BYTES)
    return tuple(_hashes(data[end - BLOCK_BYTES : end]) for end in ends)


def find_runs(data: bytes, known: Iterable[tuple[_Source, Iterable[Block]]]) -> list[Run[_Source]]:
    """All of `data` in runs, each found in one source or in none.

    Args:
        data: The new bytes.
        known: The blocks of each source, in its order.
    """
    table: dict[int, list[tuple[str, _Source, int]]] = {}
    for source, blocks in known:
        for number, (weak, strong) in enumerate(blocks):
            table.setdefault(weak, []).append((strong, source, number * BLOCK_BYTES))
    runs: list[Run[_Source]] = []
    begin = 0
    while begin + BLOCK_BYTES <= len(data) and table:
        position, found = _next(data, begin, table, runs[-1] if runs else None)
        if found is None:
            break
        if position > begin:
            runs.append(Run(begin, position))
        begin = position + BLOCK_BYTES
        runs.append(Run(begin - BLOCK_BYTES, begin, found[0], found[1]))
    if begin < len(data):
        runs.append(Run(begin, len(data)))
    return list(_joined(runs))


def _hashes(block: bytes) -> Block:
    return zlib.adler32(block), hashlib.sha256(block).hexdigest()[:STRONG_DIGITS]


def _next(
    data: bytes,
    start: int,
    table: dict[int, list[tuple[str, _Source, int]]],
    before: Run[_Source] | None,
) -> tuple[int, tuple[_Source, int] | None]:
    """Where the next block begins that a source has, and where that has it."""
    sums = zlib.adler32(data[start : start + BLOCK_BYTES])
    low, high = sums & 0xFFFF, sums >> 16
    for position in range(start, len(data) - BLOCK_BYTES + 1):
        if position > start:
            gone, come = data[position - 1], data[position - 1 + BLOCK_BYTES]
            low = (low - gone + come) % _MODULUS
            high = (high - BLOCK_BYTES * gone + low - 1) % _MODULUS
        entries = table.get(high << 16 | low)
        if entries is not None:
            strong = _hashes(data[position : position + BLOCK_BYTES])[1]
            found = [(source, offset) for each, source, offset in entries if each == strong]
            if found:
                return position, _following(found, before)
    return len(data), None


def _following(
    found: list[tuple[_Source, int]], before: Run[_Source] | None
) -> tuple[_Source, int]:
    """The one that goes on where the run before ended, if there is one."""
    if before is not None and before.source is not None:
        wanted = (before.source, before.offset + before.end - before.start)
        if wanted in found:
            return wanted
    return found[0]


def _joined(runs: Iterable[Run[_Source]]) -> Iterator[Run[_Source]]:
    """The same with runs in one where one source has them one after the other."""
    last: Run[_Source] | None = None
    for run in runs:
        if last is not None and last.source is not None and _ends_at(last) == _begins_at(run):
            last = Run(last.start, run.end, last.source, last.offset)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


def _begins_at(run: Run[_Source]) -> tuple[_Source | None, int]:
    return run.source, run.offset


def _ends_at(run: Run[_Source]) -> tuple[_Source | None, int]:
    return run.source, run.offset + run.end - run.start
