"""Quadratic forms by which errors are judged, factored for encoding in order.

The loss of replacing a weight W by Q is about tr(E H E^T G), E = W - Q: H is the mean outer
product of the inputs of the product (width x width), G that of the gradients of the model's
log-probabilities by its outputs (rows x rows). G may be missing: then rows count alike and alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]


_PRECISE_WIDTH = 8192
"""Wider forms are factored in single precision: in double, one array alone would be a gigabyte."""


@dataclass(frozen=True)
class Form:
    """A positive definite H = U D U^T, U unit upper triangular.

    Attributes:
        matrix: H, [n, n].
        upper: U, [n, n]; row i says how an error in i moves what is wanted of those after it.
        curvature: D, [n].
    """

    matrix: Matrix
    upper: Matrix
    curvature: Matrix


def factor(matrix: Matrix, damping: float) -> Form:
    """Factor `matrix`, after adding `damping` times its mean diagonal to the diagonal.

    A form that is singular even so is damped more, up to being the identity. What is above the
    diagonal counts.
    """
    n = len(matrix)
    mean = float(np.trace(matrix, dtype=np.float64)) / n
    if not np.isfinite(mean) or mean <= 0:
        return identity(n)
    while damping < 1e3:
        damped = np.array(matrix[::-1, ::-1], np.float64 if n <= _PRECISE_WIDTH else np.float32)
        damped.flat[:: n + 1] += damping * mean
        try:
            root = np.linalg.cholesky(damped)[::-1, ::-1]
        except np.linalg.LinAlgError:
            damping = max(damping * 10, 1e-4)
            continue
        kept = np.ascontiguousarray(damped[::-1, ::-1], np.float32)
        del damped
        diagonal = np.diag(root).copy()
        root /= diagonal
        return Form(kept, np.ascontiguousarray(root, np.float32), np.float32(diagonal**2))
    return identity(n)


def identity(n: int) -> Form:
    """The form of n things that count alike and alone."""
    return Form(np.eye(n, dtype=np.float32), np.eye(n, dtype=np.float32), np.ones(n, np.float32))
