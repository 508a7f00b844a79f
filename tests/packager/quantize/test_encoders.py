"""Every format against ggml: what we write is what it reads, and loses no more than its own."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.gguf.types import tensor_type
from edgeslm.llama.rows import NEED_IMPORTANCE, decode_rows, encode_rows
from edgeslm.packager.quantize import encoders
from edgeslm.packager.quantize.encoders import Forms, encode_as
from edgeslm.packager.quantize.encoders import forms as forms_module
from edgeslm.packager.quantize.encoders.feedback import encode
from edgeslm.packager.quantize.encoders.formats import FORMATS
from edgeslm.packager.quantize.encoders.forms import factor
from edgeslm.packager.quantize.encoders.packing import Coded
from edgeslm.packager.quantize.scores import CHOICES

NAMES = tuple(FORMATS)


def correlated(seed, n, samples=None):
    """A form of inputs that go together."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((n, n)) * np.exp(-np.arange(n) / (n / 6))[:, None]
    x = rng.standard_normal((samples or 3 * n, n)) @ mixing + rng.standard_normal(
        (samples or 3 * n, n)
    )
    return (x.T @ x / len(x)).astype(np.float32)


def weights(seed, rows, n, spread=0.05):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, n)) * spread).astype(np.float32)


def loss(values, decoded, form):
    error = (values - decoded).astype(np.float64)
    return np.einsum("ij,jk,ik->i", error, form.matrix.astype(np.float64), error)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_reported_is_that_of_what_ggml_decodes(name):
    fmt, form = FORMATS[name], factor(correlated(1, 256), 0.01)
    values = weights(2, 6, 256)
    encoded = encode(values, fmt, form)
    decoded = decode_rows(fmt.type, encoded.data, 256)
    np.testing.assert_allclose(encoded.losses, loss(values, decoded, form), rtol=2e-3)


def reference_decoder(fmt, coded):
    """Values by the definition in `formats`, with one rounding as a fused operation has."""
    levels = np.array(fmt.levels, np.float64)[coded.codes]
    scales, minima = coded.scales, coded.minima
    if fmt.supers is not None:
        per = coded.scales.shape[1] // coded.big.shape[1]
        scales = np.repeat(coded.big, per, 1) * coded.scales
        minima = -np.repeat(coded.big_minima, per, 1) * coded.minima
    scales, minima = (np.repeat(part, fmt.group, 1).astype(np.float64) for part in (scales, minima))
    return (scales * levels + minima).astype(np.float32)


@st.composite
def coded_rows(draw, fmt):
    """Any codes with any scales that the format can store."""
    seed = draw(st.integers(0, 2**32 - 1))
    exponent = draw(st.integers(-10, 4))
    rng = np.random.default_rng(seed)
    rows, n = 3, 512
    groups, blocks = n // fmt.group, n // fmt.type.block_elements
    codes = rng.integers(0, len(fmt.levels), (rows, n)).astype(np.uint8)
    none = np.zeros((rows, 0), np.float32)
    if fmt.supers is not None:
        small = rng.integers(fmt.supers.lowest, fmt.supers.highest + 1, (rows, groups))
        minima = rng.integers(0, fmt.supers.highest_minimum + 1, (rows, groups))
        big = (rng.random((rows, blocks)) * 2.0**exponent).astype(np.float16).astype(np.float32)
        lift = big[:, ::-1].copy() if fmt.affine else np.zeros_like(big)
        return Coded(codes, small.astype(np.float32), minima.astype(np.float32), big, lift)
    table = fmt.scale_table()
    if table.size:
        middle = len(table) // 2
        picked = rng.integers(middle - 20, middle + 20, (rows, groups))
        scales = table[picked]
    else:
        scales = (rng.standard_normal((rows, groups)) * 2.0**exponent).astype(np.float16)
    minima = rng.standard_normal((rows, groups)).astype(np.float16) if fmt.affine else 0 * scales
    return Coded(codes, scales.astype(np.float32), minima.astype(np.float32), none, none)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_ggml_decodes_exactly_what_was_packed(name, data):
    fmt = FORMATS[name]
    coded = data.draw(coded_rows(fmt))
    packed = fmt.pack(coded)
    assert packed.shape[1] == fmt.type.bytes_for((512,))
    decoded = decode_rows(fmt.type, packed, 512)
    # Whether ggml fuses the addition into the product depends on the processor it was built for.
    np.testing.assert_allclose(decoded, reference_decoder(fmt, coded), rtol=3e-7, atol=1e-9)
    if not fmt.affine:
        np.testing.assert_array_equal(decoded, reference_decoder(fmt, coded))


@pytest.mark.parametrize("name", [name for name in NAMES if FORMATS[name].supers])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_integer_scales_are_read_back(name, data):
    fmt = FORMATS[name]
    coded = data.draw(coded_rows(fmt))
    again = fmt.supers.unpack(fmt.pack(coded))
    np.testing.assert_array_equal(again.scales, coded.scales)
    np.testing.assert_array_equal(again.minima, coded.minima if fmt.affine else 0 * coded.minima)
    np.testing.assert_array_equal(again.big, coded.big)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "NVFP4"])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), spread=st.sampled_from([1e-3, 0.05, 3.0]))
def test_never_worse_than_ggml_under_the_form(name, seed, spread):
    fmt, form = FORMATS[name], factor(correlated(seed, 256), 0.02)
    values = weights(seed + 1, 4, 256, spread)
    importance = None if name == "Q1_0" else np.ascontiguousarray(np.diag(form.matrix))
    theirs = decode_rows(fmt.type, encode_rows(fmt.type, values, importance), 256)
    assert encode(values, fmt, form).losses.sum() <= loss(values, theirs, form).sum()


def test_rows_that_answer_each_other_lose_less_together():
    fmt = FORMATS["Q4_0"]
    inputs, outputs = factor(correlated(3, 128), 0.02), factor(correlated(4, 96), 0.02)
    values = weights(5, 96, 128)

    def together(data):
        error = (values - decode_rows(fmt.type, data, 128)).astype(np.float64)
        return np.trace(error @ inputs.matrix @ error.T @ outputs.matrix)

    alone = encode(values, fmt, inputs)
    coupled = encode(values, fmt, inputs, outputs)
    assert together(coupled.data) < 0.8 * together(alone.data)
    by_rows = float((coupled.losses * outputs.curvature).sum())
    assert by_rows == pytest.approx(together(coupled.data), rel=5e-3)


@pytest.mark.parametrize("name", NAMES)
def test_odd_rows_are_encoded_like_any_other(name):
    """Zeros, one large weight, equal weights, tiny and huge ones."""
    fmt, form = FORMATS[name], factor(correlated(6, 256), 0.02)
    values = weights(7, 6, 256)
    values[0] = 0
    values[1, :] = 0
    values[1, 77] = 3.0
    values[2] = 0.25
    values[3] *= 1e-6
    values[4] *= 1e3
    decoded = decode_rows(fmt.type, encode(values, fmt, form).data, 256)
    assert np.isfinite(decoded).all()
    assert np.abs(decoded[0]).max() <= 1e-3
    assert np.square(decoded[4] - values[4]).sum() < 1.01 * np.square(values[4]).sum()


def test_encoding_is_repeatable():
    fmt, form = FORMATS["Q5_K"], factor(correlated(8, 256), 0.02)
    values = weights(9, 70, 256)
    first, second = (encode(values, fmt, form).data for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("singular", [np.zeros((64, 64)), np.ones((64, 64))])
def test_forms_that_say_nothing_do_not_stop_anything(singular):
    form = factor(singular.astype(np.float32), 0.0)
    values = weights(10, 4, 64)
    encoded = encode(values, FORMATS["Q5_0"], form)
    decoded = decode_rows(FORMATS["Q5_0"].type, encoded.data, 64)
    assert np.square(decoded - values).sum() < 0.05 * np.square(values).sum()


def test_a_form_is_what_its_factors_give():
    form = factor(correlated(11, 96), 0.05)
    again = form.upper @ np.diag(form.curvature) @ form.upper.T
    np.testing.assert_allclose(again, form.matrix, rtol=1e-4, atol=1e-4 * form.matrix.max())
    assert np.allclose(np.tril(form.upper, -1), 0)


def test_types_without_feedback_are_ggmls_own():
    form = factor(correlated(12, 256), 0.02)
    values = weights(13, 4, 256)
    forms = Forms(form)
    importance = np.ascontiguousarray(np.diag(form.matrix))
    for name in ("IQ3_S", *NEED_IMPORTANCE):
        kind = tensor_type(name)
        encoded = encode_as(kind, values, forms)
        np.testing.assert_array_equal(encoded.data, encode_rows(kind, values, importance))
        decoded = decode_rows(kind, encoded.data, 256)
        np.testing.assert_allclose(encoded.losses, loss(values, decoded, form), rtol=1e-3)


@pytest.mark.parametrize("there", [True, False])
def test_every_type_on_offer_can_be_encoded(there, monkeypatch):
    """Also where numba is missing, and where nothing is known of the inputs."""
    monkeypatch.setattr(encoders, "compiled", lambda: there)
    values = weights(13, 4, 256)
    for forms in (Forms(factor(correlated(12, 256), 0.02)), Forms(None)):
        for kind in (*CHOICES, tensor_type("NVFP4")):
            encoded = encode_as(kind, values, forms)
            decoded = decode_rows(kind, encoded.data, 256)
            off = np.square(decoded - values).sum() / np.square(values).sum()
            assert off < 0.95, kind.name
            if forms.inputs is not None:
                expected = loss(values, decoded, forms.inputs)
                np.testing.assert_allclose(encoded.losses, expected, rtol=3e-3)


def test_numba_that_does_not_work_is_as_good_as_none(monkeypatch):
    """Too old for this numpy it raises ImportError, without a folder to cache in RuntimeError."""
    name = "edgeslm.packager.quantize.encoders.kernels"
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr(encoders, "kernels", raising=False)
    encoders.compiled.cache_clear()
    assert not encoders.compiled()
    assert encoders.way() == "plain"
    monkeypatch.undo()
    encoders.compiled.cache_clear()
    assert encoders.compiled()


PLAIN = tuple(name for name in NAMES if name not in ("MXFP4", "NVFP4", "Q2_0", "Q1_0"))


@pytest.mark.parametrize("name", PLAIN)
def test_without_numba_feedback_still_helps(name):
    fmt = FORMATS[name]
    inputs, outputs = factor(correlated(14, 256), 0.02), factor(correlated(15, 80), 0.02)
    values = weights(16, 80, 256)
    encoded = encode(values, fmt, inputs, fast=False)
    decoded = decode_rows(fmt.type, encoded.data, 256)
    np.testing.assert_allclose(encoded.losses, loss(values, decoded, inputs), rtol=2e-3)
    importance = np.ascontiguousarray(np.diag(inputs.matrix))
    theirs = decode_rows(fmt.type, encode_rows(fmt.type, values, importance), 256)
    assert encoded.losses.sum() < 0.7 * loss(values, theirs, inputs).sum()
    assert encode(values, fmt, inputs).losses.sum() < encoded.losses.sum()

    def together(data):
        error = (values - decode_rows(fmt.type, data, 256)).astype(np.float64)
        return np.trace(error @ inputs.matrix @ error.T @ outputs.matrix)

    coupled = encode(values, fmt, inputs, outputs, fast=False)
    assert together(coupled.data) < together(encoded.data)


ENCODE_ALL = """
import hashlib
import numpy as np
from edgeslm.gguf.types import tensor_type
from edgeslm.packager.quantize.encoders import Forms, compiled, encode_as
from edgeslm.packager.quantize.encoders.formats import FORMATS
from edgeslm.packager.quantize.encoders.forms import factor

assert compiled()
rng = np.random.default_rng(0)
hashed = hashlib.sha256()
for width in (576, 1536):
    rows, x, y = (rng.standard_normal((n, width), np.float32) for n in (48, 2000, 200))
    inputs, outputs = factor(x.T @ x / 2000, 0.01), factor(y[:, :48].T @ y[:, :48] / 200, 0.01)
    for forms in (Forms(inputs, None, 0.5, {}), Forms(inputs, None, 0.5, {}, lambda: outputs)):
        for kind in map(tensor_type, FORMATS):
            for sweeps in (0, 1, 3) if kind.fits((width,)) else ():
                data = encode_as(kind, rows, forms, sweeps=sweeps).data
                hashed.update(data.tobytes())
print(hashed.hexdigest())
"""


@pytest.mark.slow
def test_what_was_compiled_before_gives_the_same_bytes(tmp_path):
    """A process that compiles, and one that finds all compiled: in the order of the formats."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    hashes = [
        subprocess.run(
            [sys.executable, "-c", ENCODE_ALL],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        for _ in range(2)
    ]
    assert any(tmp_path.rglob("*.nbc"))
    assert hashes[0] == hashes[1]


def test_no_kernel_is_compiled_with_fast_arithmetic():
    """The cheap half of the test above."""
    kernels = pytest.importorskip("edgeslm.packager.quantize.encoders.kernels")
    functions = [each for each in vars(kernels).values() if hasattr(each, "targetoptions")]
    assert len(functions) > 15
    assert not any(function.targetoptions.get("fastmath") for function in functions)


@pytest.mark.parametrize("n", [257, 600])
def test_a_wide_form_is_factored_in_place_alike(monkeypatch, n):
    form = correlated(3, n)
    usual = factor(form, 0.01)
    monkeypatch.setattr(forms_module, "PRECISE_WIDTH", 0)
    wide = factor(form, 0.01)
    np.testing.assert_array_equal(wide.matrix, usual.matrix)
    np.testing.assert_allclose(wide.upper, usual.upper, atol=2e-4)
    np.testing.assert_allclose(wide.curvature, usual.curvature, rtol=2e-3)
    again = (wide.upper * wide.curvature) @ wide.upper.T
    np.testing.assert_allclose(again, wide.matrix, atol=1e-5 * np.abs(form).max())
    singular = np.ones((n, n), np.float32)
    np.testing.assert_array_less(0, factor(singular, 0.0).curvature)
    assert factor(form - 1e6 * np.eye(n, dtype=np.float32), 0.0).upper.trace() == n
