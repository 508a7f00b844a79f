import numpy as np
import pytest

from edgeslm.gguf.reader import read_header
from edgeslm.gguf.types import tensor_type
from edgeslm.packager.quantize.scores import (
    relative_error,
    sample_rows,
    score_tensors,
    types_for,
)
from edgeslm.testing import tiny_gguf


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    return read_header(tiny_gguf(path, width=96, feed_forward=256, heads=3, weight_type="F16"))


def tensor(header, name):
    return next(tensor for tensor in header.tensors if tensor.name == name)


def test_only_types_whose_blocks_divide_a_row(header):
    narrow = {kind.name for kind in types_for(tensor(header, "blk.0.attn_q.weight"))}
    wide = {kind.name for kind in types_for(tensor(header, "blk.0.ffn_down.weight"))}
    assert narrow == {"F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL"}
    assert wide == narrow | {"Q2_K", "Q3_K", "IQ3_S", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K"}


def test_staying_costs_nothing_and_fewer_bits_cost_more(header):
    (options,) = score_tensors(header, {"blk.0.ffn_down.weight"}, 1)
    scores = {candidate.type.name: candidate.score for candidate in options.candidates}
    assert scores["F16"] == 0
    assert scores["Q8_0"] < scores["Q6_K"] < scores["Q5_K"] < scores["Q4_K"] < scores["Q3_K"]
    for candidate in options.candidates:
        shape = tensor(header, options.tensor).shape
        assert candidate.bytes == candidate.type.bytes_for(shape)


def test_a_sample_is_rows_of_the_tensor_and_always_the_same(header):
    info = tensor(header, "blk.0.attn_q.weight")
    sample = sample_rows(header.path, info)
    whole = np.memmap(header.path, np.float16, "r", info.offset, info.shape[::-1])
    np.testing.assert_array_equal(sample, whole.astype(np.float32))
    np.testing.assert_array_equal(sample, sample_rows(header.path, info))


def test_relative_error_has_no_scale():
    rows = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    kind = tensor_type("Q4_0")
    assert relative_error(rows, kind) == pytest.approx(relative_error(rows * 16, kind))
    assert 0.002 < relative_error(rows, kind) < 0.02
    assert relative_error(np.zeros_like(rows), kind) == 0
