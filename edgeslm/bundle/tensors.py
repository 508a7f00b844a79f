"""Each tensor's hash, so that an update can send what changed and take the rest from what is there.

`tensors.json` lists the file's beginning and its tensors in the order of the file. What lies
between them is zeros up to the file's alignment, as GGUF wants it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from edgeslm.bundle.documents import Fields, canonical, parse
from edgeslm.errors import reading
from edgeslm.gguf.reader import Header
from edgeslm.progress import Advance
from edgeslm.records import TENSORS_SCHEMA, document

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class TensorHash:
    """Where a tensor's bytes lie in the model's file, and their SHA-256 in hex."""

    name: str
    offset: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class TensorHashes:
    """A model's file in parts: `header_bytes` before the first tensor, then the tensors."""

    header_bytes: int
    header_sha256: str
    tensors: tuple[TensorHash, ...]


def hash_model(header: Header, advance: Advance) -> tuple[str, TensorHashes]:
    """The SHA-256 of a model's file, and those of its parts, in one pass over it.

    Args:
        header: What the file says.
        advance: Told how many bytes were read.

    Raises:
        EdgeslmError: it cannot be read.
    """
    tensors = sorted(header.tensors, key=lambda tensor: tensor.offset)
    with reading(header.path), header.path.open("rb") as stream:
        whole = _Whole(stream, advance)
        first = whole.until(header.data_offset)
        hashes = []
        for tensor in tensors:
            whole.until(tensor.offset)
            sha256 = whole.until(tensor.offset + tensor.bytes)
            hashes.append(TensorHash(tensor.name, tensor.offset, tensor.bytes, sha256))
        whole.until(None)
    return whole.sha256, TensorHashes(header.data_offset, first, tuple(hashes))


class _Whole:
    """A file that is hashed as a whole and in parts."""

    def __init__(self, stream: BinaryIO, advance: Advance) -> None:
        self._stream = stream
        self._advance = advance
        self._digest = hashlib.sha256()
        self._position = 0

    @property
    def sha256(self) -> str:
        """Of all that was read."""
        return self._digest.hexdigest()

    def until(self, end: int | None) -> str:
        """Read up to there, None for the file's end; the hash of what was read."""
        part = hashlib.sha256()
        for piece in self._pieces(end):
            part.update(piece)
            self._digest.update(piece)
            self._position += len(piece)
            self._advance(len(piece))
        return part.hexdigest()

    def _pieces(self, end: int | None) -> Iterator[bytes]:
        while True:
            left = _PIECE_BYTES if end is None else min(_PIECE_BYTES, end - self._position)
            piece = self._stream.read(max(left, 0))
            if not piece:
                return
            yield piece


def write_tensors(hashes: TensorHashes) -> bytes:
    """The text of tensors.json."""
    return canonical(document(TENSORS_SCHEMA, hashes))


def read_tensors(data: bytes, where: str) -> TensorHashes:
    """What a tensors.json says.

    Raises:
        InvalidBundle: it is malformed.
    """
    fields = Fields(where, parse(data, where))
    fields.expect("schema", TENSORS_SCHEMA)
    entries = [
        Fields(f"{where}: tensor {number}", entry)
        for number, entry in enumerate(fields.take("tensors", list))
    ]
    return TensorHashes(
        header_bytes=fields.take("header_bytes", int),
        header_sha256=fields.take("header_sha256", str),
        tensors=tuple(
            TensorHash(
                name=entry.take("name", str),
                offset=entry.take("offset", int),
                bytes=entry.take("bytes", int),
                sha256=entry.take("sha256", str),
            )
            for entry in entries
        ),
    )
