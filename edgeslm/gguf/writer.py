"""Write a GGUF file: the header first, then the tensors one by one.

Memory stays bounded by the largest tensor, and the file appears under its name only when
it is complete.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm.errors import Unsupported, writing
from edgeslm.files import atomic_path
from edgeslm.gguf.types import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMENSIONS,
    MAX_NAME_BYTES,
    STRUCT_CODES,
    Field,
    TensorType,
    ValueType,
    padded,
)

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    Data: TypeAlias = bytes | bytearray | memoryview | NDArray[Any]
    """A tensor's raw blocks: anything whose bytes lie in one piece."""

__all__ = ["Field", "TensorSpec", "write_gguf"]

_VERSION = 3


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to be written; `shape` in ggml order, contiguous dimension first."""

    name: str
    type: TensorType
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes of the tensor's data."""
        return self.type.bytes_for(self.shape)


def write_gguf(
    path: Path,
    fields: Sequence[Field],
    tensors: Sequence[TensorSpec],
    read: Callable[[int], Data | Iterator[Data]],
    *,
    advance: Callable[[int], None] | None = None,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write a little-endian GGUF file of version 3.

    Args:
        path: Where the file appears once it is complete.
        fields: Metadata in file order; an alignment is not among them (it is the default, 32).
        tensors: What is stored, in file order.
        read: Gives the raw data of tensor `i`, whole or in pieces; called once for each, in order.
        advance: Told the bytes of each tensor, or piece, after it was written.
        check: Given the complete file under its temporary name; if it raises, none appears.

    Raises:
        OutputFailure: the file cannot be written.
        Unsupported: a name or value that GGUF or ggml cannot hold.
        ValueError: `read` gave more or fewer bytes than the tensor has.
    """
    header = _header(fields, tensors)
    with atomic_path(path) as temporary:
        # closing writes what is left in the buffer, and may fail for it
        with writing(path), temporary.open("wb") as output:
            output.write(header)
            for index, tensor in enumerate(tensors):
                data = read(index)
                written = 0
                for piece in map(_bytes, data if isinstance(data, Iterator) else (data,)):
                    written += output.write(piece)
                    if advance is not None:
                        advance(piece.nbytes)
                if written != tensor.bytes:
                    raise ValueError(
                        f"{tensor.name}: {written} bytes given, {tensor.bytes} expected"
                    )
                output.write(_padding(written))
        if check is not None:
            check(temporary)


def _bytes(data: Data) -> memoryview:
    """The data's bytes, without a copy."""
    buffer: Any = data  # the buffer protocol has no type before Python 3.12
    return memoryview(buffer).cast("B")


def _header(fields: Sequence[Field], tensors: Sequence[TensorSpec]) -> bytes:
    """Everything before the tensor data, padded to where that begins."""
    _refuse_duplicates("metadata key", (field.key for field in fields))
    _refuse_duplicates("tensor name", (tensor.name for tensor in tensors))
    header = bytearray(MAGIC + struct.pack("<IQQ", _VERSION, len(tensors), len(fields)))
    for field in fields:
        header += _field(field)
    offset = 0
    for tensor in tensors:
        header += _tensor_info(tensor, offset)
        offset = padded(offset + tensor.bytes, DEFAULT_ALIGNMENT)
    return bytes(header + _padding(len(header)))


def _field(field: Field) -> bytes:
    if field.key == ALIGNMENT_KEY and field.value != DEFAULT_ALIGNMENT:
        raise Unsupported(f"{ALIGNMENT_KEY}: only {DEFAULT_ALIGNMENT} can be written")
    try:
        if field.type is not ValueType.ARRAY:
            value = _values(field.type, [field.value])
        elif field.item_type is None or field.item_type is ValueType.ARRAY:
            raise Unsupported(f"{field.key}: an array needs a plain item type")
        else:
            value = struct.pack("<IQ", field.item_type, len(field.value))
            value += _values(field.item_type, field.value)
    except (struct.error, OverflowError, UnicodeEncodeError) as error:
        raise Unsupported(f"{field.key}: the value does not fit its type: {error}") from error
    return _string(field.key) + struct.pack("<I", field.type) + value


def _values(kind: ValueType, values: Sequence[Any]) -> bytes:
    if kind is ValueType.STRING:
        return b"".join(map(_string, values))
    return struct.pack(f"<{len(values)}{STRUCT_CODES[kind]}", *values)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _tensor_info(tensor: TensorSpec, offset: int) -> bytes:
    if len(tensor.name.encode()) > MAX_NAME_BYTES:
        raise Unsupported(
            f"tensor {tensor.name}: the name is longer than the {MAX_NAME_BYTES} bytes ggml holds"
        )
    if not 1 <= len(tensor.shape) <= MAX_DIMENSIONS or min(tensor.shape) < 1:
        raise Unsupported(f"tensor {tensor.name}: ggml cannot hold the shape {tensor.shape}")
    shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
    return _string(tensor.name) + shape + struct.pack("<IQ", tensor.type.id, offset)


def _refuse_duplicates(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise Unsupported(f"{what} {name} is given twice")
        seen.add(name)


def _padding(length: int) -> bytes:
    return bytes(padded(length, DEFAULT_ALIGNMENT) - length)
