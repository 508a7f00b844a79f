"""A matrix in blocks of any type, and what that costs under the forms of its errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeslm.gguf.types import TensorType
from edgeslm.llama.rows import NEED_IMPORTANCE, decode_rows, encode_rows
from edgeslm.packager.quantize.encoders.feedback import Encoded, encode
from edgeslm.packager.quantize.encoders.formats import FORMATS
from edgeslm.packager.quantize.encoders.forms import PRECISE_WIDTH
from edgeslm.packager.quantize.encoders.vectorised import can_feed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeslm.packager.quantize.encoders.forms import Form

    Array = NDArray[Any]

__all__ = ["Encoded", "Forms", "compiled", "encode_as", "room_for", "way"]

_FLOATS = frozenset({"F32", "F16", "BF16"})
_MOST_COUPLED_ROWS = 32768
"""Taller matrices are vocabularies, whose rows do not interact."""


@dataclass(frozen=True)
class Forms:
    """How errors in one matrix are judged.

    Attributes:
        inputs: Form of the columns; None where all count alike, and ggml does the rounding.
        rows: [rows] what a unit of each row's loss counts; None for all alike.
        scale: Nats per unit of the weighted form.
        noise: Nats lost to 8-bit activations, by the block they are rounded in.
        factored_outputs: Gives the form of the rows, to answer errors by, where rows interact.
    """

    inputs: Form | None
    rows: Array | None = None
    scale: float = 0.5
    noise: Mapping[int, float] = field(default_factory=dict)
    factored_outputs: Callable[[], Form] | None = None

    @cached_property
    def outputs(self) -> Form | None:
        """Form of the rows, made when it is first wanted; None where they do not interact."""
        return self.factored_outputs() if self.factored_outputs else None

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
    """Whether numba works; without it numpy does the rounding, slower and a little worse."""
    try:
        from edgeslm.packager.quantize.encoders import kernels  # noqa: F401
    except (ImportError, RuntimeError):  # not there, too old for this numpy, or no place to cache
        return False
    return True


def way() -> str:
    """A name for what does the rounding here; other ways give other bytes."""
    return "compiled" if compiled() else "plain"


def room_for(shape: tuple[int, ...]) -> int:
    """Bytes that encoding a tensor of this shape takes at its peak, about.

    A form is there four times while it is factored, in eight bytes a number or, if it is wide,
    in four, and twice in four afterwards.
    """
    width, rows = shape[0], math.prod(shape[1:])
    forms = sorted((width, rows if rows <= _MOST_COUPLED_ROWS else 0))
    factoring = 28 if forms[1] <= PRECISE_WIDTH else 16
    return 8 * forms[0] ** 2 + factoring * forms[1] ** 2 + 16 * width * rows


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
    form, fmt = forms.inputs, FORMATS.get(kind.name)
    if form is not None and fmt is not None and (compiled() or can_feed(fmt)):
        outputs = forms.outputs if coupled else None
        return encode(weights, fmt, form, outputs, sweeps=sweeps, fast=compiled())
    data = encode_rows(kind, weights, _importance(kind, form, weights.shape[1]))
    if kind.name == "F32":
        return Encoded(data, np.zeros(len(weights)))
    errors = weights - decode_rows(kind, data, weights.shape[1])
    weighted = errors if form is None else errors @ form.matrix
    return Encoded(data, np.einsum("ij,ij->i", weighted, errors))


def _importance(kind: TensorType, form: Form | None, width: int) -> Array | None:
    """What ggml weighs columns with: nothing if nothing is known, unless it insists."""
    if kind.name in _FLOATS:
        return None
    if form is not None:
        return np.diag(form.matrix)
    return np.ones(width, np.float32) if kind.name in NEED_IMPORTANCE else None
