"""An importance matrix in llama.cpp's terms, and whether it belongs to a model.

Apart from the quantizer since it loads numpy, which most quantizations do without.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm.errors import Unsupported
from edgeslm.gguf.imatrix import ImportanceMatrix, read_imatrix
from edgeslm.gguf.reader import Header

_INTEGER_TAG, _TEXT_TAG = 0, 3
"""`enum llama_model_kv_override_type` of llama.h."""
_MAX_TEXT_BYTES = 127


@dataclass(frozen=True)
class NativeMatrix:
    """What `llama_model_quantize_params` points to; has to outlive the call."""

    importances: Any
    fields: Any
    buffers: tuple[Any, ...]


def known_tensors(header: Header, path: Path) -> frozenset[str]:
    """The names in the matrix at `path`, once it is seen to be made with the model of `header`.

    llama.cpp throws on a wrong width only when it comes to that tensor, and says nothing where
    no name matches.

    Raises:
        InvalidGGUF, NotFound: there is no importance matrix at `path`.
        Unsupported: it was made with another model.
    """
    columns = {name: entry.sums.size for name, entry in read_imatrix(path).tensors.items()}
    shared = [tensor for tensor in header.tensors if tensor.name in columns]
    if not shared:
        raise Unsupported(
            f"{path}: made for another model: it knows none of the tensors of {header.path}",
            hint="Make an importance matrix with this very model.",
        )
    for tensor in shared:
        expected = tensor.shape[0] * math.prod(tensor.shape[2:])
        if columns[tensor.name] != expected:
            raise Unsupported(
                f"{path}: made for another model: {columns[tensor.name]} importances for the "
                f"{expected} columns of {tensor.name}",
                hint="Make an importance matrix with this very model.",
            )
    return frozenset(columns)


def native_matrix(lib: Any, path: Path) -> NativeMatrix:
    """The matrix at `path`, with the metadata that llama-quantize adds to the file.

    Raises:
        InvalidGGUF, NotFound: there is no importance matrix at `path`.
    """
    matrix = read_imatrix(path)
    importances = (lib.llama_model_imatrix_data * (len(matrix.tensors) + 1))()
    buffers = tuple(entry.mean_squares.ravel() for entry in matrix.tensors.values())
    for target, name, values in zip(importances, matrix.tensors, buffers, strict=False):
        target.name = name.encode()
        target.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        target.size = values.size
    return NativeMatrix(importances, _native_fields(lib, _fields(path, matrix)), buffers)


def _fields(path: Path, matrix: ImportanceMatrix) -> dict[str, str | int]:
    fields: dict[str, str | int] = {"quantize.imatrix.file": str(path)}
    if matrix.sources:
        fields["quantize.imatrix.dataset"] = matrix.sources[0]
    fields["quantize.imatrix.entries_count"] = len(matrix.tensors)
    if matrix.chunk_count:
        fields["quantize.imatrix.chunks_count"] = matrix.chunk_count
    return fields


def _native_fields(lib: Any, fields: Mapping[str, str | int]) -> Any:
    """Metadata as C knows it, ended by an empty key."""
    array = (lib.llama_model_kv_override * (len(fields) + 1))()
    for entry, (key, value) in zip(array, fields.items(), strict=False):
        entry.key = key.encode()
        if isinstance(value, int):
            entry.tag, entry.value.val_i64 = _INTEGER_TAG, value
        else:
            entry.tag, entry.value.val_str = _TEXT_TAG, _cut(value)
    return array


def _cut(text: str) -> bytes:
    """As much as the struct holds, and no half of a character."""
    kept = text.encode(errors="replace")[:_MAX_TEXT_BYTES]
    return kept.decode(errors="ignore").encode()
