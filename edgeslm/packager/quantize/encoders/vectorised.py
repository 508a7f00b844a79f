"""Error feedback in numpy, for where numba is not installed: all rows at once, column by column.

Slower and a little worse than the compiled way: scales are ggml's and stay, nothing is
reconsidered afterwards, and rows answer each other only from one block of rows to the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeslm.packager.quantize.encoders.formats import BlockFormat, Scale

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeslm.packager.quantize.encoders.forms import Form

    Matrix = NDArray[Any]

_COLUMNS = 32
"""Columns answered one by one before what they did to the rest is added up in one product."""


def feed(
    wanted: Matrix, fmt: BlockFormat, inputs: Form, scales: Matrix, minima: Matrix
) -> tuple[NDArray[np.uint8], Matrix]:
    """Round a block of rows.

    Args:
        wanted: [rows, n] what the rows should be.
        fmt: The format.
        inputs: Form of the columns.
        scales: [rows, groups] as stored.
        minima: [rows, groups] as added to a weight.

    Returns:
        [rows, n] codes, and the values they stand for.
    """
    rows, n = wanted.shape
    levels = np.array(fmt.levels, np.float32)
    middles = (levels[1:] + levels[:-1]) / 2
    target = wanted.copy()
    codes = np.zeros((rows, n), np.uint8)
    values = np.zeros((rows, n), np.float32)
    for first in range(0, n, _COLUMNS):
        last = min(first + _COLUMNS, n)
        for j in range(first, last):
            scale, minimum = scales[:, j // fmt.group], minima[:, j // fmt.group]
            inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
            codes[:, j] = np.searchsorted(middles, (target[:, j] - minimum) * inverse)
            exact = scale.astype(np.float64) * levels[codes[:, j]] + minimum
            values[:, j] = exact
            error = wanted[:, j] - values[:, j]
            target[:, j + 1 : last] += error[:, None] * inputs.upper[j, j + 1 : last]
        errors = wanted[:, first:last] - values[:, first:last]
        target[:, last:] += errors @ inputs.upper[first:last, last:]
    return codes, values


def can_feed(fmt: BlockFormat) -> bool:
    """Whether ggml's scales can be taken over from rows it encoded in this format."""
    return fmt.supers is not None or fmt.scale is Scale.F16


def group_scales(fmt: BlockFormat, encoded: NDArray[np.uint8]) -> tuple[Matrix, Matrix]:
    """[rows, groups] scales and minima in rows that ggml encoded, of a format with own scales.

    Raises:
        ValueError: the format keeps them otherwise.
    """
    if fmt.scale is not Scale.F16:
        raise ValueError(f"{fmt.type.name} has no half-precision scales")
    blocks = encoded.reshape(len(encoded), -1, fmt.type.block_bytes)
    halves = np.ascontiguousarray(blocks[..., :4]).view("<f2").astype(np.float32)
    minima = halves[..., 1] if fmt.affine else np.zeros_like(halves[..., 0])
    return np.ascontiguousarray(halves[..., 0]), np.ascontiguousarray(minima)
