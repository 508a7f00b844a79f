"""Importance matrices as llama.cpp keeps them: how large each column of a weight's input is.

A matrix product reads column j of a weight as often as its input has component j, so an error
there counts as much as that component's mean square. llama-imatrix sums the squares over a
text; llama-quantize divides by the number of rows and weights the rounding with the result.

In GGUF a weight NAME has two tensors: NAME.in_sum2 holds the sums, a row for each expert, and
NAME.counts the rows of input that each of them saw. The older binary format (.dat) is read too.
Sources: `tools/imatrix/imatrix.cpp`, `common/imatrix-loader.cpp`, `tools/quantize/quantize.cpp`
of the llama.cpp in llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import InvalidGGUF, Unsupported, UserError, reading
from edgeslm.gguf.reader import Header, TensorInfo, read_header
from edgeslm.gguf.types import MAGIC, Field, ValueType, printable, tensor_type
from edgeslm.gguf.writer import TensorSpec, write_gguf

_SUMS, _COUNTS = ".in_sum2", ".counts"
_DATASETS, _CHUNKS = "imatrix.datasets", "imatrix.chunk_count"
_CHUNK_SIZE = "imatrix.chunk_size"
_LARGEST_COUNT = 2**53
_MAX_LEGACY_BYTES = 2**30
_HINT = "Make one with llama-imatrix, or get the file again."


@dataclass(frozen=True, eq=False)
class Importance:
    """What one weight's input was like; a row for each expert, one where there are none."""

    sums: NDArray[np.float32]
    """[experts, columns]: sum of the squares of each input column."""
    counts: NDArray[np.int64]
    """[experts]: rows of input that were summed."""

    @property
    def mean_squares(self) -> NDArray[np.float32]:
        """[experts, columns]: as llama-quantize computes it; 1 where an expert saw nothing."""
        counts = self.counts.astype(np.float32)[:, None]
        ones = np.ones_like(self.sums)
        return np.divide(self.sums, counts, out=ones, where=counts > 0)


@dataclass(frozen=True, eq=False)
class ImportanceMatrix:
    """The importances of all weights that were seen, by tensor name."""

    tensors: Mapping[str, Importance]
    sources: tuple[str, ...] = ()
    """Names of the texts it was computed on."""
    chunk_count: int = 0
    chunk_tokens: int = 0
    """Tokens in a chunk; 0 where the file does not say."""


def read_imatrix(path: Path) -> ImportanceMatrix:
    """Read an importance matrix in either format.

    Raises:
        InvalidGGUF: not an importance matrix, or one that contradicts itself.
        NotFound: there is no such file.
    """
    with reading(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UserError(f"{path}: not a regular file", hint="Name a file on a disk.")
        with path.open("rb") as stream:
            start = stream.read(len(MAGIC))
            if start != MAGIC and path.stat().st_size > _MAX_LEGACY_BYTES:
                _fail(path, "not an importance matrix")
            rest = b"" if start == MAGIC else stream.read()
    if start != MAGIC:
        return _Legacy(path, start + rest).matrix()
    return _from_gguf(read_header(path))


def write_imatrix(path: Path, matrix: ImportanceMatrix) -> None:
    """Write `matrix` as llama-imatrix does: GGUF, tensors in the order of their names.

    Raises:
        OutputFailure: the file cannot be written.
        Unsupported: a name longer than GGUF holds.
    """
    f32 = tensor_type("F32")
    specs, data = [], []
    for name, entry in sorted(matrix.tensors.items()):
        experts, columns = entry.sums.shape
        more = (experts,) if experts > 1 else ()
        specs += [
            TensorSpec(name + _SUMS, f32, (columns, *more)),
            TensorSpec(name + _COUNTS, f32, (1, *more)),
        ]
        data += [entry.sums, entry.counts]
    fields = [
        Field("general.type", ValueType.STRING, "imatrix"),
        Field(_DATASETS, ValueType.ARRAY, matrix.sources, ValueType.STRING),
        Field(_CHUNKS, ValueType.UINT32, matrix.chunk_count),
        Field(_CHUNK_SIZE, ValueType.UINT32, matrix.chunk_tokens),
    ]
    write_gguf(path, fields, specs, lambda index: np.ascontiguousarray(data[index], np.float32))


def _fail(path: Path, problem: str) -> NoReturn:
    raise InvalidGGUF(f"{path}: {printable(problem)}", hint=_HINT)


def _from_gguf(header: Header) -> ImportanceMatrix:
    path, kind = header.path, header.get("general.type")
    if kind != "imatrix":
        what = f"a {kind}" if isinstance(kind, str) else f"a {header.architecture} model"
        raise Unsupported(
            f"{path}: not an importance matrix but {printable(what)}",
            hint="Name the file that llama-imatrix wrote.",
        )
    stored = {tensor.name: tensor for tensor in header.tensors}
    tensors = {}
    for name, tensor in stored.items():
        if name.endswith(_SUMS):
            counts = stored.get(name.removesuffix(_SUMS) + _COUNTS)
            if counts is None:
                _fail(path, f"tensor {name} has no counts")
            tensors[name.removesuffix(_SUMS)] = _entry(path, tensor, counts)
    if not tensors:
        _fail(path, "an importance matrix without any importances")
    sources = header.get(_DATASETS, ())
    return ImportanceMatrix(
        tensors=tensors,
        sources=tuple(map(str, sources)) if isinstance(sources, tuple) else (str(sources),),
        chunk_count=_count(path, header, _CHUNKS),
        chunk_tokens=_count(path, header, _CHUNK_SIZE),
    )


def _count(path: Path, header: Header, key: str) -> int:
    value = header.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        _fail(path, f"{key} is {value!r}, not a count")
    return value


def _entry(path: Path, sums: TensorInfo, counts: TensorInfo) -> Importance:
    for tensor in (sums, counts):
        if tensor.type.name != "F32":
            _fail(path, f"tensor {tensor.name} is {tensor.type.name}, not F32")
    if sums.elements % counts.elements:
        _fail(path, f"tensor {sums.name} cannot be shared by {counts.elements} counts")
    return _checked(path, sums.name, _load(path, sums), _load(path, counts))


def _load(path: Path, tensor: TensorInfo) -> NDArray[np.float32]:
    with reading(path):
        return np.fromfile(path, "<f4", tensor.elements, offset=tensor.offset)


def _checked(
    path: Path, name: str, sums: NDArray[np.float32], counts: NDArray[np.float32]
) -> Importance:
    """Flat numbers from a file as an entry, if they are sums of squares and counts."""
    if not np.isfinite(sums).all() or (sums < 0).any():
        _fail(path, f"{name} holds what is no sum of squares")
    if not np.isfinite(counts).all() or (counts < 0).any() or (counts > _LARGEST_COUNT).any():
        _fail(path, f"the counts of {name} are no counts")
    return Importance(sums.reshape(counts.size, -1), np.rint(counts).astype(np.int64))


class _Legacy:
    """Reads the format from before GGUF: counts, then name, calls and numbers of each tensor."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        self._data = data
        self._at = 0

    def matrix(self) -> ImportanceMatrix:
        entries = self._number("the number of tensors")
        if not 0 < entries <= len(self._data) // 13:
            _fail(self._path, "not an importance matrix")
        tensors = {}
        for index in range(entries):
            name = self._text(f"the name of tensor {index}")
            calls = self._number(f"the calls of {name}")
            count = self._number(f"the size of {name}")
            if not name or name in tensors or count < 1:
                _fail(self._path, f"tensor {index} of the importance matrix is {name!r}")
            sums = np.frombuffer(self._take(4 * count, f"the numbers of {name}"), "<f4")
            tensors[name] = _checked(self._path, name, sums, np.array([calls or 1], np.float32))
        chunks = self._number("the number of chunks") if self._left else 0
        source = self._text("the name of the text") if self._left else ""
        if chunks < 0:
            _fail(self._path, f"computed on {chunks} chunks")
        return ImportanceMatrix(tensors, (source,) if source else (), chunks)

    @property
    def _left(self) -> int:
        return len(self._data) - self._at

    def _take(self, count: int, what: str) -> bytes:
        if not 0 <= count <= self._left:
            _fail(self._path, f"not an importance matrix, or cut off: {what} is missing")
        self._at += count
        return self._data[self._at - count : self._at]

    def _number(self, what: str) -> int:
        (value,) = struct.unpack("<i", self._take(4, what))
        return int(value)

    def _text(self, what: str) -> str:
        data = self._take(self._number(f"the length of {what}"), what)
        try:
            return data.decode()
        except UnicodeDecodeError:
            _fail(self._path, f"not an importance matrix: {what} is no text")
