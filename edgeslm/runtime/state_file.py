"""The file of a prompt's state: what the KV cache held after some tokens, and of which model.

    magic      8 bytes
    SHA-256    32 bytes, of everything that follows
    length     4 bytes, of the header
    header     JSON: `Origin` and the sizes of the other two
    tokens     4 bytes each
    state      as `llama.state` has it

All numbers are little-endian. A file is complete and right, or it is none: whatever is cut off,
changed or of another kind reads as None.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

_MAGIC = b"edgeslm\1"
_LENGTH = struct.Struct("<I")
_HEADER_AT = len(_MAGIC) + hashlib.sha256().digest_size + _LENGTH.size
_MOST_HEADER = 4096
_TOKEN = np.dtype("<i4")


@dataclass(frozen=True)
class Origin:
    """What a state depends on besides its tokens.

    Attributes:
        model: SHA-256 of the model's file.
        build: The build of llama.cpp.
        kv_type: The cache's type.
        adapter: SHA-256 of the adapter's file and its strength; empty where there is none.
    """

    model: str
    build: str
    kv_type: str
    adapter: str = ""


@dataclass(frozen=True)
class StateHead:
    """What a file says of itself; the rest of it has not been looked at."""

    origin: Origin
    tokens: tuple[int, ...]
    state_bytes: int


class StateFile:
    """A complete and right file, mapped.

    Attributes:
        head: What it is of.
        state: Its bytes; valid until `close`.
    """

    def __init__(self, head: StateHead, mapping: mmap.mmap) -> None:
        self.head = head
        self._mapping = mapping
        self.state = memoryview(mapping)[len(mapping) - head.state_bytes :]

    def close(self) -> None:
        """Give the mapping back, unless somebody still looks at it."""
        with suppress(BufferError):
            self.state.release()
            self._mapping.close()


def encode_tokens(tokens: Sequence[int]) -> bytes:
    """Token ids as they stand in a file."""
    return np.asarray(tokens, dtype=_TOKEN).tobytes()


def write_state(
    path: Path,
    origin: Origin,
    tokens: Sequence[int],
    state_bytes: int,
    fill: Callable[[memoryview], None],
) -> Callable[[], None]:
    """Write all of a file but its checksum, which is another's to do where time matters.

    Args:
        path: An empty file.
        origin: Of what the state is.
        tokens: After which tokens.
        state_bytes: How long it is.
        fill: Writes it where it is told to.

    Returns:
        What writes the checksum and closes the file; without it, it is no state.

    Raises:
        OSError: there is no room, or the disk cannot do it.
    """
    sizes = {"tokens": len(tokens), "state_bytes": state_bytes}
    header = json.dumps({"origin": asdict(origin), **sizes}).encode()
    listed = encode_tokens(tokens)
    start = _HEADER_AT + len(header) + len(listed)
    descriptor = os.open(path, os.O_RDWR)
    try:
        _allocate(descriptor, start + state_bytes)
        mapping = mmap.mmap(descriptor, start + state_bytes)
    finally:
        os.close(descriptor)
    try:
        mapping[: len(_MAGIC)] = _MAGIC
        mapping[_HEADER_AT - _LENGTH.size : _HEADER_AT] = _LENGTH.pack(len(header))
        mapping[_HEADER_AT:start] = header + listed
        with memoryview(mapping) as whole, whole[start:] as state:
            fill(state)
    except BaseException:
        _close(mapping)
        raise

    def seal() -> None:
        with memoryview(mapping) as whole, whole[_HEADER_AT - _LENGTH.size :] as rest:
            digest = hashlib.sha256(rest).digest()
        mapping[len(_MAGIC) : len(_MAGIC) + len(digest)] = digest
        mapping.flush()
        _close(mapping)

    return seal


def read_head(path: Path) -> StateHead | None:
    """Of what a file is a state, if it says so."""
    with suppress(OSError), path.open("rb") as file:
        return _head(file.read(_HEADER_AT + _MOST_HEADER), path, os.fstat(file.fileno()).st_size)
    return None


def open_state(path: Path) -> StateFile | None:
    """The state in a file, its checksum compared; None if it is not complete and right."""
    try:
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # ValueError: an empty file
        return None
    head = _head(mapping[: _HEADER_AT + _MOST_HEADER], path, len(mapping))
    if head is not None:
        with memoryview(mapping) as whole, whole[_HEADER_AT - _LENGTH.size :] as rest:
            digest = hashlib.sha256(rest).digest()
        if digest == mapping[len(_MAGIC) : len(_MAGIC) + len(digest)]:
            return StateFile(head, mapping)
    _close(mapping)
    return None


def _head(start: bytes, path: Path, size: int) -> StateHead | None:
    """What the first bytes of a file say, if the whole has the size that they imply."""
    if not start.startswith(_MAGIC) or len(start) < _HEADER_AT:
        return None
    (length,) = _LENGTH.unpack(start[_HEADER_AT - _LENGTH.size : _HEADER_AT])
    try:
        header = json.loads(start[_HEADER_AT : _HEADER_AT + length])
        count, state_bytes = int(header["tokens"]), int(header["state_bytes"])
        origin = Origin(**{name: str(value) for name, value in header["origin"].items()})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    end = _HEADER_AT + length + count * _TOKEN.itemsize
    if min(count, state_bytes) < 1 or end + state_bytes != size:
        return None
    with suppress(OSError), path.open("rb") as file:
        file.seek(_HEADER_AT + length)
        listed = np.frombuffer(file.read(count * _TOKEN.itemsize), dtype=_TOKEN)
        return StateHead(origin, tuple(listed.tolist()), state_bytes)
    return None


def _allocate(descriptor: int, size: int) -> None:
    """Make a file that long; a disk that is full says so now, not while it is mapped."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def _close(mapping: mmap.mmap) -> None:
    with suppress(BufferError):  # the traceback of what went wrong still holds a view of it
        mapping.close()
