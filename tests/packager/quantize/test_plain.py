"""Our writer of plain encodings against llama.cpp's own, byte by byte."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edgeslm.errors import InvalidGGUF, OutputFailure, Unsupported
from edgeslm.gguf.reader import read_header
from edgeslm.gguf.types import tensor_type
from edgeslm.gguf.validation import read_model
from edgeslm.llama.quantizer import QuantizeOptions, planned, quantize_model
from edgeslm.packager.quantize import plain, quantize
from edgeslm.packager.quantize.plain import write_plain
from edgeslm.testing import tiny_gguf

TYPES = ("Q8_0", "Q6_K", "Q4_K_M", "Q4_0", "IQ4_XS", "Q2_K", "Q5_1", "TQ2_0", "BF16", "F16", "F32")


@pytest.fixture(scope="module", params=["llama", "gemma3", "qwen2"])
def model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    return tiny_gguf(path, architecture=request.param, width=96, feed_forward=256, heads=3)


@pytest.mark.parametrize("file_type", TYPES)
def test_whole_files_equal_llama_cpps(model, tmp_path, monkeypatch, file_type):
    monkeypatch.setattr(plain, "_PIECE_ELEMENTS", 1000)  # a few rows: pieces end within tensors
    header = read_model(model)
    quantize_model(header, tmp_path / "theirs", QuantizeOptions(file_type))
    quantize(model, tmp_path / "ours", file_type=file_type)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_quantizing_again_equals_llama_cpps(model, tmp_path):
    quantize(model, tmp_path / "once", file_type="Q8_0")
    options = QuantizeOptions("Q4_K_M", allow_requantize=True)
    quantize_model(read_model(tmp_path / "once"), tmp_path / "theirs", options)
    quantize(tmp_path / "once", tmp_path / "ours", file_type="Q4_K_M")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_plan_says_what_llama_cpp_writes(model, tmp_path):
    header, options = read_model(model), QuantizeOptions("Q4_K_M")
    plan = planned(header, options)
    written = quantize_model(header, tmp_path / "theirs", options)
    assert list(plan.types.items()) == [(t.name, t.type) for t in written.header.tensors]
    assert plan.fallbacks == written.fallbacks


def damaged(model, path, name, value):
    """A copy in which one weight has another value."""
    data = bytearray(model.read_bytes())
    tensor = next(each for each in read_header(model).tensors if each.name == name)
    assert tensor.type.name == "F32"
    data[tensor.offset : tensor.offset + 4] = np.float32(value).tobytes()
    path.write_bytes(data)
    return read_header(path)


def write(header, name, kind, output, threads=2):
    return write_plain(header, {name: tensor_type(kind)}, output, threads, "Q4_0")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["Q4_0", "F16"])
def test_what_is_no_number_is_refused(tiny_model, tmp_path, value, kind):
    header = damaged(tiny_model, tmp_path / "bad", "blk.0.attn_q.weight", value)
    with pytest.raises(InvalidGGUF, match=r"attn_q\.weight holds infinities or what is not"):
        write(header, "blk.0.attn_q.weight", kind, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


@pytest.mark.parametrize("value", [1e30, -1e30])
@pytest.mark.parametrize("kind", ["Q8_0", "F16"])
def test_what_half_precision_cannot_hold_is_refused(tiny_model, tmp_path, value, kind):
    header = damaged(tiny_model, tmp_path / "bad", "blk.0.attn_q.weight", value)
    with pytest.raises(Unsupported, match=rf"weights up to 1e\+30, too large for {kind}"):
        write(header, "blk.0.attn_q.weight", kind, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]
    write(header, "blk.0.attn_q.weight", "BF16", tmp_path / "out")


def test_large_weights_that_fit_are_written(tiny_model, tmp_path):
    header = damaged(tiny_model, tmp_path / "large", "blk.0.attn_q.weight", 70_000.0)
    write(header, "blk.0.attn_q.weight", "Q8_0", tmp_path / "out")
    assert read_header(tmp_path / "out").tensors[0].type.name == "Q8_0"


def test_named_tensors_come_first_and_others_stay(tiny_model, tmp_path):
    header = read_header(tiny_model)
    write(header, "blk.1.ffn_up.weight", "Q4_0", tmp_path / "out")
    first, *rest = read_header(tmp_path / "out").tensors
    assert (first.name, first.type.name) == ("blk.1.ffn_up.weight", "Q4_0")
    others = [tensor for tensor in header.tensors if tensor.name != first.name]
    assert [tensor.name for tensor in rest] == [tensor.name for tensor in others]
    for new, old in zip(rest, others, strict=True):
        kept = np.fromfile(tmp_path / "out", np.uint8, new.bytes, offset=new.offset)
        np.testing.assert_array_equal(
            kept, np.fromfile(tiny_model, np.uint8, old.bytes, offset=old.offset)
        )


def test_a_full_disk(model, small_disk):
    with pytest.raises(OutputFailure, match="No space left"):
        write(read_header(model), "blk.0.attn_q.weight", "F32", small_disk / "out")
    assert not list(small_disk.iterdir())


def test_an_interruption_leaves_nothing_and_no_threads(tiny_model, tmp_path, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(plain, "encode_rows", interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        write(read_header(tiny_model), "blk.0.attn_q.weight", "Q4_0", tmp_path / "out")
    assert not list(tmp_path.iterdir())
    assert threading.active_count() == before
