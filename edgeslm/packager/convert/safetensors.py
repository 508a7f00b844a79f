"""Reads safetensors files: which tensors one holds, and one tensor's bytes at a time.

The format (huggingface/safetensors, README): eight bytes of header length, a JSON header
{name: {dtype, shape, data_offsets}}, then the data. Read here rather than through the
safetensors package, whose numpy side has no bfloat16 and whose mapping keeps every page it
touched resident: this way the peak stays at one tensor.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import InvalidCheckpoint, reading

_DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
_STORAGE: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_MAX_HEADER_BYTES = 100_000_000
"""The limit the format itself sets."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies; `shape` in row-major order, as torch prints it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of its data."""
        return self.elements * _DTYPE_BYTES[self.dtype]

    def read(self) -> NDArray[Any]:
        """The numbers as stored: float32, float16, or bfloat16 as raw 16-bit codes (uint16).

        Raises:
            InvalidCheckpoint: the file became shorter since its header was read.
        """
        storage = _STORAGE[self.dtype]
        with reading(self.path):
            data: NDArray[Any] = np.fromfile(self.path, storage, self.elements, offset=self.offset)
        if data.size != self.elements:
            raise _broken(self.path, f"{self.name} is cut short")
        return data.reshape(self.shape)


def read_header(path: Path) -> list[StoredTensor]:
    """Every tensor in the file, each checked to lie inside it.

    Raises:
        InvalidCheckpoint: not a safetensors file, or one that is damaged or incomplete.
    """
    with reading(path):
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
                raise _broken(path, f"a header of {length} bytes in a file of {size}")
            raw = file.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _broken(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _broken(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    start = 8 + length
    return [_tensor(path, name, entry, start, size) for name, entry in header.items()]


def _tensor(path: Path, name: str, entry: Any, start: int, size: int) -> StoredTensor:
    """One header entry, after its shape, type and place were compared with each other."""
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise _broken(path, f"its entry for {name} is malformed") from error
    if not isinstance(dtype, str) or dtype not in _DTYPE_BYTES:
        raise _broken(path, f"{name} has the unknown type {dtype}")
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise _broken(path, f"its entry for {name} is malformed")
    tensor = StoredTensor(name, dtype, shape, path, start + begin)
    if end - begin != tensor.bytes:
        raise _broken(path, f"{name} claims {end - begin} bytes, its shape {tensor.bytes}")
    if start + end > size:
        raise _broken(path, f"{name} ends at byte {start + end} of a file of {size}")
    return tensor


def _broken(path: Path, reason: str) -> InvalidCheckpoint:
    return InvalidCheckpoint(
        f"{path}: not a whole safetensors file: {reason}", hint="Download or copy it again."
    )
