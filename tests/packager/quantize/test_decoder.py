"""Our forward pass against llama.cpp's, our gradients against differences."""

import dataclasses
import warnings

import numpy as np
import pytest

from edgeslm.errors import Unsupported
from edgeslm.gguf.reader import read_header
from edgeslm.llama.activations import watch_inputs
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model, ModelOptions
from edgeslm.packager.quantize.decoder import INPUTS, Block, _silu, norm, shape_of
from edgeslm.packager.quantize.equalize import Moments, equalized
from edgeslm.packager.quantize.sensitivity import embed
from edgeslm.packager.quantize.weights import Weights
from edgeslm.testing import tiny_gguf

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3")
TOKENS = [int(token) for token in np.random.default_rng(0).integers(3, 260, 48)]


@pytest.fixture(scope="module", params=FAMILIES)
def path(request, tmp_path_factory):
    """Seven layers: gemma3's sixth sees the whole context. Nothing is as wide as anything else."""
    family = request.param
    odd = {"head_width": 12} if family in ("qwen3", "gemma3") else {}
    return tiny_gguf(
        tmp_path_factory.mktemp("model") / "model.gguf",
        architecture=family,
        layers=7,
        heads=4,
        kv_heads=2,
        norm_spread=0.3,
        tied=family != "qwen2",
        seed=3,
        **odd,
    )


@pytest.fixture
def weights(path):
    return Weights(read_header(path))


def blocks(weights, shape):
    return [Block(shape, i, weights.block(i), len(TOKENS)) for i in range(len(shape.layers))]


def logits(weights, shape):
    x = embed(weights, shape, TOKENS)
    for block in blocks(weights, shape):
        x = block.forward(x)
    y, _ = norm(x, weights.vector("output_norm.weight"), shape.epsilon)
    head = "output.weight" if weights.find("output.weight") else "token_embd.weight"
    return y @ weights.matrix(head).T


def test_the_forward_pass_is_llama_cpps(path, weights):
    ours = logits(weights, shape_of(weights))[-1]
    with (
        Model(path, ModelOptions(trusted=True)) as model,
        Context(model, ContextOptions(length=64, kv_type="F32", flash_attention=False)) as context,
    ):
        context.prefill(TOKENS)
        theirs = context.logits().copy()
    assert np.abs(ours - theirs).max() < 3e-3 * theirs.std()


def test_gradients_are_what_differences_say(weights):
    shape = shape_of(weights)
    index = 5  # in gemma3 the one with a full view
    block = blocks(weights, shape)[index]
    rng = np.random.default_rng(1)
    x = rng.standard_normal((len(TOKENS), shape.width)).astype(np.float32)
    toward = rng.standard_normal(x.shape).astype(np.float32)
    passed = block.backward(x, toward)

    def value(given):
        return float((block.forward(given).astype(np.float64) * toward).sum())

    def slope(change):
        step = 1e-2
        return (change(step) - change(-step)) / (2 * step)

    direction = rng.standard_normal(x.shape).astype(np.float32)
    found = slope(lambda step: value(x + step * direction))
    expected = float((passed.gradient.astype(np.float64) * direction).sum())
    assert found == pytest.approx(expected, rel=5e-3, abs=0.05)
    for name in INPUTS:
        original = block.weights[f"{name}.weight"]
        change = rng.standard_normal(original.shape).astype(np.float32) * original.std()

        def moved(step, name=name, original=original, change=change):
            block.weights[f"{name}.weight"] = original + np.float32(step) * change
            result = value(x)
            block.weights[f"{name}.weight"] = original
            return result

        product = (passed.inputs[name] @ change.T).astype(np.float64)
        expected = float((product * passed.outputs[name]).sum())
        assert slope(moved) == pytest.approx(expected, rel=2e-2, abs=0.05), name
        through = passed.outputs[name] @ original
        np.testing.assert_allclose(passed.back[name], through, rtol=1e-3, atol=1e-4)


def test_what_llama_cpp_multiplies_is_what_we_do(path, weights):
    shape = shape_of(weights)
    x = embed(weights, shape, TOKENS)
    ours = {}
    for index, block in enumerate(blocks(weights, shape)):
        passed = block.backward(x, x)
        ours |= {f"blk.{index}.{name}.weight": passed.inputs[name] for name in INPUTS}
        x = block.forward(x)
    theirs = {}
    with Model(path, ModelOptions(trusted=True)) as model:
        watch_inputs(
            model,
            [TOKENS],
            frozenset(ours),
            lambda name, given: theirs.update({name: given.copy()}),
            outputs=len(TOKENS),
        )
    assert set(theirs) == set(ours)
    for name, given in theirs.items():
        np.testing.assert_allclose(given, ours[name], atol=0.02 * np.abs(given).max(), err_msg=name)


def random_moments(weights, shape):
    rng = np.random.default_rng(2)

    def some(count):
        return np.exp(2 * rng.standard_normal(count)).astype(np.float32)

    return {
        tensor.name: Moments(some(tensor.shape[0]), some(tensor.shape[0]))
        for tensor in weights.header.tensors
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2
    }


def test_equalizing_changes_no_logit(weights):
    shape = shape_of(weights)
    before = logits(weights, shape)
    rescaled = equalized(weights, shape, random_moments(weights, shape))
    assert (
        np.abs(rescaled.matrix("blk.0.ffn_down.weight")).max()
        > 2 * np.abs(weights.matrix("blk.0.ffn_down.weight")).max()
    )
    after = logits(rescaled, shape)
    assert np.abs(after - before).max() < 2e-4 * before.std()


def test_a_loud_channel_becomes_quieter(weights):
    shape = shape_of(weights)
    moments = random_moments(weights, shape)
    name = "blk.1.ffn_down.weight"
    loud = np.ones(64, np.float32)
    loud[5] = 1e6
    moments[name] = Moments(loud, np.ones(64, np.float32))
    factors = equalized(weights, shape, moments).rows["blk.1.ffn_up.weight"]
    assert factors[5] == pytest.approx(factors[0] * 1e6**-0.25, rel=1e-2)
    assert np.log(factors).mean() == pytest.approx(0, abs=1e-5)


def test_families_and_settings_that_are_not_known_are_refused(tmp_path):
    from edgeslm.gguf.types import Field, ValueType
    from edgeslm.gguf.writer import TensorSpec, write_gguf

    source = read_header(tiny_gguf(tmp_path / "model.gguf"))
    data = source.path.read_bytes()

    def changed(field, names=()):
        path = tmp_path / "changed.gguf"
        renamed = dict(names)
        fields = [item for item in source.fields() if item.key != field.key]
        specs = [
            TensorSpec(renamed.get(item.name, item.name), item.type, item.shape)
            for item in source.tensors
        ]
        ends = [(item.offset, item.offset + item.bytes) for item in source.tensors]
        write_gguf(path, [*fields, field], specs, lambda i: data[slice(*ends[i])])
        return Weights(read_header(path))

    for field in (
        Field("general.architecture", ValueType.STRING, "mamba"),
        Field("llama.rope.scaling.type", ValueType.STRING, "yarn"),
        Field("llama.expert_count", ValueType.UINT32, 8),
        Field("llama.rope.dimension_count", ValueType.UINT32, 8),
        Field("llama.attention.head_count", ValueType.ARRAY, (2, 2), ValueType.INT32),
    ):
        with pytest.raises(Unsupported, match="no gradients"):
            shape_of(changed(field))
    same = Field("general.name", ValueType.STRING, "same")
    for name in ("attn_qkv.weight", "ffn_up.bias"):  # fused, and one that is not added here
        with pytest.raises(Unsupported, match="no gradients"):
            shape_of(changed(same, [("blk.0.attn_q.weight", f"blk.0.{name}")]))


def test_a_scaling_of_nothing_is_none(tmp_path, weights):
    assert shape_of(weights).scale == 1
    fields = {"rope.scaling.type": "linear", "rope.scaling.factor": 0.0}
    header = weights.header
    known = {f"{header.architecture}.{key}": value for key, value in fields.items()}
    scaled = dataclasses.replace(header, metadata={**header.metadata, **known})
    assert shape_of(Weights(scaled)).scale == 1


def test_gates_that_are_shut_are_no_trouble():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, slope = _silu(np.array([-1000.0, -90.0, 0.0, 90.0], np.float32))
    np.testing.assert_allclose(value, [0, 0, 0, 90], atol=1e-30)
    np.testing.assert_allclose(slope, [0, 0, 0.5, 1], atol=1e-30)
