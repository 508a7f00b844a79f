"""The table of tensor types, against ggml itself."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp
import pytest

from edgeslm.errors import InvalidOption
from edgeslm.gguf.types import (
    FILE_TYPES,
    REMOVED_TENSOR_TYPES,
    TENSOR_TYPES,
    padded,
    tensor_type,
)

_TYPE_COUNT = 43


@pytest.fixture(scope="module")
def ggml():
    folder = Path(llama_cpp.__file__).parent / "lib"
    library = next(path for path in folder.glob("*ggml-base*") if path.suffix in (".so", ".dylib"))
    loaded = ctypes.CDLL(str(library))
    loaded.ggml_blck_size.restype = ctypes.c_int64
    loaded.ggml_type_size.restype = ctypes.c_size_t
    loaded.ggml_type_name.restype = ctypes.c_char_p
    return loaded


@pytest.mark.parametrize("number", range(_TYPE_COUNT))
def test_each_type_is_as_ggml_has_it(ggml, number):
    block = ggml.ggml_blck_size(number)
    kind = TENSOR_TYPES.get(number)
    if block == 0:
        assert kind is None
        assert number in REMOVED_TENSOR_TYPES
    else:
        assert kind is not None
        assert (kind.id, kind.block_elements, kind.block_bytes) == (
            number,
            block,
            ggml.ggml_type_size(number),
        )
        assert kind.name.lower() == ggml.ggml_type_name(number).decode().lower()


def test_no_type_beyond_ggmls():
    assert max(TENSOR_TYPES) == _TYPE_COUNT - 1


def test_bytes_and_bits():
    q4_k = tensor_type("q4_K")
    assert q4_k.name == "Q4_K"
    assert q4_k.bits_per_weight == 4.5
    assert q4_k.bytes_for((512, 3)) == 2 * 3 * 144


def test_rows_have_to_be_whole_blocks():
    assert not tensor_type("Q8_0").fits((33, 2))
    with pytest.raises(ValueError, match="33 elements are no multiple of Q8_0's block of 32"):
        tensor_type("Q8_0").bytes_for((33, 2))


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(InvalidOption, match="'Q4_X'") as caught:
        tensor_type("Q4_X")
    assert "IQ4_XS" in (caught.value.hint or "")


def test_file_types_follow_llama_cpp():
    for number, name in FILE_TYPES.items():
        constants = [
            key
            for key in dir(llama_cpp)
            if key.startswith("LLAMA_FTYPE_") and getattr(llama_cpp, key) == number
        ]
        if constants:
            assert any(key.endswith("_" + name) for key in constants), (number, name, constants)


@pytest.mark.parametrize(("position", "expected"), [(0, 0), (1, 32), (32, 32), (33, 64)])
def test_padded(position, expected):
    assert padded(position, 32) == expected
