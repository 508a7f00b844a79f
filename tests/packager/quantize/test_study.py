import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edgeslm.gguf.reader import read_header
from edgeslm.packager.quantize import study
from edgeslm.packager.quantize.decoder import Block, norm, shape_of
from edgeslm.packager.quantize.sensitivity import Tally, embed, rounding_noise, top
from edgeslm.packager.quantize.study import Study
from edgeslm.packager.quantize.weights import Weights
from edgeslm.testing import tiny_gguf

TOKENS = np.random.default_rng(0).integers(3, 260, (6, 40)).astype(np.int32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    return Weights(read_header(tiny_gguf(path, layers=3, width=64, feed_forward=256, heads=2)))


def make(folder, weights):
    return Study(folder, weights, shape_of(weights), TOKENS)


@pytest.fixture(scope="module")
def done(tmp_path_factory, weights):
    whole = make(tmp_path_factory.mktemp("study"), weights)
    whole.run()
    return whole


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "complete"}


def test_only_what_is_needed_later_is_left(done):
    assert set(files(done.folder)) == {
        "moments.npz",
        "draws.npz",
        "top.npz",
        *(f"block-00{i}.npz" for i in range(3)),
    }


class _Killed(Exception):
    pass


@pytest.mark.parametrize("moment", range(1, 14, 2))
def test_an_interrupted_study_ends_with_the_same_files(
    tmp_path, weights, done, monkeypatch, moment
):
    """Killed after so many saved files, then run again."""
    saved = 0

    def counting(save):
        def saving(path, *content):
            nonlocal saved
            saved += 1
            if saved > moment:
                raise _Killed
            save(path, *content)

        return saving

    with monkeypatch.context() as patch:
        for name in ("_save", "_save_arrays"):
            patch.setattr(study, name, counting(getattr(study, name)))
        with pytest.raises(_Killed):
            make(tmp_path, weights).run()
    make(tmp_path, weights).run()
    assert files(tmp_path) == files(done.folder)


def test_what_is_done_is_not_done_again(done, weights, monkeypatch):
    monkeypatch.setattr(study, "block_pass", None)
    monkeypatch.setattr(study, "top", None)
    again = make(done.folder, weights).run()
    assert set(again.rows) >= {"blk.0.attn_norm.weight", "blk.2.ffn_up.weight"}


def test_the_study_covers_every_matrix(done):
    matrices = {t.name for t in done.weights.header.tensors if len(t.shape) == 2}
    assert done.names() == matrices
    for name in matrices:
        tensor = done.weights.find(name)
        found = done.of(name)
        assert found.inputs.shape == (tensor.shape[0],) * 2
        if found.outputs is None:
            assert found.rows.shape == (tensor.shape[1],)
        else:
            assert found.outputs.shape == (tensor.shape[1],) * 2
        assert found.noise[32] > 0


def test_what_rows_count_is_known_without_their_form(done):
    name = "blk.1.ffn_gate.weight"
    whole, light = done.of(name), done.without_outputs(name)
    assert light.outputs is None
    np.testing.assert_array_equal(light.inputs, whole.inputs)
    np.testing.assert_allclose(light.rows, np.diag(whole.outputs), rtol=1e-6)
    np.testing.assert_array_equal(done.outputs_of(name), whole.outputs)


def test_packed_forms_come_back():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 40)) * np.exp(3 * rng.standard_normal(40))
    matrix = (x.T @ x).astype(np.float32)
    again = study._unpacked(*study._packed(matrix))
    root = np.sqrt(np.diag(matrix))
    assert np.abs((again - matrix) / np.outer(root, root)).max() < 1e-3
    np.testing.assert_array_equal(again, again.T)


def divergence(weights, shape, changed, name, change):
    """Mean KL divergence of all predictions when `change` is added to one matrix."""

    def predicted(added):
        total = []
        for row in TOKENS:
            x = embed(weights, shape, row)
            for index in range(len(shape.layers)):
                block = Block(shape, index, weights.block(index), len(row))
                if index == changed:
                    block.weights[f"{name}.weight"] = block.weights[f"{name}.weight"] + added
                x = block.forward(x)
            y, _ = norm(x, weights.vector("output_norm.weight"), shape.epsilon)
            scores = (y @ weights.matrix("token_embd.weight").T).astype(np.float64)
            total.append(scores - np.log(np.exp(scores).sum(1, keepdims=True)))
        return np.concatenate(total)

    before, after = predicted(0), predicted(change)
    return float((np.exp(before) * (before - after)).sum(1).mean())


@pytest.mark.parametrize("name", ["ffn_down", "attn_v", "ffn_up"])
def test_the_forms_predict_the_divergence(tmp_path, weights, name):
    """Of random errors in one matrix, as independent of the text as rounding errors are."""
    shape = shape_of(weights)
    whole = make(tmp_path, weights)
    rescaled = whole.run()
    rng = np.random.default_rng(5)
    matrix = rescaled.matrix(f"blk.1.{name}.weight")
    found = whole.of(f"blk.1.{name}.weight")
    ratios = []
    for _ in range(6):
        change = rng.standard_normal(matrix.shape).astype(np.float32) * 0.02 * matrix.std()
        predicted = 0.5 * float(np.trace(change @ found.inputs @ change.T @ found.outputs))
        ratios.append(divergence(rescaled, shape, 1, name, change) / predicted)
    assert 0.4 < np.median(ratios) < 2.5


def test_rounding_noise_is_that_of_rounding():
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((400, 64)) * np.exp(rng.standard_normal(64))).astype(np.float32)
    for size in (32, 64):
        step = np.abs(x.reshape(400, -1, size)).max(2, keepdims=True) / 127
        rounded = (np.rint(x.reshape(400, -1, size) / step) * step).reshape(x.shape)
        measured = np.square(rounded - x).sum()
        assert (
            rounding_noise(x, size).sum() == np.float32(measured)
            or 0.9 < (rounding_noise(x, size).sum() / measured) < 1.1
        )


def test_tokens_that_do_not_matter_do_not_shape_the_form():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((64, 32)).astype(np.float32)
    g = rng.standard_normal((64, 8)).astype(np.float32)
    x[0] *= 1e4
    g[0] = 0
    tally = Tally(full=True)
    tally.add(x, g, np.zeros_like(x))
    found = tally.result()
    assert np.abs(found.inputs).max() < 10


def test_draws_have_the_models_probabilities(weights):
    shape = shape_of(weights)
    x = embed(weights, shape, TOKENS[0])
    rows = [np.repeat(x[:1], 4000, 0)]
    with ThreadPoolExecutor(1) as pool:
        found = top(weights, shape, rows, 0, pool, 1)
    head, gain = weights.matrix("token_embd.weight"), weights.vector("output_norm.weight")
    y, _ = norm(x[:1], gain, shape.epsilon)
    p = np.exp(y @ head.T)[0]
    np.testing.assert_allclose(found.probabilities, p / p.sum(), rtol=1e-3)
    assert np.abs(np.mean(found.gradients[0], 0)).max() < 0.15 * np.abs(found.gradients[0]).max()


def test_what_only_a_study_that_goes_on_needs_is_removed(tmp_path, weights, done):
    shutil.copytree(done.folder, tmp_path / "study")
    left = tmp_path / "study" / "gradient-000.npy"
    assert not left.exists()
    left.touch()  # killed between its end and tidying up
    make(tmp_path / "study", weights).run()
    assert files(tmp_path / "study") == files(done.folder)


def test_sums_are_symmetric_and_whole():
    rng = np.random.default_rng(3)
    tally, h, g, weight, both = Tally(full=True), 0.0, 0.0, 0.0, 0.0
    for tokens in (40, 300):
        x, y = (rng.standard_normal((tokens, n)).astype(np.float32) for n in (1100, 70))
        tally.add(x, y, x)
        each = np.square(y).sum(1, keepdims=True)
        h, g = h + x.T @ (x * each), g + y.T @ y
        weight, both = weight + each.sum(), both + np.square(y.T @ x).sum()
    assert tally._together == pytest.approx(both, rel=1e-4)
    found = tally.result()
    np.testing.assert_allclose(found.inputs, h / weight, atol=1e-5)
    np.testing.assert_allclose(found.outputs / found.outputs[0, 0], g / g[0, 0], atol=1e-4)
    assert (found.inputs == found.inputs.T).all()
