"""Encode a tensor so that each rounding error is answered by the roundings after it."""

from __future__ import annotations

from collections.abc import Callable
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
        losses: [rows] the form's value of each row's error, in the units of H.
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
    fast: bool = True,
) -> Encoded:
    """Encode `weights` in blocks of `fmt` with little loss under the forms.

    Args:
        weights: [rows, n], finite; n a multiple of the format's block.
        fmt: The format.
        inputs: Form of the columns, [n, n].
        outputs: Form of the rows, [rows, rows]; None where they do not matter to each other.
        sweeps: How often single codes and scales are reconsidered afterwards.
        fast: The compiled way; without it numpy's, which reconsiders nothing.
    """
    rows, n = weights.shape
    coded = _start(weights, fmt, inputs, chosen=not fast)
    scales, minima = _group_values(fmt, coded)
    block = _compiled_block(fmt, inputs, sweeps) if fast else _plain_block(fmt, inputs)
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
        rest = (scales[part], minima[part], _rows(coded, part), errors[part], losses[part])
        block(weights[part], wanted, coupling, *rest)
    return Encoded(fmt.pack(_finished(fmt, coded, scales, minima)), losses)


def _compiled_block(fmt: BlockFormat, inputs: Form, sweeps: int) -> Callable[..., None]:
    from edgeslm.packager.quantize.encoders import kernels

    levels = np.array(fmt.levels, np.float32)
    middles = (levels[1:] + levels[:-1]) / 2
    shape = (levels, middles, fmt.uniform, fmt.affine, int(fmt.scale))
    table, factors = fmt.scale_table(), fmt.scale_factors()

    def block(
        weights: Matrix,
        wanted: Matrix,
        coupling: Matrix,
        scales: Matrix,
        minima: Matrix,
        coded: Coded,
        errors: Matrix,
        losses: Matrix,
    ) -> None:
        kernels.encode_rows(
            *(weights, wanted, coupling, inputs.upper, inputs.curvature, inputs.matrix),
            *(fmt.group, shape, table, factors, scales, minima, coded.codes),
            *(_supers(fmt, coded), sweeps, errors, losses),
        )

    return block


def _plain_block(fmt: BlockFormat, inputs: Form) -> Callable[..., None]:
    from edgeslm.packager.quantize.encoders.vectorised import feed

    def block(
        weights: Matrix,
        wanted: Matrix,
        _coupling: Matrix,
        scales: Matrix,
        minima: Matrix,
        coded: Coded,
        errors: Matrix,
        losses: Matrix,
    ) -> None:
        coded.codes[:], values = feed(wanted, fmt, inputs, scales, minima)
        errors[:] = weights - values
        left = wanted - values
        losses[:] = np.einsum("ij,ij->i", left @ inputs.matrix, left)

    return block


def _group_values(fmt: BlockFormat, coded: Coded) -> tuple[Matrix, Matrix]:
    """[rows, groups] what scales and minima are as numbers."""
    if fmt.scale is not Scale.SUPER:
        return coded.scales, coded.minima
    per = coded.scales.shape[1] // coded.big.shape[1]
    big, big_minima = np.repeat(coded.big, per, 1), np.repeat(coded.big_minima, per, 1)
    return big * coded.scales, -big_minima * coded.minima


def _rows(coded: Coded, part: slice) -> Coded:
    """Views of some rows."""
    return Coded(
        *(coded.codes[part], coded.scales[part], coded.minima[part]),
        *(coded.big[part], coded.big_minima[part]),
    )


def _start(weights: Matrix, fmt: BlockFormat, inputs: Form, *, chosen: bool) -> Coded:
    """Room for codes and scales; integer scales, or all if `chosen`, as ggml chooses them."""
    rows, n = weights.shape
    codes = np.zeros((rows, n), np.uint8)
    none = np.zeros((rows, 0), np.float32)
    importance = np.ascontiguousarray(np.diag(inputs.matrix))
    if fmt.supers is not None:
        scales = fmt.supers.unpack(ggml_encode(fmt.type, weights, importance))
        return Coded(codes, scales.scales, scales.minima, scales.big, scales.big_minima)
    if chosen:
        from edgeslm.packager.quantize.encoders.vectorised import group_scales

        own, minima = group_scales(fmt, ggml_encode(fmt.type, weights, importance))
        return Coded(codes, own, minima, none, none)
    zeros = np.zeros((rows, n // fmt.group), np.float32)
    return Coded(codes, zeros, zeros.copy(), none, none)


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
