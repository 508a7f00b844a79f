"""Rescale a model so that rounding harms it less, without changing what it computes.

A norm's weight can be divided by a factor in each channel, and the columns of the matrices
behind it multiplied by the same; so can the rows of `ffn_up` and the columns of `ffn_down`, and
those of `attn_v` and `attn_output`. In exact arithmetic nothing changes. But llama.cpp rounds
activations to 8 bits in blocks, and a few channels are far larger than the rest: they set the
scale of their block, and what is small beside them is lost. With factors
(z_j / x_j)^(1/4), where x_j is the mean square of channel j and z_j that of the gradient by it, the
large channels become smaller exactly as far as that makes others' errors matter less.
The idea of moving scales from activations to weights is Xiao et al.'s (SmoothQuant, 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeslm.packager.quantize.weights import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeslm.packager.quantize.decoder import Shape

    Array = NDArray[Any]

_FLOOR = 1e-6
"""Channels quieter than this part of the mean are rescaled no more than if they had it."""


@dataclass(frozen=True)
class Moments:
    """Of one matrix's input: mean squares of each channel, and of the gradient by it."""

    input: Array
    gradient: Array


def equalized(
    weights: Weights, shape: Shape, moments: Mapping[str, Moments], *, strength: float = 0.5
) -> Weights:
    """`weights` rescaled; `moments` are keyed by full tensor names."""
    rows: dict[str, Array] = {}
    columns: dict[str, Array] = {}
    for index, layer in enumerate(shape.layers):
        of = _Named(moments, f"blk.{index}.")
        for norm, users in (
            ("attn_norm", ("attn_q", "attn_k", "attn_v")),
            ("ffn_norm", ("ffn_gate", "ffn_up")),
        ):
            gradient = np.sum([of(user).gradient for user in users], axis=0)
            factors = _factors(of(users[0]).input, gradient, strength)
            rows[f"blk.{index}.{norm}.weight"] = factors
            for user in users:
                columns[f"blk.{index}.{user}.weight"] = 1 / factors
        factors = _factors(of("ffn_down").input, of("ffn_down").gradient, strength)
        rows[f"blk.{index}.ffn_up.weight"] = factors
        columns[f"blk.{index}.ffn_down.weight"] = 1 / factors
        split = (layer.kv_heads, -1, shape.head_width)
        mixed = of("attn_output")
        factors = _factors(
            mixed.input.reshape(split).sum(1).ravel(),
            mixed.gradient.reshape(split).sum(1).ravel(),
            strength,
        )
        rows[f"blk.{index}.attn_v.weight"] = rows[f"blk.{index}.attn_v.bias"] = factors
        each = factors.reshape(layer.kv_heads, 1, -1)
        spread = np.repeat(each, shape.heads // layer.kv_heads, 1).ravel()
        columns[f"blk.{index}.attn_output.weight"] = 1 / spread
    return Weights(weights.header, rows, columns)


@dataclass(frozen=True)
class _Named:
    moments: Mapping[str, Moments]
    prefix: str

    def __call__(self, short: str) -> Moments:
        return self.moments[f"{self.prefix}{short}.weight"]


def _factors(inputs: Array, gradients: Array, strength: float) -> Array:
    """[n] factors with a geometric mean of 1."""
    x, z = (np.asarray(part, np.float64) for part in (inputs, gradients))
    if not (x.mean() > 0 and z.mean() > 0):
        return np.ones(len(x), np.float32)
    logs = np.log(z + _FLOOR * z.mean()) - np.log(x + _FLOOR * x.mean())
    logs *= strength / 2
    factors: Array = np.exp(logs - logs.mean()).astype(np.float32)
    return factors
