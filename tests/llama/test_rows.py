import gguf
import numpy as np
import pytest
from gguf import quants

from edgeslm.gguf.types import TENSOR_TYPES, tensor_type
from edgeslm.llama.rows import NEED_IMPORTANCE, decode_rows, encode_rows

WIDTH = 512
NOT_WEIGHTS = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"}
KNOWN_TO_GGUF = [
    kind for kind in TENSOR_TYPES.values() if kind.name not in NOT_WEIGHTS | {"Q1_0", "Q2_0"}
]


def rows(count=6, width=WIDTH):
    return np.random.default_rng(3).standard_normal((count, width)).astype(np.float32)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
@pytest.mark.parametrize("kind", KNOWN_TO_GGUF, ids=lambda kind: kind.name)
def test_decodes_any_bytes_as_gguf_py_does(kind):
    shape = (6, kind.bytes_for((WIDTH,)))
    data = np.random.default_rng(5).integers(0, 256, shape, np.uint8)
    decoded = decode_rows(kind, data, WIDTH)
    assert decoded.dtype == np.float32
    expected = quants.dequantize(data, gguf.GGMLQuantizationType(kind.id))
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize(
    "kind",
    [
        tensor_type(each)
        for each in (
            *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
            *("TQ1_0", "TQ2_0", "MXFP4"),
        )
    ],
    ids=lambda kind: kind.name,
)
def test_encodes_as_gguf_py_does(kind):
    encoded = encode_rows(kind, rows())
    expected = quants.quantize(rows(), gguf.GGMLQuantizationType(kind.id))
    np.testing.assert_array_equal(encoded, expected.view(np.uint8).reshape(encoded.shape))


@pytest.mark.parametrize(
    ("kind", "worst"), [("Q8_0", 1e-4), ("Q6_K", 1e-3), ("Q4_K", 0.01), ("IQ4_NL", 0.01)]
)
def test_what_is_encoded_comes_back_nearly(kind, worst):
    values = rows()
    decoded = decode_rows(tensor_type(kind), encode_rows(tensor_type(kind), values), WIDTH)
    assert np.square(decoded - values).sum() / np.square(values).sum() < worst


def test_importance_moves_precision_to_the_columns_that_matter():
    values = rows(64)
    weight = np.ones(WIDTH, np.float32)
    weight[::32] = 1000
    kind = tensor_type("Q4_0")
    plain = decode_rows(kind, encode_rows(kind, values), WIDTH)
    weighted = decode_rows(kind, encode_rows(kind, values, weight), WIDTH)
    error = np.square(plain - values)[:, ::32].sum(), np.square(weighted - values)[:, ::32].sum()
    assert error[1] < 0.7 * error[0]


@pytest.mark.parametrize("kind", sorted(NOT_WEIGHTS))
def test_types_ggml_would_abort_on_are_refused(kind):
    with pytest.raises(ValueError, match="not a type for weights"):
        encode_rows(tensor_type(kind), rows())


@pytest.mark.parametrize("kind", sorted(NEED_IMPORTANCE))
def test_types_that_need_importances_are_refused_without(kind):
    with pytest.raises(ValueError, match="importances"):
        encode_rows(tensor_type(kind), rows())


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="multiple"):
        encode_rows(tensor_type("Q4_K"), rows(width=96))
    with pytest.raises(ValueError, match="importances"):
        encode_rows(tensor_type("Q4_0"), rows(), np.ones(3, np.float32))
    with pytest.raises(ValueError, match="no row"):
        decode_rows(tensor_type("Q4_0"), np.zeros((1, 17), np.uint8), 32)
    with pytest.raises(ValueError, match="decoder"):
        decode_rows(tensor_type("I32"), np.zeros((1, 128), np.uint8), 32)


def test_rows_that_are_not_contiguous_are_read_right():
    values = rows(12)[::2]
    kind = tensor_type("Q5_1")
    np.testing.assert_array_equal(encode_rows(kind, values), encode_rows(kind, values.copy()))
    encoded = encode_rows(kind, rows(12))[::2]
    np.testing.assert_array_equal(
        decode_rows(kind, encoded, WIDTH), decode_rows(kind, encoded.copy(), WIDTH)
    )
