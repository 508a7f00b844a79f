"""Quadratic forms by which errors are judged, factored for encoding in order.

The loss of replacing a weight W by Q is about tr(E H E^T G), E = W - Q: H is the mean outer
product of the inputs of the product (width x width), G that of the gradients of the model's
log-probabilities by its outputs (rows x rows). G may be missing: then rows count alike and alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]


PRECISE_WIDTH = 8192
"""Wider forms are factored in single precision: in double, one array alone would be a gigabyte."""
_FACTORED_COLUMNS = 256
"""Of a wide form, at a time."""


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
        damped = np.array(matrix[::-1, ::-1], np.float64 if n <= PRECISE_WIDTH else np.float32)
        damped.flat[:: n + 1] += damping * mean
        try:
            if n <= PRECISE_WIDTH:
                root = np.linalg.cholesky(damped)
            else:
                root = damped
                _cholesky_in_place(root)
        except np.linalg.LinAlgError:
            damping = max(damping * 10, 1e-4)
            continue
        del damped
        root = root[::-1, ::-1]
        diagonal = np.diag(root).copy()
        root /= diagonal
        upper = np.ascontiguousarray(root, np.float32)
        del root
        kept = np.array(matrix, np.float32)
        kept.flat[:: n + 1] = np.diag(matrix).astype(np.float64) + damping * mean
        return Form(kept, upper, np.float32(diagonal**2))
    return identity(n)


def _cholesky_in_place(matrix: NDArray[Any]) -> None:
    """Replace `matrix` by its lower factor: numpy's would take six more of it, in double precision.

    What is below the diagonal counts.

    Raises:
        LinAlgError: it is not positive definite.
    """
    n = len(matrix)
    for first in range(0, n, _FACTORED_COLUMNS):
        end = min(first + _FACTORED_COLUMNS, n)
        corner = np.linalg.cholesky(matrix[first:end, first:end].astype(np.float64))
        matrix[first:end, first:end] = corner
        matrix[first:end, end:] = 0.0
        across = np.linalg.inv(corner).T.astype(np.float32)
        below = matrix[end:, first:end] @ across
        matrix[end:, first:end] = below
        for at in range(end, n, _FACTORED_COLUMNS):
            part = below[at - end : at - end + _FACTORED_COLUMNS]
            matrix[at:, at : at + len(part)] -= below[at - end :] @ part.T


def identity(n: int) -> Form:
    """The form of n things that count alike and alone."""
    return Form(np.eye(n, dtype=np.float32), np.eye(n, dtype=np.float32), np.ones(n, np.float32))
