"""Partition tables of disk images: reading them, and growing the last partition. Pure.

Sources: UEFI specification 2.10, section 5 (both forms); sectors are of 512 bytes, as in every
image that is meant for a memory card.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from edgeslm.errors import InvalidImage, Unsupported

SECTOR = 512
FAT_TYPES = frozenset({"01", "04", "06", "0b", "0c", "0e", "ef"})
FAT_GUIDS = frozenset(
    {"c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"}
)
"""EFI system partition, and Microsoft's basic data."""

_EXTENDED = frozenset({"05", "0f", "85"})
_PROTECTIVE = 0xEE
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_MOST_ENTRIES, _MOST_ENTRY_BYTES = 1024, 4096
_MOST_SECTORS = 0xFFFFFFFF

ReadAt = Callable[[int, int], bytes]
"""The bytes at an offset; fewer than asked for at the end."""


@dataclass(frozen=True)
class Partition:
    """One of them.

    Attributes:
        number: As in the table, from 1.
        start, size: In bytes.
        kind: Two hex digits in an MBR, a GUID in a GPT.
    """

    number: int
    start: int
    size: int
    kind: str

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.start + self.size

    @property
    def may_be_fat(self) -> bool:
        """Whether such partitions hold FAT; only its first sector says so for sure."""
        return self.kind in FAT_TYPES | FAT_GUIDS


@dataclass(frozen=True)
class Table:
    """All of them, in the order in which they lie on the disk."""

    form: Literal["mbr", "gpt"]
    partitions: tuple[Partition, ...]

    @property
    def last(self) -> Partition:
        """The one that can grow."""
        return self.partitions[-1]


@dataclass(frozen=True)
class Patch:
    """Bytes that go to an offset."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class _Gpt:
    """A header that was checked, and its entries."""

    raw: bytes
    size: int
    entries_sector: int
    count: int
    entry_bytes: int
    entries: bytes


def read_table(read: ReadAt, size: int) -> Table:
    """The partitions of a disk of `size` bytes.

    Raises:
        InvalidImage: there is no table, or it contradicts itself or the disk.
        Unsupported: partitions within partitions.
    """
    first = read(0, SECTOR)
    if len(first) < SECTOR or first[510:512] != b"\x55\xaa":
        raise InvalidImage("no partition table: not a disk image", hint=_WHICH)
    found = _mbr_entries(first)
    if any(entry.kind == f"{_PROTECTIVE:02x}" for entry in found):
        form: Literal["mbr", "gpt"] = "gpt"
        found = _gpt_entries(_read_gpt(read, size))
    else:
        form = "mbr"
        if any(entry.kind in _EXTENDED for entry in found):
            raise Unsupported(
                "a disk image with partitions within an extended one",
                hint="Use an image with primary partitions only, as Raspberry Pi OS has them.",
            )
    ordered = tuple(sorted(found, key=lambda entry: entry.start))
    _check(ordered, size)
    return Table(form, ordered)


_WHICH = "Name a disk image such as that of Raspberry Pi OS (.img or .img.xz)."


def grown(read: ReadAt, size: int, new_size: int) -> tuple[Table, tuple[Patch, ...]]:
    """The table after the last partition took all that a disk got by growing.

    Args:
        read: The bytes of the disk.
        size: What it had, in bytes.
        new_size: What it has now; whole sectors.

    Returns:
        The new table, and the bytes that make it so.

    Raises:
        InvalidImage, Unsupported: as for `read_table`, or more than an MBR can say.
    """
    table = read_table(read, size)
    if new_size < size or new_size % SECTOR:
        raise ValueError("a disk grows by whole sectors")
    if table.form == "mbr":
        return _grown_mbr(read, table, new_size)
    return _grown_gpt(read, table, size, new_size)


def _mbr_entries(first: bytes) -> list[Partition]:
    entries = []
    for number in range(1, 5):
        at = 446 + 16 * (number - 1)
        kind, start, count = first[at + 4], *struct.unpack_from("<II", first, at + 8)
        if kind:
            entries.append(Partition(number, start * SECTOR, count * SECTOR, f"{kind:02x}"))
    return entries


def _check(ordered: tuple[Partition, ...], size: int) -> None:
    if not ordered:
        raise InvalidImage("a disk image without partitions", hint=_WHICH)
    free_from = SECTOR
    for entry in ordered:
        if entry.size <= 0 or entry.start < free_from:
            raise InvalidImage(
                f"partition {entry.number} is empty or overlaps another", hint=_DAMAGED
            )
        free_from = entry.end
    if free_from > size:
        raise InvalidImage("the partitions reach beyond the end of the image", hint=_DAMAGED)


_DAMAGED = "The image is damaged or was cut off; fetch it again."


def _read_gpt(read: ReadAt, size: int) -> _Gpt:
    raw = read(SECTOR, SECTOR)
    if len(raw) < SECTOR or raw[:8] != b"EFI PART":
        raise InvalidImage("its GPT has no header", hint=_DAMAGED)
    fields = _HEADER.unpack_from(raw)
    header_bytes, crc = fields[2], fields[3]
    entries_sector, count, entry_bytes, entries_crc = fields[10:]
    if not _HEADER.size <= header_bytes <= SECTOR:
        raise InvalidImage("its GPT has a header of an impossible length", hint=_DAMAGED)
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:header_bytes]) != crc:
        raise InvalidImage("the checksum of its GPT's header is wrong", hint=_DAMAGED)
    if not (0 < count <= _MOST_ENTRIES and 128 <= entry_bytes <= _MOST_ENTRY_BYTES):
        raise InvalidImage("its GPT has an impossible number of entries", hint=_DAMAGED)
    length = count * entry_bytes
    if entries_sector < 2 or entries_sector * SECTOR + length > size:
        raise InvalidImage("the entries of its GPT lie outside", hint=_DAMAGED)
    entries = read(entries_sector * SECTOR, length)
    if zlib.crc32(entries) != entries_crc:
        raise InvalidImage("the checksum of its GPT's entries is wrong", hint=_DAMAGED)
    return _Gpt(raw, header_bytes, entries_sector, count, entry_bytes, entries)


def _gpt_entries(gpt: _Gpt) -> list[Partition]:
    found = []
    for number in range(1, gpt.count + 1):
        at = gpt.entry_bytes * (number - 1)
        kind = gpt.entries[at : at + 16]
        if kind != bytes(16):
            start, last = struct.unpack_from("<QQ", gpt.entries, at + 32)
            guid = str(uuid.UUID(bytes_le=kind))
            found.append(Partition(number, start * SECTOR, (last + 1 - start) * SECTOR, guid))
    return found


def _with_last(table: Table, end: int) -> Table:
    last = replace(table.last, size=end - table.last.start)
    return replace(table, partitions=(*table.partitions[:-1], last))


def _grown_mbr(read: ReadAt, table: Table, new_size: int) -> tuple[Table, tuple[Patch, ...]]:
    new = _with_last(table, new_size)
    sectors = new.last.size // SECTOR
    if sectors > _MOST_SECTORS:
        raise InvalidImage("too large for its partition table", hint="Use an image with a GPT.")
    first = bytearray(read(0, SECTOR))
    struct.pack_into("<I", first, 446 + 16 * (new.last.number - 1) + 12, sectors)
    return new, (Patch(0, bytes(first)),)


def _grown_gpt(
    read: ReadAt, table: Table, size: int, new_size: int
) -> tuple[Table, tuple[Patch, ...]]:
    """Both copies of header and entries, the second at the new end, and the protective MBR."""
    gpt = _read_gpt(read, size)
    entry_sectors = -(-len(gpt.entries) // SECTOR)
    backup = new_size // SECTOR - 1
    backup_entries = backup - entry_sectors
    new = _with_last(table, backup_entries * SECTOR)
    if new.last.size < table.last.size:  # the image had no second copy, or not at its end
        raise InvalidImage("no room for the second copy of its GPT", hint=_DAMAGED)
    entries = bytearray(gpt.entries)
    at = gpt.entry_bytes * (new.last.number - 1)
    struct.pack_into("<Q", entries, at + 40, backup_entries - 1)
    first = bytearray(read(0, SECTOR))
    for number in range(4):
        if first[446 + 16 * number + 4] == _PROTECTIVE:
            struct.pack_into("<I", first, 446 + 16 * number + 12, min(backup, _MOST_SECTORS))
    header = _header(gpt, bytes(entries), 1, backup, gpt.entries_sector, backup_entries - 1)
    second = _header(gpt, bytes(entries), backup, 1, backup_entries, backup_entries - 1)
    return new, (
        Patch(backup_entries * SECTOR, bytes(entries)),
        Patch(backup * SECTOR, second),
        Patch(gpt.entries_sector * SECTOR, bytes(entries)),
        Patch(SECTOR, header),
        Patch(0, bytes(first)),
    )


def _header(
    gpt: _Gpt, entries: bytes, own: int, other: int, entries_sector: int, last_usable: int
) -> bytes:
    raw = bytearray(gpt.raw)
    struct.pack_into("<QQ", raw, 24, own, other)
    struct.pack_into("<Q", raw, 48, last_usable)
    struct.pack_into("<Q", raw, 72, entries_sector)
    struct.pack_into("<I", raw, 88, zlib.crc32(entries))
    struct.pack_into("<I", raw, 16, 0)
    struct.pack_into("<I", raw, 16, zlib.crc32(raw[: gpt.size]))
    return bytes(raw)
