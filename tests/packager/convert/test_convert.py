"""What is converted, in which type, with which metadata; and what is refused, with which words."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import made_tokenizers
import numpy as np
import pytest
from gguf import GGUFReader
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch

from edgeslm.errors import (
    EdgeslmError,
    InvalidCheckpoint,
    InvalidGGUF,
    InvalidOption,
    NotFound,
    OutputFailure,
    Unsupported,
    UserError,
)
from edgeslm.packager.convert import convert
from edgeslm.packager.convert.encoding import encode, to_float32


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama checkpoint in bfloat16."""
    directory = tmp_path_factory.mktemp("pristine")
    tokenizer = made_tokenizers.byte_level("smollm", size=checkpoints.VOCABULARY - 1)
    model = checkpoints.build("llama").bfloat16()
    return checkpoints.save(model, directory, lambda to: made_tokenizers.write(tokenizer, to))


@pytest.fixture
def checkpoint(pristine: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "tiny-llama"))


def fields(path: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in GGUFReader(path).fields.items()}


def types(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}


def edit_tensors(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "model.safetensors"
    tensors = {name: data.float().numpy() for name, data in load_file(path).items()}
    edit(tensors)
    save_file(tensors, path)


def test_result_describes_the_file(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    result = convert(checkpoint, output)
    stored = json.loads(_header(checkpoint / "model.safetensors"))
    stored.pop("__metadata__", None)
    parameters = sum(int(np.prod(entry["shape"])) for entry in stored.values())
    assert (result.path, result.architecture, result.type) == (output, "llama", "BF16")
    assert (result.parameters, result.file_bytes) == (parameters, output.stat().st_size)


def _header(path: Path) -> bytes:
    data = path.read_bytes()
    return data[8 : 8 + struct.unpack("<Q", data[:8])[0]]


@pytest.mark.parametrize(("type_", "number"), [("F32", 0), ("F16", 1), ("BF16", 32), (None, 32)])
def test_matrices_get_the_type_and_vectors_stay_f32(
    type_: Any, number: int, checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.gguf"
    convert(checkpoint, output, type=type_)
    found = types(output)
    assert found["blk.0.attn_q.weight"] == found["token_embd.weight"] == (type_ or "BF16")
    assert found["blk.0.attn_norm.weight"] == found["output_norm.weight"] == "F32"
    assert fields(output)["general.file_type"] == number


def test_metadata(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "README.md").write_text(
        "---\nlicense: other\nlicense_name: 'tiny-1'\ntags:\n  license: no\n---\nlicense: no\n"
    )
    (checkpoint / "LICENSE").touch()
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    output = tmp_path / "out.gguf"
    convert(checkpoint, output)
    expected = {
        "general.architecture": "llama",
        "general.name": "tiny-llama",
        "general.license": "other",
        "general.license.name": "tiny-1",
        "general.license.link": "LICENSE",
        "general.quantization_version": 2,
        "llama.context_length": 256,
        "llama.block_count": 3,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": "{{ messages }}",
    }
    found = fields(output)
    assert {key: found.get(key) for key in expected} == expected


def test_a_window_limits_the_context_of_mistral(checkpoint: Path, tmp_path: Path) -> None:
    checkpoints.edit_config(checkpoint, architectures=["MistralForCausalLM"], sliding_window=100)
    output = tmp_path / "out.gguf"
    convert(checkpoint, output)
    assert fields(output)["llama.context_length"] == 100


def test_a_stored_copy_of_a_tied_head_is_left_out(checkpoint: Path, tmp_path: Path) -> None:
    checkpoints.edit_config(checkpoint, tie_word_embeddings=True)
    output = tmp_path / "out.gguf"
    convert(checkpoint, output)
    assert "output.weight" not in types(output)


def test_stored_rotary_frequencies_are_ignored(checkpoint: Path, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_tensors(checkpoint, lambda tensors: tensors.update({name: np.ones(8, np.float32)}))
    convert(checkpoint, tmp_path / "out.gguf")


def _set(name: str, value: float) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        edit_tensors(directory, lambda tensors: tensors[name].__setitem__((0, ...), value))

    return damage


def _config(**changes: Any) -> Callable[[Path], None]:
    return lambda directory: checkpoints.edit_config(directory, **changes)


def _tensors(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda directory: edit_tensors(directory, edit)


def _files(
    remove: str | None = None, write: dict[str, str | bytes] | None = None
) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        if remove:
            (directory / remove).unlink()
        for name, content in (write or {}).items():
            data = content.encode() if isinstance(content, str) else content
            (directory / name).write_bytes(data)

    return damage


def _truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


_Q = "model.layers.0.self_attn.q_proj.weight"
_INDEX = json.dumps({"weight_map": {_Q: "model-00001-of-00002.safetensors"}})
_ESCAPE = json.dumps({"weight_map": {_Q: "../model.safetensors"}})

DAMAGES: dict[str, tuple[Callable[[Path], None], type[EdgeslmError], str]] = {
    "no-config": (_files("config.json"), InvalidCheckpoint, "no config.json"),
    "adapter": (
        _files("config.json", {"adapter_config.json": "{}"}),
        InvalidCheckpoint,
        "only an adapter",
    ),
    "config-not-json": (_files(write={"config.json": "{"}), InvalidCheckpoint, "not valid JSON"),
    "config-a-list": (_files(write={"config.json": "[]"}), InvalidCheckpoint, "not a JSON object"),
    "no-architecture": (_config(architectures=[]), InvalidCheckpoint, "no architecture"),
    "other-architecture": (_config(architectures=["FooForCausalLM"]), Unsupported, "FooForCausal"),
    "quantized": (
        _config(quantization_config={"quant_method": "gptq"}),
        Unsupported,
        r"already quantized \(gptq\)",
    ),
    "no-weights": (_files("model.safetensors"), InvalidCheckpoint, r"no model\.safetensors"),
    "pickle": (
        _files("model.safetensors", {"pytorch_model.bin": ""}),
        Unsupported,
        r"only pytorch_model\.bin",
    ),
    "no-index": (
        _files("model.safetensors", {"model-00001-of-00002.safetensors": ""}),
        InvalidCheckpoint,
        "neither",
    ),
    "missing-shard": (
        _files(write={"model.safetensors.index.json": _INDEX}),
        InvalidCheckpoint,
        "lacks 1 of 1 weight files: model-00001-of-00002",
    ),
    "index-outside": (
        _files(write={"model.safetensors.index.json": _ESCAPE}),
        InvalidCheckpoint,
        "outside its directory",
    ),
    "empty-index": (
        _files(write={"model.safetensors.index.json": "{}"}),
        InvalidCheckpoint,
        "no weight_map",
    ),
    "truncated": (_truncate, InvalidCheckpoint, "ends at byte"),
    "not-safetensors": (
        _files(write={"model.safetensors": b"\x80\x04 a pickle, perhaps"}),
        InvalidCheckpoint,
        "not a whole safetensors file",
    ),
    "empty-weights": (
        _files(write={"model.safetensors": b""}),
        InvalidCheckpoint,
        "not a whole safetensors file",
    ),
    "no-tokenizer": (_files("tokenizer.json"), InvalidCheckpoint, r"no tokenizer\.json"),
    "missing-tensor": (_tensors(lambda t: t.pop(_Q)), InvalidCheckpoint, "lacks .*q_proj"),
    "extra-tensor": (
        _tensors(lambda t: t.update({"model.layers.0.new.weight": t[_Q]})),
        Unsupported,
        r"does not have: model\.layers\.0\.new\.weight",
    ),
    "wrong-shape": (
        _tensors(lambda t: t.update({_Q: t[_Q][:32]})),
        InvalidCheckpoint,
        r"has the shape \(32, 64\), config\.json implies \(64, 64\)",
    ),
    "integers": (
        _tensors(lambda t: t.update({_Q: np.zeros((64, 64), np.int8)})),
        Unsupported,
        "stored as I8",
    ),
    "nan": (_set(_Q, np.nan), InvalidCheckpoint, "q_proj.weight holds values"),
    "infinite-norm": (
        _set("model.norm.weight", np.inf),
        InvalidCheckpoint,
        "model.norm.weight holds values",
    ),
    "odd-heads": (_config(head_dim=15), Unsupported, "heads of 15"),
    "bad-groups": (_config(num_key_value_heads=3), InvalidCheckpoint, "cannot share"),
    "no-layers": (_config(num_hidden_layers=0), InvalidCheckpoint, "num_hidden_layers"),
    "text-for-number": (_config(hidden_size="64"), InvalidCheckpoint, "hidden_size"),
    "dynamic-rope": (
        _config(rope_parameters={"rope_type": "dynamic", "factor": 2.0}),
        Unsupported,
        "type dynamic in llama",
    ),
    "rope-without-factor": (
        _config(rope_parameters={"rope_type": "linear"}),
        InvalidCheckpoint,
        "factor must be a positive number",
    ),
    "rope-not-an-object": (
        _config(rope_parameters=[1]),
        InvalidCheckpoint,
        "rope_parameters must be",
    ),
    "partial-rope": (_config(partial_rotary_factor=0.5), Unsupported, "partial_rotary_factor"),
    "activation": (_config(hidden_act="relu"), Unsupported, "relu"),
    "layers": (_config(num_hidden_layers=2_000_000), Unsupported, "is 2000000"),
    "negative-epsilon": (_config(rms_norm_eps=-1), InvalidCheckpoint, "rms_norm_eps must be"),
    "nan-epsilon": (_config(rms_norm_eps=float("nan")), InvalidCheckpoint, "rms_norm_eps must be"),
    "endless-theta": (
        _config(rope_parameters={"rope_theta": float("inf")}),
        InvalidCheckpoint,
        "rope_theta must be",
    ),
    "two-copies": (
        _tensors(lambda t: t.update({"norm.weight": t["model.norm.weight"].copy()})),
        InvalidCheckpoint,
        r"holds model\.norm\.weight twice",
    ),
    "bfloat16-overflow": (_set(_Q, 3.4e38), Unsupported, "BF16 ends"),
    "template-not-utf8": (
        _files(write={"chat_template.jinja": b"\xff"}),
        InvalidCheckpoint,
        "UTF-8",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_a_clear_error_and_leaves_no_file(name: str, checkpoint: Path) -> None:
    damage, error, message = DAMAGES[name]
    damage(checkpoint)
    output = checkpoint.parent / "out.gguf"
    with pytest.raises(error, match=message) as raised:
        convert(checkpoint, output, type="BF16" if name == "bfloat16-overflow" else "F32")
    assert raised.value.hint
    assert [path.name for path in output.parent.iterdir()] == [checkpoint.name]


def test_values_beyond_f16_are_an_error(checkpoint: Path, tmp_path: Path) -> None:
    _set(_Q, 1e5)(checkpoint)
    with pytest.raises(Unsupported, match="up to 1e\\+05, F16 ends at 65504"):
        convert(checkpoint, tmp_path / "out.gguf", type="F16")
    convert(checkpoint, tmp_path / "out.gguf", type="BF16")


def test_names_without_the_prefix_of_models_with_a_head(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "with.gguf")
    path = checkpoint / "model.safetensors"
    save_torch({name.removeprefix("model."): data for name, data in load_file(path).items()}, path)
    convert(checkpoint, tmp_path / "without.gguf")
    assert (tmp_path / "without.gguf").read_bytes() == (tmp_path / "with.gguf").read_bytes()


@pytest.mark.parametrize("through_link", [False, True])
def test_the_source_is_never_overwritten(checkpoint: Path, through_link: bool) -> None:
    source = checkpoint / "model.safetensors"
    output = checkpoint.parent / "out.gguf" if through_link else source
    if through_link:
        output.symlink_to(source)
    before = source.read_bytes()
    with pytest.raises(InvalidOption, match="file of the checkpoint itself"):
        convert(checkpoint, output)
    assert source.read_bytes() == before


def test_a_model_may_be_written_beside_its_checkpoint_again(checkpoint: Path) -> None:
    convert(checkpoint, checkpoint / "model.gguf")
    convert(checkpoint, checkpoint / "model.gguf")


def test_a_file_that_llama_cpp_would_not_survive_never_appears(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.gguf").write_bytes(b"before")

    def unsound(path: Path) -> None:
        raise InvalidGGUF(f"{path}: blocks without heads", hint="none")

    monkeypatch.setattr(sys.modules["edgeslm.packager.convert.convert"], "read_model", unsound)
    with pytest.raises(InvalidCheckpoint, match=r"tiny-llama: .*unsound: blocks without heads"):
        convert(checkpoint, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == b"before"


def test_a_model_in_the_hub_s_cache_keeps_its_name(checkpoint: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--some-org--Tiny-1B" / "snapshots" / "0f1e2d"
    shutil.copytree(checkpoint, snapshot)
    convert(snapshot, tmp_path / "out.gguf")
    assert fields(tmp_path / "out.gguf")["general.name"] == "Tiny-1B"


@pytest.mark.parametrize("place", ["model", "output"])
def test_names_too_long_for_the_disk(place: str, checkpoint: Path, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300)
    with pytest.raises(EdgeslmError, match="xxx"):
        convert(*((long, tmp_path / "o.gguf") if place == "model" else (checkpoint, long)))


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        convert(tmp_path / "none", tmp_path / "out.gguf")


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="is a file"):
        convert(tmp_path / "model.safetensors", tmp_path / "out.gguf")


def test_unwritable_output(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputFailure):
        convert(checkpoint, tmp_path / "no" / "such" / "folder.gguf")


def old_window(directory: Path, **changes: Any) -> None:
    """The settings as transformers before 4.53 wrote them: nothing for each layer."""
    checkpoints.edit_config(
        directory,
        layer_types=None,
        **{"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1} | changes,
    )


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("changes", [{}, {"max_window_layers": 0}, {"sliding_window": None}])
def test_windows_without_layer_types(family: str, changes: dict, tmp_path: Path) -> None:
    checkpoints.build(family).save_pretrained(tmp_path)
    old_window(tmp_path, **changes)  # without the key, the window is 4096
    with pytest.raises(Unsupported, match="sliding-window"):
        convert(tmp_path, tmp_path / "out.gguf")


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize(
    "changes", [{"use_sliding_window": False}, {"max_window_layers": 3}, {"null": True}]
)
def test_windows_that_no_layer_has(family: str, changes: dict, tmp_path: Path) -> None:
    tokenizer = made_tokenizers.byte_level("qwen2", size=checkpoints.VOCABULARY - 1)
    checkpoints.save(
        checkpoints.build(family), tmp_path, lambda to: made_tokenizers.write(tokenizer, to)
    )
    old_window(tmp_path, **changes)
    if "null" in changes:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"sliding_window": None}))
    convert(tmp_path, tmp_path / "out.gguf")


FAMILY_LIMITS: dict[str, tuple[str, dict[str, Any], str]] = {
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
        "sliding-window",
    ),
    "qwen2-heads": ("qwen2", {"head_dim": 24}, "heads of 24"),
    "qwen3-biases": ("qwen3", {"attention_bias": True}, "biases"),
    "gemma3-scale": ("gemma3", {"query_pre_attn_scalar": 64}, "query_pre_attn_scalar"),
    "gemma3-bidirectional": ("gemma3", {"use_bidirectional_attention": True}, "bidirectional"),
    "gemma3-caps": ("gemma3", {"attn_logit_softcapping": 50.0}, "capped"),
}


@pytest.mark.parametrize("name", FAMILY_LIMITS)
def test_what_llama_cpp_computes_differently_is_refused(name: str, tmp_path: Path) -> None:
    family, changes, message = FAMILY_LIMITS[name]
    checkpoints.build(family, **changes).save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match=message):
        convert(tmp_path, tmp_path / "out.gguf")


def test_rounding_is_that_of_torch() -> None:
    import torch

    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32)
    values = bits.view(np.float32)
    values = values[np.abs(values) < 1e38]
    expected = torch.from_numpy(values).bfloat16()
    np.testing.assert_array_equal(to_float32(encode("x", values, "BF16")), expected.float().numpy())
    small = values[np.abs(values) < 60_000]
    expected_half = torch.from_numpy(small).half().numpy()
    np.testing.assert_array_equal(encode("x", small, "F16"), expected_half)
    codes = bits.astype(np.uint16)
    codes = codes[(codes & 0x7F80) != 0x7F80]
    np.testing.assert_array_equal(encode("x", codes, "BF16"), codes)


def test_a_full_disk_is_said_and_left_empty(checkpoint: Path, small_disk: Path) -> None:
    with pytest.raises(OutputFailure, match="No space left"):
        convert(checkpoint, small_disk / "model.gguf")
    assert list(small_disk.iterdir()) == []
