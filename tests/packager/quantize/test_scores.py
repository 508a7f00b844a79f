import numpy as np
import pytest

from edgeslm.gguf.reader import read_header
from edgeslm.packager.quantize.encoders import Forms
from edgeslm.packager.quantize.encoders.forms import factor
from edgeslm.packager.quantize.judge import judge_by_gains
from edgeslm.packager.quantize.scores import score_tensors, types_for, unscored
from edgeslm.packager.quantize.weights import Weights
from edgeslm.testing import tiny_gguf

DOWN = "blk.0.ffn_down.weight"
NARROW = {"F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL"}


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    return read_header(tiny_gguf(path, width=96, feed_forward=256, heads=3, weight_type="F16"))


def tensor(header, name):
    return next(tensor for tensor in header.tensors if tensor.name == name)


def names(header, name, *, calibrated):
    return {kind.name for kind in types_for(tensor(header, name), calibrated=calibrated)}


def test_only_types_whose_blocks_divide_a_row(header):
    narrow = names(header, "blk.0.attn_q.weight", calibrated=False)
    wide = names(header, DOWN, calibrated=False)
    assert narrow == NARROW
    assert wide == narrow | {"Q2_K", "Q3_K", "IQ3_S", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K"}


def test_calibration_makes_smaller_types_useful(header):
    assert names(header, "blk.0.attn_q.weight", calibrated=True) == NARROW | {"MXFP4"}
    assert names(header, DOWN, calibrated=True) >= {"Q2_0", "IQ2_XXS", "IQ3_XXS"}


def scores_of(header, forms_of, **options):
    (found,) = score_tensors(Weights(header), {DOWN}, forms_of, 1, **options)
    assert all(
        candidate.bytes == candidate.type.bytes_for(tensor(header, DOWN).shape)
        for candidate in found.candidates
    )
    return {candidate.type.name: candidate.score for candidate in found.candidates}


def test_staying_costs_nothing_and_fewer_bits_cost_more(header):
    scores = scores_of(header, judge_by_gains(Weights(header)).forms_of)
    assert scores["F16"] == 0
    assert scores["Q8_0"] < scores["Q6_K"] < scores["Q5_K"] < scores["Q4_K"] < scores["Q3_K"]


def forms(header, noise=None, scale=0.5):
    rng = np.random.default_rng(1)
    info = tensor(header, DOWN)
    inputs = rng.standard_normal((600, info.shape[0]), np.float32)
    outputs = rng.standard_normal((600, info.shape[1]), np.float32)
    return Forms(
        factor(inputs.T @ inputs / 600, 0.02),
        scale=scale,
        noise=noise or {},
        factored_outputs=lambda: factor(outputs.T @ outputs / 600, 0.02),
    )


def test_rounded_activations_count_by_the_block_the_type_rounds_in(header):
    quiet = scores_of(header, lambda _: forms(header))
    noisy = scores_of(header, lambda _: forms(header, {32: 0.25, 256: 1.0}))
    added = {name: noisy[name] - quiet[name] for name in quiet}
    assert added["F16"] == 0
    assert added["Q8_0"] == pytest.approx(0.25)
    assert added["Q6_K"] == pytest.approx(1.0)


def test_scores_are_kept_and_read_again(header, tmp_path):
    first = scores_of(header, lambda _: forms(header), kept=tmp_path)
    again = scores_of(header, lambda _: forms(header, scale=9.0), kept=tmp_path)
    assert first == again
    (tmp_path / f"{DOWN}.json").unlink()
    assert scores_of(header, lambda _: forms(header, scale=9.0), kept=tmp_path) != first


def test_a_sample_of_rows_stands_for_all(tmp_path):
    path = tiny_gguf(tmp_path / "model.gguf", width=64, feed_forward=256)
    wide = read_header(path)
    info = tensor(wide, "blk.0.ffn_gate.weight")
    eye = factor(np.eye(info.shape[0], dtype=np.float32), 0.0)
    (found,) = score_tensors(Weights(wide), {info.name}, lambda _: Forms(eye, scale=1.0), 1)
    scores = {candidate.type.name: candidate.score for candidate in found.candidates}
    from edgeslm.packager.quantize.encoders import encode_as

    whole = Weights(wide).matrix(info.name)
    for candidate in found.candidates:
        if candidate.type.name in ("Q4_0", "Q5_1"):
            loss = encode_as(candidate.type, whole, Forms(eye), sweeps=1).losses.sum()
            assert scores[candidate.type.name] == pytest.approx(loss, rel=0.15)


def test_every_possible_type_is_offered_before_anything_is_measured(header):
    (options,) = unscored([tensor(header, DOWN)], {DOWN})
    found = {item.type.name for item in options.candidates}
    assert found == names(header, DOWN, calibrated=True)
