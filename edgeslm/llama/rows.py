"""Encode and decode rows of any tensor type, with ggml's own code.

`ggml_quantize_chunk` is what llama.cpp's quantizer calls for each tensor, so bytes from
here equal bytes in a quantized file. Both calls release the interpreter lock: threads help.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import NativeFailure
from edgeslm.gguf.types import TensorType
from edgeslm.llama import native

NEED_IMPORTANCE = frozenset({"IQ1_S", "IQ2_XXS", "IQ2_XS"})
"""Types that ggml aborts on when it encodes them without an importance per column."""

_NOT_ENCODABLE = frozenset({"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"})
"""Types of intermediate results and of plain numbers; ggml aborts on them."""

_ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits` of ggml.h, up to the last field used here."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_elements", ctypes.c_int64),
        ("block_interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _ToFloat),
    )


def encode_rows(
    kind: TensorType, rows: NDArray[np.float32], importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Rows in the blocks of `kind`.

    Args:
        kind: The type to encode to.
        rows: [rows, n] finite values; n a multiple of the type's block.
        importance: [n] weight of each column's squared error, or None for ggml's default.

    Returns:
        [rows, bytes of a row].

    Raises:
        ValueError: a width that does not fit, or a type that cannot be encoded (like this).
    """
    count, width = rows.shape
    if kind.name in _NOT_ENCODABLE:
        raise ValueError(f"{kind.name} is not a type for weights")
    if kind.name in NEED_IMPORTANCE and importance is None:
        raise ValueError(f"{kind.name} cannot be encoded without importances")
    if importance is not None and importance.shape != (width,):
        raise ValueError(f"{importance.shape} importances for rows of {width}")
    encoded = np.zeros((count, kind.bytes_for((width,))), np.uint8)
    values = np.ascontiguousarray(rows, np.float32)
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    _quantize_chunk()(
        kind.id,
        values.ctypes.data,
        encoded.ctypes.data,
        0,
        count,
        width,
        None if weights is None else weights.ctypes.data,
    )
    return encoded


def decode_rows(kind: TensorType, data: NDArray[np.uint8], width: int) -> NDArray[np.float32]:
    """The values in rows of blocks.

    Args:
        kind: The type the rows are in.
        data: [rows, bytes of a row].
        width: Elements in a row.

    Returns:
        [rows, width].

    Raises:
        ValueError: the bytes are not rows of that width, or the type has no float values.
    """
    count, row_bytes = data.shape
    if row_bytes != kind.bytes_for((width,)):
        raise ValueError(f"{row_bytes} bytes are no row of {width} elements in {kind.name}")
    blocks = np.ascontiguousarray(data, np.uint8)
    if kind.name == "F32":
        return blocks.view(np.float32)
    to_float = _to_float(kind)
    values = np.empty((count, width), np.float32)
    to_float(blocks.ctypes.data, values.ctypes.data, values.size)
    return values


@cache
def _quantize_chunk() -> Callable[..., int]:
    function = native.ggml().ggml_quantize_chunk
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = (ctypes.c_int, pointer, pointer, number, number, number, pointer)
    function.restype = ctypes.c_size_t
    return cast("Callable[..., int]", function)


@cache
def _to_float(kind: TensorType) -> Callable[[int, int, int], None]:
    """The decoder ggml has for a type, once its table was seen to be laid out as expected."""
    function = native.ggml().ggml_get_type_traits
    function.argtypes = (ctypes.c_int,)
    function.restype = ctypes.POINTER(_TypeTraits)
    traits = function(kind.id).contents
    if (traits.block_elements, traits.block_bytes) != (kind.block_elements, kind.block_bytes):
        raise NativeFailure(
            f"the loaded ggml describes {kind.name} differently than this version expects",
            hint="Install the llama-cpp-python version that edgeslm asks for.",
        )
    if not traits.to_float:
        raise ValueError(f"{kind.name} has no decoder")
    return cast("Callable[[int, int, int], None]", traits.to_float)
