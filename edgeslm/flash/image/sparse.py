"""Files with holes where nothing but zeros lies: images are mostly that."""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgeslm.errors import InvalidImage, reading, writing
from edgeslm.progress import Advance

_PIECE_BYTES = 1 << 20
_HOLE_BYTES = 64 << 10
_MOVED_BYTES = 8 << 20
_ZEROS = bytes(_HOLE_BYTES)
COMPRESSED = frozenset({".xz", ".gz"})


def unpack(source: Path, target: Path, advance: Advance) -> int:
    """Write a disk image, unpacked where it is compressed, with holes for its zeros.

    Args:
        source: A plain image, or one whose name ends in .xz or .gz.
        target: A file that exists and is empty.
        advance: Told the bytes read of `source`.

    Returns:
        The image's size in bytes.

    Raises:
        InvalidImage: what is compressed is damaged or cut off.
        EdgeslmError: one cannot be read, the other not written.
    """
    with reading(source), source.open("rb") as raw:
        stream = _stream(raw, source.suffix)
        with target.open("r+b") as file:
            size = told = 0
            for piece in _pieces(stream, source):
                with writing(target):
                    _write_sparsely(file, size, piece)
                size += len(piece)
                advance(raw.tell() - told)
                told = raw.tell()
            with writing(target):
                file.truncate(size)
    return size


def _stream(raw: BinaryIO, suffix: str) -> BinaryIO | gzip.GzipFile | lzma.LZMAFile:
    if suffix == ".xz":
        return lzma.open(raw, "rb")
    return gzip.open(raw, "rb") if suffix == ".gz" else raw


def _pieces(stream: BinaryIO | gzip.GzipFile | lzma.LZMAFile, source: Path) -> Iterator[bytes]:
    while True:
        try:
            piece = stream.read(_PIECE_BYTES)
        except (lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError) as error:
            raise InvalidImage(
                f"{source}: damaged or cut off: {error}", hint="Fetch it again."
            ) from error
        if not piece:
            return
        yield piece


def _write_sparsely(file: BinaryIO, offset: int, piece: bytes) -> None:
    for at in range(0, len(piece), _HOLE_BYTES):
        part = piece[at : at + _HOLE_BYTES]
        if part != _ZEROS[: len(part)]:
            file.seek(offset + at)
            file.write(part)


def copy_region(source: Path, offset: int, size: int, target: Path, place: int = 0) -> None:
    """Copy a part of a file to the end of another, which is `place` bytes long; holes stay holes.

    Raises:
        EdgeslmError: one cannot be read, the other not written.
    """
    with reading(source), source.open("rb") as old, writing(target), target.open("r+b") as new:
        _copy(old, offset, size, new, place)
        new.truncate(place + size)


def move_region(source: Path, offset: int, target: Path, place: int = 0) -> None:
    """Move all of a file from `offset` on to the end of another, which is `place` bytes long.

    It goes from the end to the beginning, and the source shrinks by what has been moved: on one
    disk both take hardly more room than one.

    Raises:
        EdgeslmError: one cannot be read, the other not written.
    """
    with reading(source), source.open("r+b") as old, writing(target), target.open("r+b") as new:
        end = old.seek(0, os.SEEK_END)
        new.truncate(place + end - offset)
        while end > offset:
            start = max(offset, end - _MOVED_BYTES)
            _copy(old, start, end - start, new, place + start - offset)
            old.truncate(start)
            end = start


def _copy(old: BinaryIO, offset: int, size: int, new: BinaryIO, place: int) -> None:
    at, end = offset, offset + size
    while at < end:
        start, stop = _data(old.fileno(), at, end)
        os.lseek(old.fileno(), start, os.SEEK_SET)
        while start < stop and (piece := os.read(old.fileno(), min(stop - start, _PIECE_BYTES))):
            _write_sparsely(new, place + start - offset, piece)
            start += len(piece)
        at = max(stop, at + 1)


def _data(descriptor: int, at: int, end: int) -> tuple[int, int]:
    """The next stretch of data from `at` on, and no further than `end`."""
    try:
        start = os.lseek(descriptor, at, os.SEEK_DATA)
        stop = os.lseek(descriptor, start, os.SEEK_HOLE)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole is left
            return end, end
        return at, end
    return min(start, end), min(stop, end)


def unpacked_bytes(source: Path) -> int | None:
    """How large an image is when it is unpacked; None where that is not said without unpacking.

    Source: the .xz file format 1.1.0, sections 2.1.2 (footer) and 4 (index). What has several
    streams is not looked through.
    """
    with reading(source), source.open("rb") as file:
        if source.suffix not in COMPRESSED:
            return file.seek(0, os.SEEK_END)
        size = file.seek(0, os.SEEK_END)
        if source.suffix != ".xz" or size < 32:
            return None
        file.seek(size - 12)
        footer = file.read(12)
        index_bytes = (int.from_bytes(footer[4:8], "little") + 1) * 4
        if footer[10:] != b"YZ" or index_bytes > min(size - 24, _MOST_INDEX_BYTES):
            return None
        file.seek(size - 12 - index_bytes)
        return _indexed_bytes(file.read(index_bytes), size)


_MOST_INDEX_BYTES = 16 << 20


def _indexed_bytes(index: bytes, file_bytes: int) -> int | None:
    """The sum of an index's blocks; None if they are not all of a file of that size."""
    numbers, value, shift = [], 0, 0
    for byte in index[1:]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
    if not numbers or len(numbers) < 1 + 2 * numbers[0]:
        return None
    pairs = numbers[1 : 1 + 2 * numbers[0]]
    packed = sum(-(-length // 4) * 4 for length in pairs[::2])
    whole = packed + len(index) + 24
    return sum(pairs[1::2]) if whole == file_bytes else None
