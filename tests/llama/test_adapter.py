"""Adapters change what is computed while they are used, as the formula says."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeslm.errors import EdgeslmError, InvalidOption
from edgeslm.gguf.reader import Header, read_header
from edgeslm.gguf.types import tensor_type
from edgeslm.gguf.writer import TensorSpec, write_gguf
from edgeslm.llama.adapter import Adapter
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.testing import tiny_adapter, tiny_gguf

OPTIONS = ContextOptions(length=256, threads=1)
TOKENS = list(range(10, 30))


def _matrices(path: Path) -> dict[str, np.ndarray]:
    header = read_header(path)
    data = path.read_bytes()
    return {
        tensor.name: np.frombuffer(
            data[tensor.offset : tensor.offset + tensor.bytes], np.float32
        ).reshape(tensor.shape[::-1])
        for tensor in header.tensors
    }


def _merged(path: Path, base: Path, adapter: Path, strength: float) -> Path:
    """The model with W + s B A in place of W: the oracle."""
    header, weights, low = read_header(base), _matrices(base), _matrices(adapter)
    alpha = read_header(adapter).get("adapter.lora.alpha")
    for name in weights:
        if f"{name}.lora_a" in low:
            a, b = low[f"{name}.lora_a"], low[f"{name}.lora_b"]
            weights[name] = weights[name] + strength * alpha / a.shape[0] * (b @ a)
    specs = [TensorSpec(t.name, tensor_type("F32"), t.shape) for t in header.tensors]
    fields = [field for field in header.fields() if field.key != "general.alignment"]
    write_gguf(path, fields, specs, lambda i: weights[specs[i].name].astype(np.float32))
    return path


def _logits(context: Context) -> np.ndarray:
    context.forget()
    context.prefill(TOKENS)
    return context.logits().copy()


@pytest.mark.parametrize("strength", [1.0, 0.5, -1.0])
def test_it_computes_what_the_merged_model_does(
    tmp_path: Path, tiny_model: Path, strength: float
) -> None:
    file = tiny_adapter(tmp_path / "adapter.gguf", tiny_model)
    merged = _merged(tmp_path / "merged.gguf", tiny_model, file, strength)
    with Model(merged) as model, Context(model, OPTIONS) as context:
        expected = _logits(context)
    with Model(tiny_model) as model, Context(model, OPTIONS) as context:
        plain = _logits(context)
        with Adapter(model, file, strength) as adapter:
            context.use_adapter(adapter)
            np.testing.assert_allclose(_logits(context), expected, rtol=2e-3, atol=2e-3)
            assert np.abs(plain - expected).max() > 0.1
            context.use_adapter(None)
            np.testing.assert_array_equal(_logits(context), plain)


def test_several_take_turns(tmp_path: Path, tiny_model: Path) -> None:
    files = [tiny_adapter(tmp_path / f"{n}.gguf", tiny_model, seed=n) for n in range(2)]
    with (
        Model(tiny_model) as model,
        Adapter(model, files[0]) as first,
        Adapter(model, files[1]) as second,
        Context(model, OPTIONS) as context,
    ):
        seen = []
        for adapter in (first, second, None, first, second):
            context.use_adapter(adapter)
            seen.append(_logits(context))
        np.testing.assert_array_equal(seen[0], seen[3])
        np.testing.assert_array_equal(seen[1], seen[4])
        assert np.abs(seen[0] - seen[1]).max() > 0.1
        assert first.digest != second.digest


def _changed(path: Path, source: Path, **changes: object) -> Path:
    """An adapter with other metadata, or other tensors."""
    header = read_header(source)
    matrices = _matrices(source)
    values = {field.key: field for field in header.fields()}
    for key, field in changes.items():
        values[key.replace("__", ".")] = field  # type: ignore[assignment]
    shapes = changes.pop("shapes", {})
    values.pop("shapes", None)
    renamed = changes.pop("renamed", {})
    values.pop("renamed", None)
    specs = [
        TensorSpec(
            renamed.get(t.name, t.name),  # type: ignore[attr-defined]
            tensor_type("F32"),
            shapes.get(t.name, t.shape),  # type: ignore[attr-defined]
        )
        for t in header.tensors
    ]
    fields = [field for field in values.values() if field is not None]
    write_gguf(
        path,
        fields,
        specs,
        lambda i: np.resize(matrices[header.tensors[i].name], specs[i].shape[::-1]),
    )
    return path


def test_what_does_not_fit_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    from edgeslm.gguf.types import Field, ValueType

    file = tiny_adapter(tmp_path / "adapter.gguf", tiny_model)
    name = "blk.0.attn_q.weight"
    cases: list[tuple[dict[str, object], str]] = [
        ({"general__type": Field("general.type", ValueType.STRING, "model")}, "general.type"),
        ({"general__type": Field("general.type", ValueType.UINT32, 7)}, "general.type"),
        ({"general__type": None}, "general.type"),
        ({"general__architecture": None}, "an adapter for None"),
        ({"adapter__type": Field("adapter.type", ValueType.STRING, "ia3")}, "adapter.type"),
        (
            {"general__architecture": Field("general.architecture", ValueType.STRING, "qwen2")},
            "an adapter for qwen2",
        ),
        (
            {"adapter__lora__alpha": Field("adapter.lora.alpha", ValueType.UINT32, 8)},
            "alpha",
        ),
        (
            {"adapter__lora__alpha": Field("adapter.lora.alpha", ValueType.FLOAT32, float("nan"))},
            "alpha",
        ),
        ({"renamed": {f"{name}.lora_a": f"{name}.lora_x"}}, "neither|counterpart"),
        ({"renamed": {f"{name}.lora_a": "blk.9.attn_q.weight.lora_a"}}, "counterpart|no tensor"),
        ({"shapes": {f"{name}.lora_a": (16, 4)}}, "does not fit"),
        ({"shapes": {f"{name}.lora_b": (8, 32)}}, "does not fit"),
        ({"shapes": {f"{name}.lora_b": (4, 16)}}, "does not fit"),
    ]
    with Model(tiny_model) as model:
        for number, (changes, message) in enumerate(cases):
            wrong = _changed(tmp_path / f"{number}.gguf", file, **changes)
            with pytest.raises(EdgeslmError, match=message):
                Adapter(model, wrong)
        with pytest.raises(EdgeslmError):
            Adapter(model, tiny_model)
        with pytest.raises(EdgeslmError):
            Adapter(model, tmp_path / "nothing.gguf")
        with pytest.raises(InvalidOption):
            Adapter(model, file, float("nan"))


def test_the_embedding_of_a_tied_model_stays(tmp_path: Path, tiny_model: Path) -> None:
    name = "token_embd.weight"
    rows = read_header(tiny_model).tensors[0].shape[1]
    file = tiny_adapter(tmp_path / "adapter.gguf", tiny_model)
    a, b = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"
    changes = {
        "renamed": {a: f"{name}.lora_a", b: f"{name}.lora_b"},
        "shapes": {a: (4, rows), b: (4, 32)},
    }
    _changed(tmp_path / "embedding.gguf", file, **changes)
    with Model(tiny_model) as model, pytest.raises(EdgeslmError, match="embedding"):
        Adapter(model, tmp_path / "embedding.gguf")
    untied = tiny_gguf(tmp_path / "untied.gguf", tied=False)
    with (
        Model(untied) as model,
        Adapter(model, tmp_path / "embedding.gguf") as adapter,
        Context(model, OPTIONS) as context,
    ):
        plain = _logits(context)
        context.use_adapter(adapter)
        assert np.abs(_logits(context) - plain).max() > 0.01


def test_damaged_files_are_refused_or_work(tmp_path: Path, tiny_model: Path) -> None:
    file = tiny_adapter(tmp_path / "adapter.gguf", tiny_model)
    data = file.read_bytes()
    damaged = tmp_path / "damaged.gguf"
    start = read_header(file).data_offset
    with Model(tiny_model) as model:
        for at in range(0, start, 3):
            changed = bytearray(data)
            changed[at] ^= 0xFF
            damaged.write_bytes(changed)
            try:
                Adapter(model, damaged).close()
            except EdgeslmError:
                continue
        for length in (0, 10, start, len(data) - 1):
            damaged.write_bytes(data[:length])
            with pytest.raises(EdgeslmError):
                Adapter(model, damaged)
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_the_model_s_file_is_not_read_again(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tiny_adapter(tmp_path / "adapter.gguf", tiny_model)
    read: list[Path] = []

    def counted(path: Path) -> Header:
        read.append(path)
        return read_header(path)

    with Model(tiny_model) as model:
        for module in ("gguf.adapters", "gguf.validation", "llama.model"):
            monkeypatch.setattr(f"edgeslm.{module}.read_header", counted)
        with Adapter(model, file):
            assert read == [file]
