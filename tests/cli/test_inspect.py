"""What inspect says of files that are sound but no language model."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.gguf.types import TENSOR_TYPES, Field, ValueType, tensor_type
from edgeslm.gguf.writer import TensorSpec, write_gguf
from edgeslm.testing import tiny_gguf

Edgeslm = Callable[..., subprocess.CompletedProcess[str]]

VECTOR = (TensorSpec("blk.0.attn_q.weight.lora_a", tensor_type("F32"), (8,)),)
OTHERS = {
    "adapter": ("llama", "adapter", VECTOR, "LoRA adapter"),
    "imatrix": ("llama", "imatrix", VECTOR, "importance matrix"),
    "mmproj": ("clip", "mmproj", VECTOR, "image or audio encoder"),
    "vocabulary": ("llama", "model", (), "no tensors"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_that_is_no_model_is_shown(edgeslm: Edgeslm, tmp_path: Path, name: str) -> None:
    architecture, kind, tensors, words = OTHERS[name]
    fields = [
        Field("general.architecture", ValueType.STRING, architecture),
        Field("general.type", ValueType.STRING, kind),
    ]
    path = tmp_path / "file.gguf"
    write_gguf(path, fields, tensors, lambda index: bytes(tensors[index].bytes))

    shown, told = edgeslm("inspect", path, "--tensors"), edgeslm("inspect", path, "--json")

    assert shown.returncode == told.returncode == 0, (shown, told)
    assert architecture in shown.stdout
    assert words in shown.stderr
    assert words in json.loads(told.stdout)["problem"]


def test_a_model_has_no_problem(edgeslm: Edgeslm, tmp_path: Path) -> None:
    told = edgeslm("inspect", tiny_gguf(tmp_path / "m.gguf"), "--json")

    assert json.loads(told.stdout)["problem"] is None


def test_types_are_explained(edgeslm: Edgeslm, tmp_path: Path) -> None:
    model = tiny_gguf(tmp_path / "m.gguf", weight_type="F16")

    shown, told = (
        edgeslm("inspect", model, "--types"),
        edgeslm("inspect", model, "--types", "--json"),
    )

    assert "11 bits of precision" in shown.stdout
    assert "Q4_0" not in shown.stdout
    explained = json.loads(told.stdout)["explained"]
    assert [entry["type"] for entry in explained] == ["F16", "F32"]
    assert "explained" not in json.loads(edgeslm("inspect", model, "--json").stdout)


def test_all_types_are_explained_without_a_file(edgeslm: Edgeslm) -> None:
    shown, told = edgeslm("inspect", "--types"), edgeslm("inspect", "--types", "--json")

    types = {entry["type"]: entry for entry in json.loads(told.stdout)["types"]}
    assert set(types) == {kind.name for kind in TENSOR_TYPES.values()}
    assert types["IQ2_XS"]["importance"] == "needed"
    assert all(f"\n{name} " in shown.stdout for name in types)
