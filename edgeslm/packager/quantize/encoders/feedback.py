"""Encode a tensor so that each rounding error is answered by the roundings after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeslm.llama.rows import encode_rows as ggml_encode
from edgeslm.packager.quantize.encoders.formats import BlockFormat, Scale
from edgeslm.packager.quantize.encoders.packing import Coded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeslm.packager.quantize.encoders.forms import Form

    Matrix = NDArray[Any]

ROWS = 64
"""Rows encoded between two exchanges of errors through the outputs' form."""


@dataclass(frozen=True)
class Encoded:
    """A tensor in blocks.

    Attributes:
        data: [rows, bytes of a row].
        loss: [rows] the form's value of each row's error, in the units of H.
    """

    data: NDArray[np.uint8]
    losses: NDArray[np.float64]


def encode(
    weights: Matrix,
    fmt: BlockFormat,
    inputs: Form,
    outputs: Form | None = None,
    *,
    sweeps: int = 2,
) -> Encoded:
    """Encode `weights` in blocks of `fmt` with little loss under the forms.

    Args:
        weights: [rows, n], finite; n a multiple of the format's block.
        fmt: The format.
        inputs: Form of the columns, [n, n].
        outputs: Form of the rows, [rows, rows]; None where they do not matter to each other.
        sweeps: How often single codes and scales are reconsidered afterwards.
    """
    from edgeslm.packager.quantize.encoders import kernels

    rows, n = weights.shape
    groups = n // fmt.group
    coded = _start(weights, fmt, inputs)
    arguments = _arguments(fmt)
    supers = _supers(fmt, coded)
    scales, minima = coded.scales, coded.minima
    if fmt.scale is Scale.SUPER:
        per = groups // coded.big.shape[1]
        big, big_minima = np.repeat(coded.big, per, 1), np.repeat(coded.big_minima, per, 1)
        scales, minima = big * coded.scales, -big_minima * coded.minima
    errors = np.zeros((rows, n), np.float32)
    losses = np.zeros(rows, np.float64)
    for first in range(0, rows, ROWS):
        part = slice(first, min(first + ROWS, rows))
        wanted = weights[part].copy()
        coupling = np.zeros((wanted.shape[0],) * 2, np.float32)
        if outputs is not None:
            if first:
                wanted += outputs.upper[:first, part].T @ errors[:first]
            coupling = np.ascontiguousarray(outputs.upper[part, part])
        kernels.encode_rows(
            weights[part],
            wanted,
            coupling,
            inputs.upper,
            inputs.curvature,
            inputs.matrix,
            fmt.group,
            *arguments,
            scales[part],
            minima[part],
            coded.codes[part],
            (*(array[part] for array in supers[:4]), *supers[4:]),
            sweeps,
            errors[part],
            losses[part],
        )
    return Encoded(fmt.pack(_finished(fmt, coded, scales, minima)), losses)


def _start(weights: Matrix, fmt: BlockFormat, inputs: Form) -> Coded:
    """Room for codes and scales; integer scales as ggml chooses them."""
    rows, n = weights.shape
    codes = np.zeros((rows, n), np.uint8)
    if fmt.supers is None:
        zeros = np.zeros((rows, n // fmt.group), np.float32)
        none = np.zeros((rows, 0), np.float32)
        return Coded(codes, zeros, zeros.copy(), none, none)
    importance = np.ascontiguousarray(np.diag(inputs.matrix))
    scales = fmt.supers.unpack(ggml_encode(fmt.type, weights, importance))
    return Coded(codes, scales.scales, scales.minima, scales.big, scales.big_minima)


def _arguments(fmt: BlockFormat) -> tuple[object, ...]:
    """A format as the kernels take it."""
    levels = np.array(fmt.levels, np.float32)
    middles = (levels[1:] + levels[:-1]) / 2
    shape = (levels, middles, fmt.uniform, fmt.affine, int(fmt.scale))
    return shape, fmt.scale_table(), fmt.scale_factors()


def _supers(fmt: BlockFormat, coded: Coded) -> tuple[Any, ...]:
    limits = fmt.supers
    per = coded.scales.shape[1] // coded.big.shape[1] if limits else 1
    low, high, top = (
        (limits.lowest, limits.highest, limits.highest_minimum) if limits else (0, 0, 0)
    )
    return (
        *(coded.big, coded.big_minima, coded.scales, coded.minima),
        *(per, float(low), float(high), float(top)),
    )


def _finished(fmt: BlockFormat, coded: Coded, scales: Matrix, minima: Matrix) -> Coded:
    if fmt.scale is Scale.SUPER:
        return coded
    return Coded(coded.codes, scales, minima, coded.big, coded.big_minima)
