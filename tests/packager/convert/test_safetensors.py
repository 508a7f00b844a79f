"""Safetensors headers: what is read from good ones, and that bad ones are always errors."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from edgeslm.errors import InvalidCheckpoint
from edgeslm.packager.convert.safetensors import read_header

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(4, dtype=np.float16),
    "one": np.full((), 7, np.float32),
}


def write_raw(path: Path, header: Any, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def test_tensors_are_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(ARRAYS, path, metadata={"format": "pt"})
    tensors = {tensor.name: tensor for tensor in read_header(path)}
    assert set(tensors) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(tensors[name].read(), array)
        assert tensors[name].bytes == array.nbytes


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {"dtype": "F32", "shape": [2]},
        {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": [], "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 16]},
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 2**82]},
    ],
)
def test_entries_that_contradict_themselves_or_the_file(entry: Any, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x.safetensors", {"w": entry}, bytes(8))
    with pytest.raises(InvalidCheckpoint, match="not a whole safetensors file"):
        read_header(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 255), length=st.integers(0, 500))
def test_mutated_files_are_read_or_refused(
    position: int, value: int, length: int, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    save_file(ARRAYS, path)
    data = bytearray(path.read_bytes())
    data[position % len(data)] = value
    path.write_bytes(data[: max(length, 1)])
    try:
        tensors = read_header(path)
    except InvalidCheckpoint:
        return
    assert all(tensor.offset + tensor.bytes <= path.stat().st_size for tensor in tensors)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(raw=st.binary(max_size=64))
def test_any_bytes_as_header(raw: bytes, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x.safetensors", raw)
    try:
        read_header(path)
    except InvalidCheckpoint as error:
        assert error.hint
