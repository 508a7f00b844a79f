"""A matrix in blocks of any type, and what that costs under the forms of its errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeslm.gguf.types import TensorType
from edgeslm.llama.rows import decode_rows, encode_rows
from edgeslm.packager.quantize.encoders.feedback import Encoded, encode
from edgeslm.packager.quantize.encoders.formats import FORMATS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeslm.packager.quantize.encoders.forms import Form

    Array = NDArray[Any]

__all__ = ["Encoded", "Forms", "compiled", "encode_as"]

_FLOATS = frozenset({"F32", "F16", "BF16"})


@dataclass(frozen=True)
class Forms:
    """How errors in one matrix are judged.

    Attributes:
        inputs: Form of the columns.
        outputs: Form of the rows, to answer errors by; None where they do not interact.
        rows: [rows] what a unit of each row's loss counts; None for all alike.
        scale: Nats per unit of the weighted form.
        noise: Nats lost to 8-bit activations, by the block they are rounded in.
        feedback: Whether the forms are worth answering errors by; if not, ggml does the rounding.
    """

    inputs: Form
    outputs: Form | None
    rows: Array | None
    scale: float = 0.5
    noise: Mapping[int, float] = field(default_factory=dict)
    feedback: bool = True

    def row_weights(self, count: int) -> Array:
        """[rows] what a unit of each row's loss counts."""
        return np.ones(count, np.float32) if self.rows is None else self.rows

    def activation_noise(self, kind: TensorType) -> float:
        """Nats that a matrix of `kind` loses to its rounded input, whatever its own errors."""
        if kind.name in _FLOATS:
            return 0.0
        return self.noise.get(256 if kind.block_elements == 256 else 32, 0.0)


@cache
def compiled() -> bool:
    """Whether numba is there; without it numpy does the rounding, slower and a little worse."""
    return find_spec("numba") is not None


def encode_as(
    kind: TensorType, weights: Array, forms: Forms, *, coupled: bool = True, sweeps: int = 2
) -> Encoded:
    """Encode `weights` in blocks of `kind` as well as is known for that type.

    Args:
        kind: The type; its blocks divide the width.
        weights: [rows, n].
        forms: What errors cost.
        coupled: Whether rows answer the errors of those before them.
        sweeps: How often codes and scales are reconsidered.
    """
    if forms.feedback and kind.name in FORMATS:
        outputs = forms.outputs if coupled else None
        fmt, fast = FORMATS[kind.name], compiled()
        return encode(weights, fmt, forms.inputs, outputs, sweeps=sweeps, fast=fast)
    plain = kind.name in _FLOATS or not forms.feedback
    importance = None if plain else np.diag(forms.inputs.matrix)
    data = encode_rows(kind, weights, importance)
    if kind.name == "F32":
        return Encoded(data, np.zeros(len(weights)))
    errors = weights - decode_rows(kind, data, weights.shape[1])
    return Encoded(data, np.einsum("ij,ij->i", errors @ forms.inputs.matrix, errors))
