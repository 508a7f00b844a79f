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

    A form that is singular even so is damped more, up to being the identity.
    """
    n = len(matrix)
    symmetric = np.asarray(matrix, np.float64)
    symmetric = (symmetric + symmetric.T) / 2
    mean = float(np.trace(symmetric)) / n
    if not np.isfinite(mean) or mean <= 0:
        return _identity(n)
    while damping < 1e3:
        damped = symmetric + damping * mean * np.eye(n)
        try:
            lower = np.linalg.cholesky(damped[::-1, ::-1])
        except np.linalg.LinAlgError:
            damping = max(damping * 10, 1e-4)
            continue
        root = lower[::-1, ::-1]
        diagonal = np.diag(root)
        return Form(
            np.ascontiguousarray(damped, np.float32),
            np.ascontiguousarray(root / diagonal, np.float32),
            np.ascontiguousarray(diagonal**2, np.float32),
        )
    return _identity(n)


def _identity(n: int) -> Form:
    return Form(np.eye(n, dtype=np.float32), np.eye(n, dtype=np.float32), np.ones(n, np.float32))
