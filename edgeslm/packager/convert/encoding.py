"""Tensors from one float type to another, a few rows at a time, without silent losses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import InvalidCheckpoint, Unsupported

_CHUNK_ELEMENTS = 1 << 22
_TARGETS: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


def to_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """float32 from float32, float16, or bfloat16 held as raw codes (uint16)."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def encode(name: str, values: NDArray[Any], target: str) -> NDArray[Any]:
    """`values` in the type `target`, rounded to nearest, ties to even; bfloat16 as raw codes.

    Raises:
        InvalidCheckpoint: a value is infinite or not a number.
        Unsupported: a finite value is too large for the type.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    result = np.empty(flat.shape, _TARGETS[target])
    for start in range(0, flat.size, _CHUNK_ELEMENTS):
        part = slice(start, start + _CHUNK_ELEMENTS)
        numbers = to_float32(flat[part])
        if not np.isfinite(numbers).all():
            raise InvalidCheckpoint(
                f"{name} holds values that are infinite or not numbers",
                hint="The checkpoint is damaged, or its training diverged.",
            )
        result[part] = _rounded(name, numbers, target)
    return result.reshape(values.shape)


def _rounded(name: str, numbers: NDArray[np.float32], target: str) -> NDArray[Any]:
    if target == "F32":
        return numbers
    if target == "BF16":
        codes = numbers.view(np.uint32)
        rounded: NDArray[Any] = ((codes + 0x7FFF + ((codes >> 16) & 1)) >> 16).astype(np.uint16)
        if ((rounded & 0x7F80) == 0x7F80).any():
            raise Unsupported(
                f"{name} has values up to {float(np.abs(numbers).max()):.5g}, BF16 ends at "
                "3.3895e+38",
                hint="Convert to F32.",
            )
        return rounded
    with np.errstate(over="ignore"):
        halves = numbers.astype(np.float16)
    if not np.isfinite(halves).all():
        largest = float(np.abs(numbers).max())
        raise Unsupported(
            f"{name} has values up to {largest:.4g}, F16 ends at 65504",
            hint="Convert to BF16 or F32.",
        )
    return halves
