"""The types under a label are those that llama.cpp chooses; any width can be had."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import InvalidOption, Unsupported
from edgeslm.estimate.mixes import FILE_TYPES, as_all, as_file_type, at_bits
from edgeslm.estimate.rows import model_configs
from edgeslm.estimate.shapes import header_from_config
from edgeslm.gguf.reader import Header, read_header
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
