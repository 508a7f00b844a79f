"""The types under a label are those that llama.cpp chooses; any width can be had."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import InvalidOption, Unsupported
from edgeslm.estimate.mixes import FILE_TYPES, as_all, as_file_type, at_bits
from edgeslm.estimate.rows import model_configs
from edgeslm.estimate.shapes import header_from_config
from edgeslm.gguf.reader import Header, read_header
from edgeslm.gguf.types import Field, ValueType, tensor_type
from edgeslm.gguf.writer import TensorSpec, write_gguf
from edgeslm.llama.quantizer import QuantizeOptions, quantize_file
from edgeslm.testing import tiny_gguf

SHAPES = {
    "wide": {"width": 256, "heads": 8, "kv_heads": 2, "feed_forward": 256, "layers": 16},
    "narrow": {"width": 64, "heads": 4, "kv_heads": 2, "feed_forward": 512, "layers": 16},
    "untied": {"width": 256, "heads": 4, "kv_heads": 4, "feed_forward": 320, "tied": False},
    "hybrid": {"architecture": "lfm2", "width": 256, "heads": 4, "feed_forward": 256, "layers": 9},
}


@pytest.fixture(scope="module", params=SHAPES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("mixes") / "model.gguf"
    return tiny_gguf(path, **SHAPES[request.param])


@pytest.mark.parametrize("label", [name for name in FILE_TYPES if name not in ("F32",)])
def test_llama_cpp_chooses_the_same_types(model: Path, tmp_path: Path, label: str) -> None:
    written = tmp_path / "written.gguf"
    try:
        quantize_file(model, written, QuantizeOptions(label, 1))
    except Unsupported as error:
        pytest.skip(f"llama.cpp wants an importance matrix: {error.message}")

    expected = as_file_type(read_header(model), label)

    chosen = {tensor.name: tensor.type.name for tensor in read_header(written).tensors}
    assert {tensor.name: tensor.type.name for tensor in expected.tensors} == chosen


def rewritten(path: Path, family: str, plain: Header, more: dict[str, int]) -> Path:
    """A file of `family` with the tensors of `plain`, out of order, and random weights."""
    base = read_header(tiny_gguf(path.with_name("base.gguf"), layers=8, width=256, heads=8))
    fields = []
    for key, value in base.metadata.items():
        kind, item = base.metadata_types[key]
        if key.removeprefix("llama.") in more:
            continue
        name = key.replace("llama.", f"{family}.")
        if family == "falcon":
            name = name.replace("rms_epsilon", "epsilon")
        if name == "general.architecture":
            value = family
        fields.append(Field(name, kind, value, item))
    fields += [Field(f"{family}.{key}", ValueType.UINT32, value) for key, value in more.items()]
    tensors = [
        TensorSpec(each.name, tensor_type("F32"), each.shape) for each in plain.tensors[::-1]
    ]
    generator = np.random.default_rng(0)
    write_gguf(
        path,
        fields,
        tensors,
        lambda index: generator.standard_normal(tensors[index].shape[::-1], np.float32),
    )
    return path


MIXTURE = {
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 270,
    "tie_word_embeddings": True,
}
OTHERS = {
    "eight experts": (
        "llama",
        MIXTURE | {"num_local_experts": 8},
        {"expert_count": 8, "expert_used_count": 2, "attention.head_count_kv": 8},
    ),
    "four experts": (
        "llama",
        MIXTURE | {"num_local_experts": 4},
        {"expert_count": 4, "expert_used_count": 2, "attention.head_count_kv": 8},
    ),
    "falcon": (
        "falcon",
        MIXTURE
        | {"architectures": ["FalconForCausalLM"], "num_hidden_layers": 16, "num_kv_heads": 8},
        {"block_count": 16, "attention.head_count_kv": 8},
    ),
}


@pytest.fixture(scope="module", params=OTHERS)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, config, more = OTHERS[request.param]
    path: Path = tmp_path_factory.mktemp("others") / "model.gguf"
    return rewritten(path, family, header_from_config(Path("config"), config), more)


@pytest.mark.parametrize(
    "label", ["Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q8_0", "IQ4_XS"]
)
def test_llama_cpp_chooses_the_same_types_for_mixtures_and_falcon(
    other: Path, tmp_path: Path, label: str
) -> None:
    written = tmp_path / "written.gguf"
    quantize_file(other, written, QuantizeOptions(label, 1))

    expected = as_file_type(read_header(other), label)

    chosen = {tensor.name: tensor.type.name for tensor in read_header(written).tensors}
    assert {tensor.name: tensor.type.name for tensor in expected.tensors} == chosen


def test_what_may_not_change_keeps_its_type() -> None:
    plain = header_from_config(Path("mixture"), MIXTURE | {"num_local_experts": 4})
    norm = next(each for each in plain.tensors if each.name == "output_norm.weight")
    half = dataclasses.replace(norm, type=tensor_type("F16"), bytes=norm.bytes // 2)
    mixed = dataclasses.replace(
        plain, tensors=tuple(half if each is norm else each for each in plain.tensors)
    )

    types = {each.name: each.type.name for each in as_file_type(mixed, "Q4_0").tensors}

    assert types["output_norm.weight"] == "F16"
    assert types["blk.0.ffn_gate_inp.weight"] == "F32"
    assert types["blk.0.ffn_up_exps.weight"] == "Q4_0"


@given(st.sampled_from(sorted(model_configs())), st.floats(2.3, 15.9))
def test_any_number_of_bits(name: str, bits: float) -> None:
    plain = header_from_config(Path(name), model_configs()[name])
    weights = sum(tensor.elements for tensor in plain.tensors)
    try:
        header = at_bits(plain, bits)
    except InvalidOption as error:
        assert "can have" in (error.hint or "")
        assert bits < 8 * size_of(as_all(plain, "Q2_0")) / weights + 0.01
        return

    got = 8 * size_of(header) / weights

    largest = max(tensor.elements for tensor in plain.tensors) / weights
    assert bits - 8 * largest - 0.01 <= got <= bits + 1e-6  # no type is between Q8_0 and F16


def test_widths_out_of_reach_name_what_can_be_had() -> None:
    plain = header_from_config(Path("llama"), model_configs()["llama-3.2-1b"])

    with pytest.raises(InvalidOption) as caught:
        at_bits(plain, 1.5)

    assert caught.value.hint == "This model can have 2.25 to 16.00."


def test_unknown_labels_are_refused_with_a_list() -> None:
    plain = header_from_config(Path("llama"), model_configs()["llama-3.2-1b"])

    with pytest.raises(InvalidOption, match="Q9_X") as caught:
        as_file_type(plain, "Q9_X")

    assert "Q4_K_M" in (caught.value.hint or "")


def size_of(header: Header) -> int:
    return sum(tensor.bytes for tensor in header.tensors)
