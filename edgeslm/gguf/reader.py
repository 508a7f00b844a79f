"""Read the structure of a GGUF file and trust none of it.

A GGUF file starts with counts, then metadata (key, type, value), then one entry per tensor
(name, shape, type, offset), then the tensors' data, each aligned. Every count, length and
offset is compared with the size of the file before anything is read or allocated for it, by
the rules llama.cpp itself applies (`ggml/src/gguf.cpp`) and a few stricter ones.
"""

from __future__ import annotations

import math
import os
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from edgeslm.errors import InvalidGGUF, Unsupported, UserError, reading
from edgeslm.gguf.arrays import Array, Numbers, Texts
from edgeslm.gguf.types import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMENSIONS,
    MAX_NAME_BYTES,
    REMOVED_TENSOR_TYPES,
    STRUCT_CODES,
    TENSOR_TYPES,
    Field,
    TensorType,
    ValueType,
    padded,
    printable,
)

if TYPE_CHECKING:
    from typing import Any, TypeAlias

Scalar: TypeAlias = "str | int | float | bool"
Value: TypeAlias = "Scalar | tuple[Any, ...] | Array[Any]"
"""A metadata value; an array is a tuple of scalars of one type, or an `Array` if it is long."""

MAX_HEADER_BYTES = 128 * 2**20
"""Bounds the memory a header takes; a vocabulary of 262144 tokens needs about 12 MiB."""
_LONG = 4096
"""Items from which on an array is kept as it lies in the file."""
_MAX_KEY_BYTES = 2**16 - 1
_MAX_ALIGNMENT = 2**16
_INT64_MAX = 2**63 - 1
_DAMAGED = "The file is damaged: download or copy it again."


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in the file; `shape` in ggml order, contiguous dimension first."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    offset: int
    """From the start of the file."""
    bytes: int

    @property
    def elements(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """Everything a GGUF file says before its tensors' data."""

    path: Path
    version: int
    metadata: Mapping[str, Value]
    metadata_types: Mapping[str, tuple[ValueType, ValueType | None]]
    """Each value's type, and the type of the items where it is an array."""
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    alignment: int
    file_bytes: int

    @property
    def architecture(self) -> str | None:
        """The model family, such as "llama"; None where the file does not say."""
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else None

    def get(self, key: str, default: Any = None) -> Any:
        """The metadata value of `key`."""
        return self.metadata.get(key, default)

    def hyper(self, name: str, default: Any = None) -> Any:
        """The architecture's own metadata value, such as "block_count"."""
        return self.metadata.get(f"{self.architecture}.{name}", default)

    def fields(self) -> tuple[Field, ...]:
        """The metadata with its types, in file order, ready to be written again."""
        return tuple(
            Field(key, kind, self.metadata[key], item_type)
            for key, (kind, item_type) in self.metadata_types.items()
        )


def read_header(path: Path) -> Header:
    """Read everything before the tensors' data.

    Raises:
        InvalidGGUF: not a GGUF file, or one that contradicts itself or its own size.
        Unsupported: a version, byte order or tensor type that llama.cpp does not read.
        NotFound: there is no such file.
    """
    with reading(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UserError(f"{path}: not a regular file", hint="Name a file on a disk.")
        stream = path.open("rb")
    with reading(path), stream:
        cursor = _Cursor(path, stream, os.fstat(stream.fileno()).st_size)
        version = _read_version(cursor)
        tensor_count = cursor.number("Q", "the number of tensors")
        field_count = cursor.number("Q", "the number of metadata entries")
        cursor.expect_room(tensor_count, 24, "tensors")
        cursor.expect_room(field_count, 13, "metadata entries")
        fields = _read_fields(cursor, field_count)
        alignment = _alignment(path, fields.get(ALIGNMENT_KEY))
        _refuse_split(path, fields)
        tensors = _read_tensors(cursor, tensor_count, alignment)
        data_offset = padded(cursor.position, alignment) if tensors else cursor.position
        return Header(
            path=path,
            version=version,
            metadata={field.key: field.value for field in fields.values()},
            metadata_types={field.key: (field.type, field.item_type) for field in fields.values()},
            tensors=_place(cursor, tensors, data_offset),
            data_offset=data_offset,
            alignment=alignment,
            file_bytes=cursor.size,
        )


class _Cursor:
    """A position in the file that never moves beyond its end."""

    def __init__(self, path: Path, stream: BinaryIO, size: int) -> None:
        self.path = path
        self.size = size
        self.position = 0
        self._stream = stream

    @property
    def remaining(self) -> int:
        """Bytes a header may still take."""
        return min(self.size, MAX_HEADER_BYTES) - self.position

    def fail(self, problem: str, hint: str | None = _DAMAGED) -> NoReturn:
        raise InvalidGGUF(f"{self.path}: {printable(problem)} (at byte {self.position})", hint=hint)

    def expect_room(self, count: int, least_bytes: int, what: str) -> None:
        """Refuse a count of things that take at least so many bytes each and cannot fit."""
        if count * least_bytes <= self.remaining:
            return
        if count * least_bytes > self.size - self.position:
            left = f"only {max(self.size - self.position, 0)} bytes are left in the file"
        else:
            left = f"a header may take {MAX_HEADER_BYTES} bytes"
        self.fail(f"announces {count} {what}, but {left}")

    def take(self, count: int, what: str) -> bytes:
        if count > self.remaining:
            self.expect_room(count, 1, f"bytes for {what}")
        data = self._stream.read(count)
        if len(data) != count:
            self.fail(f"ended early while {what} was read")
        self.position += count
        return data

    def number(self, code: str, what: str) -> int:
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(code), what))
        return int(value)

    def text(self, what: str, most_bytes: int = MAX_HEADER_BYTES) -> str:
        length = self.number("Q", f"the length of {what}")
        if length > most_bytes:
            self.fail(f"{what} is {length} bytes long, more than the {most_bytes} allowed")
        data = self.take(length, what)
        try:
            return data.decode()
        except UnicodeDecodeError:
            self.fail(f"{what} is not valid UTF-8")

    def texts(self, count: int, what: str) -> Texts:
        """`count` strings; the loop is flat since a vocabulary has hundreds of thousands."""
        read, unpack = self._stream.read, struct.Struct("<Q").unpack
        data, ends = bytearray(), array("I")
        position, end = self.position, self.position + self.remaining
        try:
            for _ in range(count):
                (length,) = unpack(read(8))
                position += 8 + length
                if position > end:
                    self.fail(f"item {len(ends)} of {what} reaches beyond the end")
                item = read(length)
                if len(item) != length:
                    self.fail(f"ended early while {what} was read")
                item.decode()
                data += item
                ends.append(len(data))
        except struct.error:
            self.fail(f"ended early while {what} was read")
        except UnicodeDecodeError:
            self.fail(f"item {len(ends)} of {what} is not valid UTF-8")
        self.position = position
        return Texts(bytes(data), ends)


def _read_version(cursor: _Cursor) -> int:
    start = cursor.take(min(cursor.size, 4), "the magic number")
    if start != MAGIC:
        _refuse_other_format(cursor, start)
    version = cursor.number("I", "the version")
    if version in (2, 3):
        return version
    if version & 0xFFFF == 0 and version:
        raise Unsupported(
            f"{cursor.path}: a GGUF file with big-endian numbers",
            hint="Get the little-endian file, or swap the byte order with gguf-convert-endian.",
        )
    if version == 1:
        raise Unsupported(
            f"{cursor.path}: version 1 of GGUF, which llama.cpp no longer reads",
            hint="Get a newer file of this model, or convert its checkpoint again.",
        )
    raise Unsupported(
        f"{cursor.path}: version {version} of GGUF; 2 and 3 are known",
        hint="The file is damaged, or needs a newer edgeslm.",
    )


def _read_fields(cursor: _Cursor, count: int) -> dict[str, Field]:
    fields: dict[str, Field] = {}
    for index in range(count):
        key = cursor.text(f"metadata key {index}", _MAX_KEY_BYTES)
        if not key or "\0" in key:
            cursor.fail(f"metadata key {index} is empty or holds a zero byte: {key!r}")
        if key in fields:
            cursor.fail(f"metadata key {key} occurs twice")
        fields[key] = _read_field(cursor, key)
    return fields


def _read_field(cursor: _Cursor, key: str) -> Field:
    kind = _value_type(cursor, f"metadata {key}")
    if kind is ValueType.STRING:
        return Field(key, kind, cursor.text(f"metadata {key}"))
    if kind is not ValueType.ARRAY:
        return Field(key, kind, _numbers(cursor, kind, 1, f"metadata {key}")[0])
    item_type = _value_type(cursor, f"the items of metadata {key}")
    if item_type is ValueType.ARRAY:
        cursor.fail(f"metadata {key} is an array of arrays, which llama.cpp does not read")
    count = cursor.number("Q", f"the length of metadata {key}")
    if item_type is ValueType.STRING:
        cursor.expect_room(count, 8, f"strings in metadata {key}")
        items: Array[Any] = cursor.texts(count, f"metadata {key}")
    else:
        items = _numbers(cursor, item_type, count, f"metadata {key}")
    return Field(key, kind, items if count >= _LONG else tuple(items), item_type)


def _value_type(cursor: _Cursor, what: str) -> ValueType:
    number = cursor.number("I", f"the type of {what}")
    try:
        return ValueType(number)
    except ValueError:
        cursor.fail(f"{what} has the unknown type {number}")


def _numbers(cursor: _Cursor, kind: ValueType, count: int, what: str) -> Numbers:
    code = STRUCT_CODES[kind]
    cursor.expect_room(count, struct.calcsize(code), f"values in {what}")
    data = cursor.take(count * struct.calcsize(code), what)
    if kind is ValueType.BOOL and data.strip(b"\0\1"):
        cursor.fail(f"{what} holds a boolean that is neither 0 nor 1")
    return Numbers(data, code)


def _alignment(path: Path, field: Field | None) -> int:
    if field is None:
        return DEFAULT_ALIGNMENT
    value = field.value
    if field.type is not ValueType.UINT32:
        raise InvalidGGUF(
            f"{path}: {ALIGNMENT_KEY} is {field.type.name}, not UINT32", hint=_DAMAGED
        )
    if not 8 <= value <= _MAX_ALIGNMENT or value & (value - 1):
        raise InvalidGGUF(
            f"{path}: {ALIGNMENT_KEY} is {value}, not a power of two from 8 to {_MAX_ALIGNMENT}",
            hint=_DAMAGED,
        )
    return int(value)


def _refuse_split(path: Path, fields: Mapping[str, Field]) -> None:
    parts = fields.get("split.count")
    if parts is not None and isinstance(parts.value, int) and parts.value > 1:
        raise Unsupported(
            f"{path}: one part of a model that is split into {parts.value} files",
            hint="Merge them first: llama-gguf-split --merge FIRST-PART OUTPUT.gguf",
        )


@dataclass(frozen=True)
class _Entry:
    """A tensor as the header lists it; `offset` counts from the start of the data."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    offset: int


def _read_tensors(cursor: _Cursor, count: int, alignment: int) -> list[_Entry]:
    tensors: list[_Entry] = []
    names: set[str] = set()
    expected = 0
    for index in range(count):
        entry = _read_tensor(cursor, index)
        if entry.name in names:
            cursor.fail(f"tensor name {entry.name} occurs twice")
        if entry.offset != expected:
            cursor.fail(
                f"tensor {entry.name} starts at offset {entry.offset} of the data, not right "
                f"after the one before it ({expected})"
            )
        names.add(entry.name)
        tensors.append(entry)
        expected = padded(expected + entry.type.bytes_for(entry.shape), alignment)
    return tensors


def _read_tensor(cursor: _Cursor, index: int) -> _Entry:
    name = cursor.text(f"the name of tensor {index}", MAX_NAME_BYTES)
    if not name or "\0" in name:
        cursor.fail(f"the name of tensor {index} is empty or holds a zero byte: {name!r}")
    dimensions = cursor.number("I", f"the number of dimensions of tensor {name}")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        cursor.fail(f"tensor {name} has {dimensions} dimensions, not 1 to {MAX_DIMENSIONS}")
    shape = struct.unpack(
        f"<{dimensions}Q", cursor.take(8 * dimensions, f"the shape of tensor {name}")
    )
    if min(shape) < 1 or math.prod(shape) > _INT64_MAX:
        cursor.fail(f"tensor {name} has the impossible shape {_product(shape)}")
    kind = _tensor_type(cursor, name)
    if not kind.fits(shape):
        cursor.fail(
            f"tensor {name} has rows of {shape[0]} elements, no multiple of {kind.name}'s block "
            f"of {kind.block_elements}"
        )
    return _Entry(name, kind, shape, cursor.number("Q", f"the offset of tensor {name}"))


def _tensor_type(cursor: _Cursor, name: str) -> TensorType:
    number = cursor.number("I", f"the type of tensor {name}")
    if number in REMOVED_TENSOR_TYPES:
        raise Unsupported(
            f"{cursor.path}: tensor {printable(name)} is {REMOVED_TENSOR_TYPES[number]}, a type "
            "that llama.cpp no longer reads",
            hint="Get a file in a current type (Q4_0 or IQ4_NL instead of their _4_4 variants).",
        )
    if number not in TENSOR_TYPES:
        cursor.fail(
            f"tensor {name} has the unknown type {number}",
            "The file is damaged, or made for another program or a newer llama.cpp.",
        )
    return TENSOR_TYPES[number]


def _place(cursor: _Cursor, entries: list[_Entry], data_offset: int) -> tuple[TensorInfo, ...]:
    """The tensors with their positions in the file, each wholly inside it."""
    tensors = []
    for entry in entries:
        offset = data_offset + entry.offset
        size = entry.type.bytes_for(entry.shape)
        if offset + size > cursor.size:
            raise InvalidGGUF(
                f"{cursor.path}: incomplete: tensor {printable(entry.name)} ends at byte "
                f"{offset + size}, the file at {cursor.size}",
                hint="Download or copy it again.",
            )
        tensors.append(TensorInfo(entry.name, entry.type, entry.shape, offset, size))
    return tuple(tensors)


def _product(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


_OTHER_FORMATS = (
    (b"version https://git-lfs", "a Git LFS pointer", "Run git lfs pull to get the file itself."),
    (b"PK\3\4", "a zip archive or PyTorch checkpoint", "Convert it: edgeslm convert DIRECTORY."),
    (b"\x80\2", "a Python pickle", "Convert the checkpoint: edgeslm convert DIRECTORY."),
    (b"\x1f\x8b", "gzip-compressed", "Unpack it first."),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "Unpack it first."),
    (b"<", "a web page", "The download failed or asked for a login: get the file itself."),
    (b"{", "JSON", "Name the GGUF file, or the checkpoint's directory."),
    (b"tjgg", "GGJT, GGUF's predecessor", "Get a GGUF file of this model."),
    (b"fmgg", "GGMF, GGUF's predecessor", "Get a GGUF file of this model."),
    (b"lmgg", "GGML, GGUF's predecessor", "Get a GGUF file of this model."),
    (b"\0\0\0\0", "zeros", "The download was never finished: get the file again."),
)


def _refuse_other_format(cursor: _Cursor, start: bytes) -> NoReturn:
    """Say what a file that is not GGUF looks like."""
    if not cursor.size:
        raise InvalidGGUF(f"{cursor.path}: empty", hint="Download or copy it again.")
    start += cursor.take(min(cursor.size, 64) - len(start), "the start of the file")
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**32:
        name, hint = "a safetensors file", "Convert its folder: edgeslm convert DIRECTORY."
        raise InvalidGGUF(f"{cursor.path}: not a GGUF file but {name}", hint=hint)
    for prefix, name, hint in _OTHER_FORMATS:
        if start.lstrip(b"\xef\xbb\xbf\r\n\t ").startswith(prefix):
            raise InvalidGGUF(f"{cursor.path}: not a GGUF file but {name}", hint=hint)
    raise InvalidGGUF(
        f"{cursor.path}: not a GGUF file: it starts with {start[:4]!r}",
        hint="Name a file whose name ends in .gguf.",
    )
