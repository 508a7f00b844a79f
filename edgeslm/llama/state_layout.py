"""Where in the bytes of a sequence's state each cell's keys and values lie.

llama.cpp reads a state only into a cache of as many streams as the one that wrote it, and all of
its cells. Here it is written anew: for another number of streams, or with its first tokens only.
After `llama_kv_cache::state_write` (llama-kv-cache.cpp):

    state     magic, sequence; a section for each cache, two where layers have windows; and what
              recurrent layers keep, which is left as it is
    section   number of streams; for each the number of its cells and, where that is not 0, those
    cells     for each position, 1, sequence; whether values are transposed, number of layers;
              for each layer type, bytes of a key, keys of all cells; then the same of values.
              Where tokens have several positions (M-RoPE), there are three more words after the 1
    values    transposed: type, bytes of a number, numbers, and for each number those of all cells

All are little-endian, of 4 bytes, but the bytes of a key or value, of 8. Whatever is not exactly so
has no layout. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_START = 8
_WORD = 4
CELL_WORDS, CELL_WORDS_OF_SEVERAL_POSITIONS = 3, 6
_MOST = 1 << 16
"""Beyond any real number of layers, streams, or bytes of a number."""
_Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """A stretch of bytes: lines, each with equally many bytes for each cell.

    Attributes:
        start: The first byte's place.
        lines: How many; 0 for a stretch of other things than cells.
        width: Bytes of a cell in a line; of all, where it is of other things.
    """

    start: int
    lines: int
    width: int


@dataclass(frozen=True)
class Section:
    """The cells of one cache.

    Attributes:
        positions: Of each cell, in the order in which they stand.
        parts: What is said of them, one after the other.
    """

    positions: NDArray[np.int32]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Layout:
    """Of one state.

    Attributes:
        sections: In their order.
        end: Where they end; what follows stays as it is.
        size: Bytes of the state.
    """

    sections: tuple[Section, ...]
    end: int
    size: int

    def bytes_for(self, streams: int) -> int:
        """How long the state is that `write` makes of all its cells."""
        total = _START + self.size - self.end
        for section in self.sections:
            cells = len(section.positions)
            total += _WORD * (1 + streams)
            total += sum(part.width * (part.lines * cells or 1) for part in section.parts)
        return total

    def holds(self, count: int, window: int) -> bool:
        """Whether all is there that the first `count` tokens, and the next, need to see."""
        first = 0
        for section in self.sections:
            there = (first <= section.positions) & (section.positions < count)
            if np.count_nonzero(there) != count - first:
                return False
            first = max(0, count - window)  # the layers with windows come after the others
        return True

    def write(
        self, data: memoryview, target: memoryview, streams: int, count: int | None = None
    ) -> int:
        """Write the state as a context of so many streams has it; how many bytes that takes.

        Args:
            data: The state.
            target: Large enough; may be `data` itself, for as many streams.
            streams: Of the context that will read it.
            count: Cells of later tokens are left out; None for none.
        """
        source, out = (np.frombuffer(view, np.uint8) for view in (data, target))
        out[:_START] = source[:_START]
        at = _START
        for section in self.sections:
            kept = np.flatnonzero(section.positions < (1 << 31 if count is None else count))
            for piece in _pieces(section, source, kept, streams):
                out[at : at + len(piece)] = piece
                at += len(piece)
        rest = source[self.end :].copy()
        out[at : at + len(rest)] = rest
        return at + len(rest)


def streams_of(data: memoryview) -> int:
    """Of the context that wrote the state, if it has keys and values; 0 if it is too short."""
    return _Reader(data, _START).word() if len(data) >= _START + _WORD else 0


def layout_of(
    data: memoryview, *, values: bool = True, several: bool = True, cell_words: int = CELL_WORDS
) -> Layout | None:
    """The layout of a state; None if it is of another kind.

    Args:
        data: All of it.
        values: Whether there are any beside the keys.
        several: Whether all of it is sections; otherwise something else follows the first.
        cell_words: So many for each cell, at the beginning of its section.
    """
    reader = _Reader(data, _START)
    sections: list[Section] = []
    try:
        while reader.at < len(data) and (several or not sections):
            sections.append(_section(reader, values, cell_words))
    except ValueError:
        return None
    return Layout(tuple(sections), reader.at, len(data)) if sections else None


class _Reader:
    """Reads on from a place; ValueError where there is not enough left, or it is not as it must."""

    def __init__(self, data: memoryview, at: int) -> None:
        self._data = data
        self.at = at

    def take(self, count: int) -> _Bytes:
        """So many bytes."""
        if count > len(self._data) - self.at:
            raise ValueError
        self.at += count
        return np.frombuffer(self._data, np.uint8, count, self.at - count)

    def word(self, most: int = 1 << 32, kind: str = "<u4") -> int:
        """One number of 4 or 8 bytes."""
        value = int(self.take(np.dtype(kind).itemsize).view(kind)[0])
        if value > most:
            raise ValueError
        return value

    def part(self, start: int, cells: int, lines: int, width: int) -> tuple[Part, Part]:
        """What was read since `start`, and the cells' bytes that follow."""
        before = Part(start, 0, self.at - start)
        place = self.at
        self.take(lines * cells * width)
        return before, Part(place, lines, width)


def _section(reader: _Reader, values: bool, cell_words: int) -> Section:
    streams = reader.word(_MOST)
    found: Section | None = None
    for _ in range(streams):
        cells = reader.word()
        if cells and found is not None:
            raise ValueError
        if cells:
            found = _cells(reader, cells, values, cell_words)
    return found or Section(np.empty(0, np.int32), ())


def _cells(reader: _Reader, cells: int, values: bool, cell_words: int) -> Section:
    start = reader.at
    words = reader.take(cells * cell_words * _WORD).view("<i4").reshape(cells, cell_words)
    if (words[:, 1] != 1).any() or (words[:, 0] < 0).any():
        raise ValueError
    parts = [Part(start, 1, cell_words * _WORD)]
    start = reader.at
    transposed, layers = reader.word(1), reader.word(_MOST)
    parts.append(Part(start, 0, reader.at - start))
    start = reader.at
    for of_keys in (True, False) if values else (True,):
        for _ in range(layers):
            reader.word(_MOST)
            if of_keys or not transposed:
                lines, width = 1, reader.word(1 << 30, "<u8")
            else:
                width, lines = reader.word(_MOST), reader.word(1 << 30)
            parts += reader.part(start, cells, lines, width)
            start = reader.at
    return Section(words[:, 0].copy(), tuple(parts))


def _pieces(
    section: Section, source: _Bytes, kept: NDArray[np.intp], streams: int
) -> Iterator[_Bytes]:
    """What the section consists of, with the cells that are kept in the first of its streams."""
    cells = len(section.positions)
    yield _words(streams, len(kept))
    for part in section.parts if len(kept) else ():
        size = part.width * (part.lines * cells or 1)
        stretch = source[part.start : part.start + size]
        if part.lines:
            lines: Any = stretch.reshape(part.lines, cells, part.width)
            yield lines[:, kept].reshape(-1)
        else:
            yield stretch.copy()
    yield _words(*[0] * (streams - 1))


def _words(*values: int) -> _Bytes:
    return np.array(values, "<u4").view(np.uint8)
