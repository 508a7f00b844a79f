"""The table of types against the library it describes."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeslm.errors import NativeFailure
from edgeslm.gguf.imatrix import Importance as Columns
from edgeslm.gguf.imatrix import ImportanceMatrix, write_imatrix
from edgeslm.gguf.reader import read_header
from edgeslm.gguf.types import TENSOR_TYPES, TensorType, fallback, tensor_type
from edgeslm.llama import native, quantizer
from edgeslm.llama.guard import ensure_loadable
from edgeslm.llama.quantizer import QuantizeOptions, quantize_file
from edgeslm.llama.rows import decode_rows, encode_rows
from edgeslm.packager.quantize.types import (
    TYPES,
    Importance,
    nearest_type,
    runnable_types,
    type_info,
)
from edgeslm.testing import tiny_gguf

ENCODABLE = [info for info in TYPES if info.encodable]
WEIGHTS = [info for info in TYPES if info.runs]


class CpuTraits(ctypes.Structure):
    """`struct ggml_type_traits_cpu` of ggml-cpu.h."""

    _fields_ = (
        ("from_float", ctypes.c_void_p),
        ("vec_dot", ctypes.c_void_p),
        ("vec_dot_type", ctypes.c_int),
        ("rows", ctypes.c_int64),
    )


def test_every_type_is_explained_once() -> None:
    assert sorted(info.type.id for info in TYPES) == sorted(TENSOR_TYPES)
    assert all(type_info(kind).type == kind for kind in TENSOR_TYPES.values())
    assert len({info.structure for info in TYPES}) == len(TYPES)


@pytest.mark.parametrize("info", TYPES, ids=lambda info: info.type.name)
def test_what_runs_has_a_dot_product(info) -> None:
    folder = Path(native.library().__file__).parent / "lib"
    function = ctypes.CDLL(str(next(folder.glob("libggml-cpu.*")))).ggml_get_type_traits_cpu
    function.restype = ctypes.POINTER(CpuTraits)
    assert bool(function(info.type.id).contents.vec_dot) == info.runs


@pytest.mark.parametrize("info", ENCODABLE, ids=lambda info: info.type.name)
def test_importances_change_the_encoding_or_not(info) -> None:
    numbers = np.random.default_rng(1)
    rows = numbers.standard_normal((4, 256), np.float32)
    importance = numbers.chisquare(1, 256).astype(np.float32)
    one = encode_rows(info.type, rows, importance)
    other = encode_rows(info.type, rows, np.ones(256, np.float32))
    assert (one != other).any() == (info.importance is not Importance.IGNORED)
    assert (info.importance is Importance.NEEDED) == (info.type.name in quantizer._NEED_IMPORTANCE)


def relative_error(rows: NDArray[np.float32], kind: TensorType) -> float:
    """Sum of squared errors of rows encoded as `kind`, over the sum of squares."""
    decoded = decode_rows(kind, encode_rows(kind, rows), rows.shape[1])
    return float(np.square(decoded - rows).sum() / np.square(rows).sum())


def test_needing_training_means_losing_much() -> None:
    rows = np.random.default_rng(1).standard_normal((16, 256), np.float32)
    errors = {
        info.type.name: relative_error(rows, info.type)
        for info in WEIGHTS
        if info.importance is not Importance.NEEDED
    }
    trained = {info.type.name for info in WEIGHTS if info.needs_training}
    assert min(errors[name] for name in trained) > 2 * max(
        error for name, error in errors.items() if name not in trained
    )


def test_a_model_in_all_runnable_types_runs(tmp_path: Path) -> None:
    source = tiny_gguf(tmp_path / "m.gguf", width=256, feed_forward=256, heads=4, layers=5)
    header = read_header(source)
    tensors = [t for t in header.tensors if len(t.shape) > 1 and t.name != "token_embd.weight"]
    kinds = runnable_types((256,), importance=True, trained=True)
    assert len(kinds) <= len(tensors)
    chosen = tuple(zip((tensor.name for tensor in tensors), kinds, strict=False))
    ones = Columns(np.ones((1, 256), np.float32), np.array([1]))
    imatrix = tmp_path / "imatrix.gguf"
    write_imatrix(imatrix, ImportanceMatrix({tensor.name: ones for tensor in tensors}))
    output = tmp_path / "out.gguf"
    quantize_file(source, output, QuantizeOptions("Q8_0", 1, overrides=chosen, imatrix=imatrix))
    assert {tensor.type for tensor in read_header(output).tensors} >= set(kinds)
    ensure_loadable(output)


@pytest.mark.parametrize("width", [256, 128, 96, 64, 32])
@given(importance=st.booleans(), trained=st.booleans())
def test_runnable_types_fit_and_rise(width: int, importance: bool, trained: bool) -> None:
    kinds = runnable_types((width, 7), importance=importance, trained=trained)
    assert all(kind.fits((width, 7)) for kind in kinds)
    bits = [kind.bits_per_weight for kind in kinds]
    assert bits == sorted(bits)
    infos = [type_info(kind) for kind in kinds]
    assert importance or all(info.importance is not Importance.NEEDED for info in infos)
    assert trained or not any(info.needs_training for info in infos)


def test_runnable_types_of_an_odd_width() -> None:
    names = [kind.name for kind in runnable_types((576, 3))]
    assert names == [
        *("MXFP4", "Q4_0", "IQ4_NL", "NVFP4", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
        *("F16", "BF16", "F32"),
    ]
    assert [kind.name for kind in runnable_types((7, 3))] == ["F16", "BF16", "F32"]


@pytest.mark.parametrize(
    ("kind", "width", "nearest"),
    [("Q4_K", 576, "Q4_0"), ("Q6_K", 576, "Q5_1"), ("IQ2_XS", 576, "MXFP4"), ("Q4_0", 7, "F16")],
)
def test_the_nearest_type(kind: str, width: int, nearest: str) -> None:
    assert nearest_type(tensor_type(kind), (width, 3)).name == nearest


@pytest.mark.parametrize("width", [96, 40])
def test_fallbacks_are_those_of_llama_cpp(tmp_path: Path, width: int) -> None:
    """Ask for a type in each tensor, and read in the log which one llama.cpp plans."""
    model = tiny_gguf(tmp_path / "m.gguf", width=96, heads=3, feed_forward=width, layers=30)
    kinds = [info.type for info in ENCODABLE if fallback(info.type, width) is not None]
    chosen = {f"blk.{layer}.ffn_down.weight": kind for layer, kind in enumerate(kinds)}
    options = QuantizeOptions("Q8_0", 1, overrides=tuple(chosen.items()))
    planned = {}

    def watch(line: str) -> None:
        if found := re.match(
            r"\[.*\] (\S+) .*, type =  ?\s*f32, size = .* MiB(?:.*\((\w+)\))?$", line
        ):
            planned[found[1]] = (found[2] or "f32").upper()

    quantizer._run(quantizer._Job(model, model, model, "Q8_0", options), watch, dry_run=True)
    assert {name: planned[name] for name in chosen} == {
        name: fallback(kind, width).name for name, kind in chosen.items()
    }


@pytest.mark.parametrize("name", ["Q1_0", "NVFP4"])
def test_types_without_a_fallback(tmp_path: Path, name: str) -> None:
    assert fallback(tensor_type(name), 96) is None
    model = tiny_gguf(tmp_path / "m.gguf", width=96, heads=3)
    overrides = (("blk.0.attn_q.weight", tensor_type(name)),)
    with pytest.raises(NativeFailure, match="no tensor type fallback"):
        quantize_file(model, tmp_path / "out.gguf", QuantizeOptions("Q8_0", 1, overrides=overrides))
