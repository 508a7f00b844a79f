"""A tar of plain files: read strictly, written the same every time.

Read is what `tar --format=ustar` or `--format=gnu` writes for files with short names, and Go too:
headers of 512 bytes in the form of POSIX.1-1988 or GNU, sizes in octal or base 256. Links, devices,
sparse files and headers that extend others are refused, as is anything after the end but zeros.
So what Python's tarfile writes is read only in one of those two forms: by default it is PAX, where
a file's time alone takes such a header. Nothing is unpacked here.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from edgeslm.bundle.names import BLOBS, DAMAGED
from edgeslm.errors import InvalidBundle, reading

_BLOCK = 512
_MOST_ENTRIES = 8192
_EXTENDING = (b"x", b"g", b"X", b"L", b"K")
_PLAIN = "Make the tar with --format=ustar, or with edgeslm pack -o NAME.tar."
_FILES, _FOLDER = (b"0", b"\0"), b"5"
_NAME = re.compile(r"(?:\./)?((?:[\w.-]+/)*[\w.-]+)/?", re.ASCII)
_FOLDERS = (".", "blobs", BLOBS)
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class TarFile:
    """Where a file's bytes lie in a tar."""

    name: str
    offset: int
    size: int


def looks_like_tar(path: Path) -> bool:
    """Whether a file begins as a tar does."""
    with reading(path), path.open("rb") as stream:
        return stream.read(_BLOCK)[257:262] == b"ustar"


def read_tar(path: Path) -> dict[str, TarFile]:
    """The files in a tar, by their names.

    Raises:
        InvalidBundle: it is truncated or malformed, or holds something else than files.
        EdgeslmError: it cannot be read.
    """
    with reading(path), path.open("rb") as stream:
        total = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        found: dict[str, TarFile] = {}
        for number, entry in enumerate(_entries(path, stream, total)):
            if number >= _MOST_ENTRIES:
                _fail(path, f"more than {_MOST_ENTRIES} entries")
            if entry.name in found:
                _fail(path, f"{entry.name} occurs twice")
            found[entry.name] = entry
    return found


def tar_header(name: str, size: int) -> bytes:
    """The header of a file: readable by all, of no time and no owner."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)


def tar_padding(size: int) -> bytes:
    """What follows a file's bytes."""
    return bytes(-size % _BLOCK)


TAR_END = bytes(2 * _BLOCK)


def write_tar(stream: BinaryIO, files: Iterable[tuple[str, int, Iterable[bytes]]]) -> None:
    """Write files in the order given: name, size and the pieces of each."""
    for name, size, pieces in files:
        stream.write(tar_header(name, size))
        for piece in pieces:
            stream.write(piece)
        stream.write(tar_padding(size))
    stream.write(TAR_END)


def _entries(path: Path, stream: BinaryIO, total: int) -> Iterator[TarFile]:
    while True:
        header = _take(path, stream, _BLOCK)
        if not any(header):
            break
        size = _checked(path, header)
        name, is_file = _name(path, header)
        offset = stream.tell()
        if not is_file:
            if size or name not in _FOLDERS:
                _fail(path, f"it holds a folder {name}")
            continue
        if size > total - offset:
            _fail(path, f"truncated: {name} has {size} bytes, {total - offset} are left")
        yield TarFile(name, offset, size)
        stream.seek(size, os.SEEK_CUR)
        if any(_take(path, stream, -size % _BLOCK)):
            _fail(path, f"there are bytes between the end of {name} and the next file")
    _check_end(path, stream)


def _check_end(path: Path, stream: BinaryIO) -> None:
    if any(_take(path, stream, _BLOCK)):
        _fail(path, "there is something after its end")
    while piece := stream.read(_PIECE_BYTES):
        if any(piece):
            _fail(path, "there is something after its end")


def _take(path: Path, stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        _fail(path, "truncated: it ends before its end is marked")
    return data


def _checked(path: Path, header: bytes) -> int:
    """The size that a header states, once its checksum is found right."""
    field = header[148:156]
    if header[257:262] != b"ustar" or not re.fullmatch(rb"[0-7]{6}\0 ", field):
        _fail(path, "not a tar, or a header in it is damaged")
    if int(field[:6], 8) != sum(header) - sum(field) + 8 * ord(" "):
        _fail(path, "a header in it is damaged")
    size = header[124:136]
    if size[0] == 0x80:
        return int.from_bytes(size[1:], "big")
    if not re.fullmatch(rb"[0-7]{11}[\0 ]", size):
        _fail(path, "a header in it states no size")
    return int(size[:11], 8)


def _name(path: Path, header: bytes) -> tuple[str, bool]:
    """A member's name, and whether it is a file, not a folder."""
    kind = header[156:157]
    text = _text(header[:100])
    if header[257:263] == b"ustar\0" and any(header[345:500]):
        text = f"{_text(header[345:500])}/{text}"
    if kind not in (*_FILES, _FOLDER):
        what = "neither a file nor a folder"
        if kind in _EXTENDING:
            _fail(path, f"{text[:100]!r} is {what}, but extends others (type {kind!r})", _PLAIN)
        _fail(path, f"{text[:100]!r} is {what} (type {kind!r})")
    if kind == _FOLDER and text in ("./", "."):
        return ".", False
    found = _NAME.fullmatch(text)
    if found is None or {".", ".."} & set(found[1].split("/")):
        _fail(path, f"not a plain relative file name: {text[:100]!r}")
    if kind != _FOLDER and text.endswith("/"):
        _fail(path, f"a file with the name of a folder: {text[:100]!r}")
    return found[1], kind != _FOLDER


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")


def _fail(path: Path, problem: str, hint: str = DAMAGED) -> NoReturn:
    raise InvalidBundle(f"{path}: {problem}", hint=hint)
