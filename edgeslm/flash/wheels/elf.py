"""What a shared library asks of the system that loads it, from its own headers.

64-bit little-endian ELF, as both architectures have it. Sources: System V ABI (headers, dynamic
section), LSB core specification (`.gnu.version_r`: which versions of symbols are needed).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from edgeslm.errors import InvalidBundle

MACHINES = {183: "aarch64", 62: "x86_64"}
"""`e_machine` by its number."""
_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRTAB, _RUNPATH = 1, 5, 29
_VERNEED, _VERNEED_COUNT = 0x6FFFFFFE, 0x6FFFFFFF
_MOST = 4096


@dataclass(frozen=True)
class Library:
    """A shared library.

    Attributes:
        machine: As Linux names it; None for one we do not know.
        needed: Sonames of the libraries that it loads.
        versions: What it needs of them, as in GLIBC_2.34.
        runpath: Where it looks for them first; None for nowhere.
    """

    machine: str | None
    needed: tuple[str, ...]
    versions: tuple[str, ...]
    runpath: str | None

    def newest(self, prefix: str) -> tuple[int, ...]:
        """The highest of the versions that begin with `prefix` and "_"; empty if there is none."""
        found = (name.partition("_") for name in self.versions)
        numbers = [
            tuple(map(int, number.split(".")))
            for before, _, number in found
            if before == prefix and number.replace(".", "0").isdecimal()
        ]
        return max(numbers, default=())


def read_library(data: bytes, name: str) -> Library:
    """The facts of one.

    Args:
        data: The whole file.
        name: For messages.

    Raises:
        InvalidBundle: it is no such file, or a damaged one.
    """
    try:
        return _Reader(data).library()
    except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
        raise InvalidBundle(
            f"{name}: not a 64-bit shared library: {error}", hint="Build it again."
        ) from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("no ELF header")
        self._machine = self._numbers("<H", 18)[0]
        self._segments = list(self._program_headers())

    def library(self) -> Library:
        entries = list(self._dynamic())
        values = dict(reversed(entries))
        strings = self._offset(values[_STRTAB]) if _STRTAB in values else 0
        runpath = values.get(_RUNPATH)
        return Library(
            machine=MACHINES.get(self._machine),
            needed=tuple(self._text(strings + value) for tag, value in entries if tag == _NEEDED),
            versions=tuple(self._versions(values, strings)),
            runpath=None if runpath is None else self._text(strings + runpath),
        )

    def _numbers(self, form: str, offset: int) -> tuple[int, ...]:
        if not 0 <= offset <= len(self._data):
            raise ValueError("an offset outside of the file")
        found: tuple[int, ...] = struct.unpack_from(form, self._data, offset)
        return found

    def _program_headers(self) -> Iterator[tuple[int, int, int, int]]:
        """Type, offset in the file, address, bytes in the file of each segment."""
        (start,) = self._numbers("<Q", 32)
        size, count = self._numbers("<HH", 54)
        for number in range(min(count, _MOST)):
            at = start + number * size
            kind, _, offset, address, _, length = self._numbers("<IIQQQQ", at)
            yield kind, offset, address, length

    def _dynamic(self) -> Iterator[tuple[int, int]]:
        for kind, offset, _, length in self._segments:
            if kind == _DYNAMIC:
                for at in range(offset, offset + min(length, 16 * _MOST), 16):
                    tag, value = self._numbers("<QQ", at)
                    if tag == 0:
                        return
                    yield tag, value

    def _offset(self, address: int) -> int:
        for kind, offset, start, length in self._segments:
            if kind == _LOAD and start <= address < start + length:
                return address - start + offset
        raise ValueError("an address outside of all segments")

    def _text(self, offset: int) -> str:
        return self._data[offset : self._data.index(b"\0", offset)].decode("ascii")

    def _versions(self, values: dict[int, int], strings: int) -> Iterator[str]:
        if _VERNEED not in values:
            return
        at = self._offset(values[_VERNEED])
        for _ in range(min(values.get(_VERNEED_COUNT, 0), _MOST)):
            _, count, _, first, following = self._numbers("<HHIII", at)
            entry = at + first
            for _ in range(min(count, _MOST)):
                _, _, _, name, step = self._numbers("<IHHII", entry)
                yield self._text(strings + name)
                entry += step
            at += following
