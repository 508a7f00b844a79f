import numpy as np
import pytest

from edgeslm.errors import InvalidGGUF, InvalidOption, Unsupported
from edgeslm.gguf.inspection import inspect
from edgeslm.gguf.reader import read_header
from edgeslm.gguf.validation import read_model
from edgeslm.llama.rows import decode_rows, encode_rows
from edgeslm.packager.quantize import Effort, Wishes, quantize
from edgeslm.testing import tiny_gguf
from edgeslm.units import parse_bytes

QUICK = Effort(quick=True)


def mix(source, output, *, threads=1, **wishes):
    """A mix without calibration, which has tests of its own."""
    return quantize(
        source, output, wishes=Wishes(**wishes), effort=Effort(quick=True, threads=threads)
    )


SIX_TYPES = ("Q8_0", "Q6_K", "Q4_K_M", "Q4_0", "IQ4_XS", "Q2_K")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Widths that are multiples of 256 and others that are not."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    return tiny_gguf(path, width=96, feed_forward=256, heads=3, layers=8, weight_type="F16")


def raw(path, tensor):
    rows = tensor.elements // tensor.shape[0]
    return np.fromfile(path, np.uint8, tensor.bytes, offset=tensor.offset).reshape(rows, -1)


@pytest.mark.parametrize("file_type", SIX_TYPES)
def test_every_tensor_is_what_ggml_encodes_row_by_row(model, tmp_path, file_type):
    result = quantize(model, tmp_path / "out.gguf", file_type=file_type)
    source = {tensor.name: tensor for tensor in read_header(model).tensors}
    written = read_header(result.path).tensors
    assert {tensor.name for tensor in written} == set(source)
    for tensor in written:
        origin = source[tensor.name]
        expected = raw(model, origin)
        if tensor.type != origin.type:
            values = decode_rows(origin.type, expected, origin.shape[0])
            expected = encode_rows(tensor.type, values)
        np.testing.assert_array_equal(raw(result.path, tensor), expected, tensor.name)
    assert sum(result.types.values()) == len(written)


@pytest.mark.parametrize("bits", [4.6, 5.0, 5.5, 6.2, 8.0])
def test_bits_are_met_and_never_exceeded(model, tmp_path, bits):
    result = mix(model, tmp_path / "out.gguf", bits=bits)
    assert result.bits_per_weight == inspect(read_model(result.path)).bits_per_weight
    assert 0.99 * bits <= result.bits_per_weight <= bits


@pytest.mark.parametrize("size", [560_000, 650_001, 800_000])
def test_a_size_is_that_of_the_whole_file(model, tmp_path, size):
    result = mix(model, tmp_path / "out.gguf", size_bytes=size)
    assert result.file_bytes == (tmp_path / "out.gguf").stat().st_size
    assert 0.99 * size <= result.file_bytes <= size


def error(source, output):
    """Mean relative squared error over the matrices."""
    old = {tensor.name: tensor for tensor in read_header(source).tensors}
    errors = []
    for tensor in read_header(output).tensors:
        before = decode_rows(old[tensor.name].type, raw(source, old[tensor.name]), tensor.shape[0])
        after = decode_rows(tensor.type, raw(output, tensor), tensor.shape[0])
        errors.append(np.square(after - before).sum() / np.square(before).sum())
    return np.mean(errors)


def test_more_bits_lose_less(model, tmp_path):
    errors = []
    for bits in (4.6, 5.2, 6.0, 8.5):
        mix(model, tmp_path / "out.gguf", bits=bits)
        errors.append(error(model, tmp_path / "out.gguf"))
    assert errors == sorted(errors, reverse=True)


def test_the_same_request_gives_the_same_bytes(model, tmp_path):
    mix(model, tmp_path / "one.gguf", bits=5.1)
    mix(model, tmp_path / "two.gguf", bits=5.1, threads=2)
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


def test_the_label_is_the_dominant_type(model, tmp_path):
    result = mix(model, tmp_path / "out.gguf", bits=5.1)
    inspection = inspect(read_model(result.path))
    assert inspection.true_type is not None
    assert inspection.true_type in (inspection.file_type or "")


def test_too_small_a_budget_names_the_smallest(model, tmp_path):
    with pytest.raises(InvalidOption, match="no less than") as caught:
        mix(model, tmp_path / "out.gguf", bits=3)
    smallest = float((caught.value.hint or "").split("--bits ")[1].split()[0])
    assert mix(model, tmp_path / "out.gguf", bits=smallest)
    with pytest.raises(InvalidOption, match="no less than") as caught:
        mix(model, tmp_path / "out.gguf", size_bytes=1000)
    size = parse_bytes((caught.value.hint or "").split("--size ")[1].split()[0])
    file_bytes = mix(model, tmp_path / "out.gguf", size_bytes=size).file_bytes
    assert 0.999 * size < file_bytes <= size
    with pytest.raises(InvalidOption):
        mix(model, tmp_path / "out.gguf", size_bytes=size - 1000)


def test_an_ample_budget_keeps_the_source_and_says_so(model, tmp_path):
    result = mix(model, tmp_path / "out.gguf", bits=20)
    assert result.types == inspect_types(model)
    assert "smaller than 20 bits" in " ".join(result.warnings)


def inspect_types(path):
    return {share.type: share.tensors for share in inspect(read_model(path)).types}


def test_float32_weights_become_float16_at_most(tmp_path):
    source = tiny_gguf(tmp_path / "model.gguf")
    result = mix(source, tmp_path / "out.gguf", bits=32)
    assert set(result.types) == {"F16", "F32"}
    assert mix(source, tmp_path / "out.gguf", bits=12).bits_per_weight <= 12


def test_a_quantized_source_is_accepted_and_said(model, tmp_path):
    quantize(model, tmp_path / "small.gguf", file_type="Q5_1")
    result = quantize(tmp_path / "small.gguf", tmp_path / "out.gguf", file_type="Q4_0")
    assert result.requantized_from == "Q5_1"
    assert any("quantized already (Q5_1)" in warning for warning in result.warnings)
    assert quantize(model, tmp_path / "out.gguf", file_type="Q4_0").requantized_from is None


def test_fallbacks_are_said(model, tmp_path):
    result = quantize(model, tmp_path / "out.gguf", file_type="q4_k")
    assert result.requested == "Q4_K_M"
    assert any("larger types" in warning for warning in result.warnings)


@pytest.mark.parametrize("given", [{}, {"wishes": Wishes(bits=5.0), "file_type": "Q8_0"}])
def test_exactly_one_size_is_asked_for(model, tmp_path, given):
    with pytest.raises(InvalidOption, match="exactly one"):
        quantize(model, tmp_path / "out.gguf", **given)


@pytest.mark.parametrize("bits", [0.5, float("nan"), -1])
def test_numbers_out_of_range(model, tmp_path, bits):
    with pytest.raises(InvalidOption):
        mix(model, tmp_path / "out.gguf", bits=bits)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    source = tiny_gguf(tmp_path / "model.gguf")
    tensor = next(t for t in read_header(source).tensors if t.name == "blk.0.attn_q.weight")
    with source.open("r+b") as stream:
        stream.seek(tensor.offset)
        stream.write(np.float32("nan").tobytes())
    with pytest.raises(InvalidGGUF, match=r"blk\.0\.attn_q\.weight"):
        mix(source, tmp_path / "out.gguf", bits=5)
    assert not (tmp_path / "out.gguf").exists()


def test_a_type_that_needs_importances(model, tmp_path):
    with pytest.raises(Unsupported, match="importance matrix"):
        quantize(model, tmp_path / "out.gguf", file_type="IQ1_S")
