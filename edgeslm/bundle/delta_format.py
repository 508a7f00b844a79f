r"""The file of an update: a new bundle in terms of what a device has, and the rest.

    16 bytes   "edgeslm-delta-1\n"
     8 bytes   the length of the document, little-endian
               the document, JSON compressed by zlib
               the bytes that the device lacks, piece after piece

The document names the new bundle's digest, the blobs that it takes for granted, and for every file
of the bundle how it is put together: from ranges of those blobs, from pieces that follow, from
zeros. Nothing in it is trusted: every number is held against the others before anything is done.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from edgeslm.bundle import names
from edgeslm.bundle.documents import Fields, canonical, parse
from edgeslm.bundle.image import Blob
from edgeslm.errors import InvalidBundle, reading
from edgeslm.records import DELTA_SCHEMA

MAGIC = b"edgeslm-delta-1\n"
LENGTH_BYTES = 8
MOST_PIECE_BYTES = 1 << 20
"""Of a piece, before it is compressed: what has to be done again if a device is interrupted."""
_SMALL = (names.LAYOUT_NAME, names.INDEX_NAME, names.SIGNATURE_NAME)
_HEX = "[0-9a-f]{64}"
_AGAIN = "Fetch it again, or make it again: edgeslm delta"


@dataclass(frozen=True)
class Copy:
    """Bytes of a blob that the device has; `need` counts through the delta's needs."""

    need: int
    offset: int
    bytes: int


@dataclass(frozen=True)
class Piece:
    """Bytes that follow the document; compressed by zlib where fewer are stored."""

    bytes: int
    stored: int


@dataclass(frozen=True)
class Zeros:
    """So many zeros."""

    bytes: int


Step = Copy | Piece | Zeros


@dataclass(frozen=True)
class Recipe:
    """How a file of the bundle is put together; `name` is its name in the layout."""

    name: str
    bytes: int
    sha256: str
    steps: tuple[Step, ...]

    @property
    def blob(self) -> Blob:
        """Its bytes, by their hash."""
        return Blob(self.sha256, self.bytes)

    @property
    def stored(self) -> int:
        """Bytes of its pieces in the delta."""
        return sum(step.stored for step in self.steps if isinstance(step, Piece))


@dataclass(frozen=True)
class Delta:
    """What a delta's document says.

    Attributes:
        digest: SHA-256 of the new bundle's manifest, in hex.
        needs: What the device must have.
        recipes: Every file of the new bundle, in the order in which they are put together.
    """

    digest: str
    needs: tuple[Blob, ...]
    recipes: tuple[Recipe, ...]

    @property
    def stored(self) -> int:
        """Bytes of all pieces."""
        return sum(recipe.stored for recipe in self.recipes)


def write_head(delta: Delta) -> bytes:
    """All that comes before the pieces."""
    recipes = [
        {
            "name": recipe.name,
            "bytes": recipe.bytes,
            "sha256": recipe.sha256,
            "steps": [_row(step) for step in recipe.steps],
        }
        for recipe in delta.recipes
    ]
    value = {
        "schema": DELTA_SCHEMA,
        "digest": f"sha256:{delta.digest}",
        "needs": [[blob.sha256, blob.size] for blob in delta.needs],
        "files": recipes,
    }
    document = zlib.compress(canonical(value), 9)
    return MAGIC + len(document).to_bytes(LENGTH_BYTES, "little") + document


def read_head(path: Path) -> tuple[Delta, int]:
    """What a delta says, and where its pieces begin.

    Raises:
        InvalidBundle: it is none, truncated, or contradicts itself.
    """
    with reading(path), path.open("rb") as stream:
        start = stream.read(len(MAGIC) + LENGTH_BYTES)
        if start[: len(MAGIC)] != MAGIC or len(start) < len(MAGIC) + LENGTH_BYTES:
            _fail(path, "not a delta, or one for another version of edgeslm")
        length = int.from_bytes(start[len(MAGIC) :], "little")
        if length > names.MOST_JSON_BYTES:
            _fail(path, f"a document of {length} bytes")
        document = stream.read(length)
        total = path.stat().st_size
    delta = _read(_inflated(path, document), str(path))
    begin = len(start) + length
    if total != begin + delta.stored:
        _fail(path, f"{total} bytes; {begin + delta.stored} by what it says itself")
    return delta, begin


def looks_like_delta(path: Path) -> bool:
    """Whether a file begins as a delta does."""
    with reading(path), path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def _inflated(path: Path, document: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(document, names.MOST_JSON_BYTES + 1)
    except zlib.error as error:
        raise InvalidBundle(f"{path}: damaged: {error}", hint=_AGAIN) from error
    if len(data) > names.MOST_JSON_BYTES or not inflater.eof or inflater.unused_data:
        _fail(path, "damaged, or too large")
    return data


def _row(step: Step) -> dict[str, Any]:
    if isinstance(step, Copy):
        return {"copy": [step.need, step.offset, step.bytes]}
    if isinstance(step, Piece):
        return {"data": [step.bytes, step.stored]}
    return {"zeros": [step.bytes]}


def _read(data: bytes, where: str) -> Delta:
    fields = Fields(where, parse(data, where))
    fields.expect("schema", DELTA_SCHEMA)
    fields.only(("schema", "digest", "needs", "files"))
    digest: str = fields.take("digest", str)
    if not re.fullmatch(f"sha256:{_HEX}", digest):
        fields.fail("not a digest")
    needs = tuple(_need(fields, row) for row in fields.take("needs", list))
    entries = fields.take("files", list)
    if len(entries) > names.MOST_LAYERS + len(_SMALL) + 2:
        fields.fail(f"{len(entries)} files")
    recipes = tuple(_recipe(Fields(f"{where}: files", each), needs) for each in entries)
    found = [recipe.name for recipe in recipes]
    manifest = f"{names.BLOBS}/{digest[7:]}"
    for name in (*_SMALL[:2], manifest):
        if name not in found:
            fields.fail(f"{name} is missing")
    if len(set(found)) < len(found):
        fields.fail("a file occurs twice")
    return Delta(digest[7:], needs, recipes)


def _need(fields: Fields, row: object) -> Blob:
    if not isinstance(row, list) or len(row) != 2:
        fields.fail("needs has the wrong type")
    sha256, size = row
    if not isinstance(sha256, str) or not re.fullmatch(_HEX, sha256):
        fields.fail("needs: not a SHA-256")
    return Blob(sha256, _count(fields, size))


def _recipe(fields: Fields, needs: tuple[Blob, ...]) -> Recipe:
    fields.only(("name", "bytes", "sha256", "steps"))
    name: str = fields.take("name", str)
    sha256: str = fields.take("sha256", str)
    if not re.fullmatch(_HEX, sha256):
        fields.fail("not a SHA-256")
    if name not in (*_SMALL, f"{names.BLOBS}/{sha256}"):
        fields.fail(f"no file of a bundle: {name[:80]!r}")
    total = _count(fields, fields.take("bytes", int))
    if name in _SMALL and total > names.MOST_JSON_BYTES:
        fields.fail(f"{name} is too large")
    steps = tuple(_step(fields, each, needs) for each in fields.take("steps", list))
    if sum(step.bytes for step in steps) != total:
        fields.fail(f"{name}: its steps do not give {total} bytes")
    return Recipe(name, total, sha256, steps)


def _step(fields: Fields, row: object, needs: tuple[Blob, ...]) -> Step:
    if not isinstance(row, dict) or len(row) != 1:
        fields.fail("steps has the wrong type")
    [(kind, numbers)] = row.items()
    if not isinstance(numbers, list):
        fields.fail("steps has the wrong type")
    counts = [_count(fields, each) for each in numbers]
    if kind == "copy" and len(counts) == 3:
        copy = Copy(*counts)
        if copy.need >= len(needs) or copy.offset + copy.bytes > needs[copy.need].size:
            fields.fail("a copy of what is not there")
        return copy
    if kind == "data" and len(counts) == 2:
        piece = Piece(*counts)
        if not 0 < piece.stored <= piece.bytes <= MOST_PIECE_BYTES:
            fields.fail("a piece of an impossible size")
        return piece
    if kind == "zeros" and len(counts) == 1:
        return Zeros(*counts)
    return fields.fail(f"an unknown step: {str(kind)[:80]!r}")


def _count(fields: Fields, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
        fields.fail(f"not a number of bytes: {str(value)[:80]}")
    return value


def _fail(path: Path, problem: str) -> NoReturn:
    raise InvalidBundle(f"{path}: {problem}", hint=_AGAIN)


def total_bytes(recipes: Iterable[Recipe]) -> int:
    """Of the files that are put together."""
    return sum(recipe.bytes for recipe in recipes)
