"""The files of a wheel, each compared with the wheel's own list. Standard library only.

Wheels come from elsewhere: names that lead out of a folder, links, sizes that nobody has room for,
two files in one place are refused before anything is written.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeslm.errors import InvalidBundle
from edgeslm.flash.wheels.tags import WheelName

_MOST_FILES, _MOST_BYTES = 50_000, 2 << 30
_LONGEST_NAME = 255
_PIECE_BYTES = 1 << 20
_AGAIN = "Copy it again."
_NOT_THIS = "Do not use this wheel."
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, EOFError),
    *(NotImplementedError, RuntimeError, ValueError),  # unknown compression, passwords, bad names
)


def unpacked_bytes(wheel: Path) -> int:
    """What the files in it say they take.

    Raises:
        InvalidBundle: it is no wheel.
    """
    with _opened(wheel, wheel.name) as archive:
        return sum(info.file_size for info in archive.infolist())


def unpack(path: Path, name: WheelName, site: Path, taken: dict[str, str]) -> None:
    """Put what is in a wheel into `site`, each file compared with the wheel's own list.

    Args:
        path: The file.
        name: What it is called.
        site: Where to.
        taken: The hash of each file that is there; it is added to.

    Raises:
        InvalidBundle: it is damaged, or a file would lie elsewhere or over another one.
    """
    where = f"{name.name}-{name.version}"
    with _opened(path, where) as archive:
        members = _members(archive, where)
        record = _record(archive, where, set(members))
        for inside, info in members.items():
            digest, data = record.get(inside), f"{where}.data/"
            relative = inside
            if inside.startswith(data):
                kind, _, relative = inside[len(data) :].partition("/")
                if kind not in ("purelib", "platlib"):
                    relative = ""  # scripts, manuals, headers: nobody needs them there
            if relative:
                _claim(taken, relative, digest or f"of {where}", where)
            _extract(archive, info, digest, site / relative if relative else None, where)


def _claim(taken: dict[str, str], relative: str, digest: str, where: str) -> None:
    if taken.setdefault(relative, digest) != digest:
        raise InvalidBundle(
            f"{where}: {relative} is in another wheel too", hint="Make the runtime again."
        )


@contextmanager
def _opened(path: Path, where: str) -> Iterator[zipfile.ZipFile]:
    """A zip file; whatever is wrong with it while the block runs is a refusal."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _DAMAGE as error:
        raise InvalidBundle(f"{where}: damaged: {error}", hint=_AGAIN) from error


def _members(archive: zipfile.ZipFile, where: str) -> dict[str, zipfile.ZipInfo]:
    """The files by name, after a look at every name and size."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if problem := _unsafe(info):
            raise InvalidBundle(f"{where}: {info.filename[:300]!r} {problem}", hint=_NOT_THIS)
        if info.filename.endswith("/"):
            continue
        if info.filename in found:
            raise InvalidBundle(f"{where}: {info.filename} is there twice", hint=_NOT_THIS)
        found[info.filename] = info
    if len(found) > _MOST_FILES or sum(info.file_size for info in found.values()) > _MOST_BYTES:
        raise InvalidBundle(f"{where}: too large", hint=_NOT_THIS)
    for name in found:
        parents = name.split("/")[:-1]
        if any("/".join(parents[:end]) in found for end in range(1, len(parents) + 1)):
            raise InvalidBundle(f"{where}: {name} lies in a file", hint=_NOT_THIS)
    return found


def _unsafe(info: zipfile.ZipInfo) -> str | None:
    name = info.filename.removesuffix("/")
    parts = name.split("/")
    if {"", ".", ".."} & set(parts) or any(ord(sign) < 0x20 or sign in "\\:\x7f" for sign in name):
        return "leads out of its folder, or is no plain name"
    if any(len(part.encode("utf-8", "surrogatepass")) > _LONGEST_NAME for part in parts):
        return "is too long a name"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is neither a file nor a folder"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed as no wheel is"
    if info.header_offset < 0:
        return "lies before the beginning"
    return None


def _record(archive: zipfile.ZipFile, where: str, members: set[str]) -> dict[str, str]:
    """Each file's SHA-256 as the wheel's RECORD states it, in base64; of all but RECORD."""
    place = f"{where}.dist-info/RECORD"
    if place not in members:
        raise InvalidBundle(f"{where}: has no {place}", hint=_AGAIN)
    rows = csv.reader(io.StringIO(archive.read(place).decode("utf-8")))
    unsigned = {place, f"{place}.jws", f"{place}.p7s"}
    found: dict[str, str] = {}
    try:
        for file, stated, *_ in rows:
            if file not in unsigned:
                algorithm, _, digest = stated.partition("=")
                if algorithm != "sha256" or file in found:
                    raise InvalidBundle(
                        f"{where}: RECORD has no SHA-256 of {file[:300]!r}", hint=_AGAIN
                    )
                found[file] = digest.rstrip("=")
    except csv.Error as error:
        raise InvalidBundle(f"{where}: RECORD: {error}", hint=_AGAIN) from error
    if odd := sorted((members - unsigned) ^ set(found)):
        raise InvalidBundle(
            f"{where}: {odd[0][:300]!r} is not in both RECORD and wheel", hint=_AGAIN
        )
    return found


def _extract(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, digest: str | None, to: Path | None, where: str
) -> None:
    """Read one file to its end, compare it, and keep it at `to` if that is not None."""
    found = hashlib.sha256()
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(info) as stream, Path(to or os.devnull).open("wb") as file:
        while piece := stream.read(_PIECE_BYTES):
            found.update(piece)
            file.write(piece)
    encoded = base64.urlsafe_b64encode(found.digest()).rstrip(b"=").decode()
    if digest is not None and encoded != digest:
        raise InvalidBundle(f"{where}: {info.filename} was changed", hint=_AGAIN)
    if to is not None:
        to.chmod(0o755 if info.external_attr >> 16 & 0o111 else 0o644)
