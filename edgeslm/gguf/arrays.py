"""Long arrays of metadata, kept as they lie in a file.

A vocabulary as Python strings takes ten times the bytes that it has in the file, for as long as the
header lives. These are sequences like any other; each item is made when it is asked for.
"""

from __future__ import annotations

import hashlib
import struct
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from array import array

_T = TypeVar("_T")


class Array(Sequence[_T]):
    """Equal to every array or tuple with the same items."""

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: int) -> _T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[_T, ...]: ...
    def __getitem__(self, index: int | slice) -> _T | tuple[_T, ...]:
        places = range(len(self))
        if isinstance(index, slice):
            return tuple(map(self._at, places[index]))
        return self._at(places[index])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Array, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(
            own == its for own, its in zip(self, other, strict=True)
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({tuple(self)!r})"

    @abstractmethod
    def digest(self) -> bytes:
        """Equal for arrays of the same type with the same items; else another."""

    @abstractmethod
    def _at(self, index: int) -> _T:
        """The item there; `index` is from 0 to below the length."""


class Texts(Array[str]):
    """Strings.

    Args:
        data: All of them in a row, each valid UTF-8.
        ends: Where in it each ends.
    """

    def __init__(self, data: bytes, ends: array[int]) -> None:
        self._data = data
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[str]:
        data, start = self._data, 0
        for end in self._ends:
            yield data[start:end].decode()
            start = end

    def digest(self) -> bytes:
        """By where each ends, and by all of them."""
        ends = hashlib.sha256(b"".join(end.to_bytes(8, "little") for end in self._ends))
        return ends.digest() + hashlib.sha256(self._data).digest()

    def _at(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return self._data[start : self._ends[index]].decode()


class Numbers(Array[Any]):
    """Numbers of one type.

    Args:
        data: Little-endian.
        code: Of the `struct` module, for one of them.
    """

    def __init__(self, data: bytes, code: str) -> None:
        self._data = data
        self._item = struct.Struct(f"<{code}")

    def __len__(self) -> int:
        return len(self._data) // self._item.size

    def __iter__(self) -> Iterator[Any]:
        for (value,) in self._item.iter_unpack(self._data):
            yield value

    def __reduce__(self) -> tuple[Any, ...]:
        return Numbers, (self._data, self._item.format[1:])

    def digest(self) -> bytes:
        """By their type, and by all of them."""
        return self._item.format.encode() + hashlib.sha256(self._data).digest()

    def _at(self, index: int) -> Any:
        return self._item.unpack_from(self._data, index * self._item.size)[0]
