"""Model files made from other ones, with a few things changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeslm.gguf.reader import read_header
from edgeslm.gguf.types import Field, ValueType, tensor_type
from edgeslm.gguf.writer import TensorSpec, write_gguf
from edgeslm.llama.rows import decode_rows, encode_rows

NOTHING: Mapping[str, Any] = {}


def rewrite(
    source: Path,
    path: Path,
    *,
    fields: Mapping[str, Any] = NOTHING,
    types: Mapping[str, str] = NOTHING,
    noise: float = 0.0,
    nan: str | None = None,
    factors: Mapping[str, float] = NOTHING,
) -> Path:
    """Write `source` to `path` with some of it changed, noise on the matrices, a NaN."""
    header = read_header(source)
    kept = {
        name: Field(name, header.metadata_types[name][0], value, header.metadata_types[name][1])
        for name, value in header.metadata.items()
    }
    for name, value in fields.items():
        new = ValueType.UINT32 if isinstance(value, int) else ValueType.FLOAT32
        kept[name] = replace(kept.get(name, Field(name, new, value)), value=value)
    specs = [
        TensorSpec(each.name, tensor_type(types.get(each.name, each.type.name)), each.shape)
        for each in header.tensors
    ]
    random = np.random.default_rng(1)

    def read(index: int) -> Any:
        tensor = header.tensors[index]
        raw = np.fromfile(source, np.uint8, tensor.bytes, offset=tensor.offset)
        rows = decode_rows(
            tensor.type, raw.reshape(tensor.elements // tensor.shape[0], -1), tensor.shape[0]
        )
        if noise and len(tensor.shape) > 1:
            rows = rows + noise * rows.std() * random.standard_normal(rows.shape, np.float32)
        rows = rows * np.float32(factors.get(tensor.name, 1))
        if tensor.name == nan:
            rows = np.where(np.arange(rows.size).reshape(rows.shape) == 7, np.float32("nan"), rows)
        kind = specs[index].type
        return rows if kind.name == "F32" else encode_rows(kind, rows)

    write_gguf(path, list(kept.values()), specs, read)
    return path
