"""Importance matrices on their way into llama.cpp's quantizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeslm.errors import InvalidGGUF, NotFound, Unsupported
from edgeslm.gguf.imatrix import Importance, ImportanceMatrix, write_imatrix
from edgeslm.gguf.reader import Header, read_header
from edgeslm.llama.quantizer import QuantizeOptions, quantize_file
from edgeslm.llama.rows import encode_rows
from edgeslm.testing import tiny_gguf

SKIPPED = ("token_embd.weight", "output.weight")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Widths that are multiples of 256 only."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    return tiny_gguf(path, width=256, feed_forward=256, heads=4)


def made_matrix(header: Header, *, without: tuple[str, ...] = SKIPPED) -> ImportanceMatrix:
    """What llama-imatrix would make, of random numbers."""
    tensors = {}
    for index, tensor in enumerate(header.tensors):
        if len(tensor.shape) > 1 and tensor.name not in without:
            numbers = np.random.default_rng(index).chisquare(1, tensor.shape[0])
            tensors[tensor.name] = Importance(numbers.astype(np.float32)[None], np.array([7]))
    return ImportanceMatrix(tensors, ("prose.txt",), chunk_count=3, chunk_tokens=7)


@pytest.fixture(scope="module")
def imatrix(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    write_imatrix(path, made_matrix(read_header(model)))
    return path


@pytest.mark.parametrize("file_type", ["IQ2_XS", "Q4_K_M"])
def test_the_importances_weight_the_rounding(
    model: Path, imatrix: Path, tmp_path: Path, file_type: str
) -> None:
    output = tmp_path / "out.gguf"
    quantize_file(model, output, QuantizeOptions(file_type, 1, imatrix=imatrix))
    name = "blk.1.ffn_gate.weight"
    header = read_header(model)
    source = next(tensor for tensor in header.tensors if tensor.name == name)
    found = next(tensor for tensor in read_header(output).tensors if tensor.name == name)
    rows = np.fromfile(model, np.float32, source.elements, offset=source.offset).reshape(256, -1)
    importance = made_matrix(header).tensors[name].mean_squares[0]
    expected = encode_rows(found.type, rows, importance)
    stored = np.fromfile(output, np.uint8, found.bytes, offset=found.offset)
    np.testing.assert_array_equal(stored, expected.ravel())
    if file_type == "Q4_K_M":
        assert (encode_rows(found.type, rows) != expected).any()


def test_the_file_says_so(model: Path, imatrix: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    quantize_file(model, output, QuantizeOptions("Q4_0", 1, imatrix=imatrix))
    header = read_header(output)
    assert {key: value for key, value in header.metadata.items() if "imatrix" in key} == {
        "quantize.imatrix.file": str(imatrix)[:127],
        "quantize.imatrix.dataset": "prose.txt",
        "quantize.imatrix.entries_count": 14,
        "quantize.imatrix.chunks_count": 3,
    }


def test_long_names_are_cut_between_characters(model: Path, tmp_path: Path) -> None:
    imatrix, output = tmp_path / "imatrix.gguf", tmp_path / "out.gguf"
    matrix = made_matrix(read_header(model))
    write_imatrix(imatrix, ImportanceMatrix(matrix.tensors, ("a" + "é" * 100,), 1, 1))
    quantize_file(model, output, QuantizeOptions("Q4_0", 1, imatrix=imatrix))
    assert read_header(output).get("quantize.imatrix.dataset") == "a" + "é" * 63


def refused(model: Path, imatrix: Path, folder: Path, file_type: str = "IQ2_XS") -> Unsupported:
    output = folder / "out.gguf"
    with pytest.raises(Unsupported) as caught:
        quantize_file(model, output, QuantizeOptions(file_type, 1, imatrix=imatrix))
    assert not output.exists()
    assert caught.value.hint
    return caught.value


def test_a_matrix_of_other_names(model: Path, tmp_path: Path) -> None:
    imatrix = tmp_path / "imatrix.gguf"
    ones = Importance(np.ones((1, 256), np.float32), np.array([1]))
    write_imatrix(imatrix, ImportanceMatrix({"model.layers.0.q_proj": ones}))
    assert "knows none of the tensors" in refused(model, imatrix, tmp_path, "Q4_0").message


def test_a_matrix_of_another_width(imatrix: Path, tmp_path: Path) -> None:
    narrow = tiny_gguf(tmp_path / "narrow.gguf", width=128, feed_forward=256)
    message = refused(narrow, imatrix, tmp_path, "Q4_0").message
    assert "256 importances for the 128 columns of blk.0.attn_" in message


def test_a_matrix_that_lacks_a_tensor(model: Path, tmp_path: Path) -> None:
    missing = "blk.1.ffn_gate.weight"
    imatrix = tmp_path / "imatrix.gguf"
    write_imatrix(imatrix, made_matrix(read_header(model), without=(missing, *SKIPPED)))
    assert f"no importances for {missing}" in refused(model, imatrix, tmp_path).message
    quantize_file(model, tmp_path / "out.gguf", QuantizeOptions("Q4_K_M", 1, imatrix=imatrix))


def test_a_file_that_is_no_matrix(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    with pytest.raises(Unsupported, match="not an importance matrix but a llama model"):
        quantize_file(model, output, QuantizeOptions("Q4_0", 1, imatrix=model))
    with pytest.raises(NotFound):
        quantize_file(model, output, QuantizeOptions("Q4_0", 1, imatrix=tmp_path / "none"))
    (tmp_path / "text").write_text("Dear reader, this is a letter.")
    with pytest.raises(InvalidGGUF):
        quantize_file(model, output, QuantizeOptions("Q4_0", 1, imatrix=tmp_path / "text"))
    assert not output.exists()
