"""Rotary position embeddings: from either generation of config.json to GGUF.

transformers 4 writes `rope_theta` and `rope_scaling{rope_type or type, ...}`; transformers 5
writes `rope_parameters{rope_theta, rope_type, ...}`, or one such object per layer type. The
formulas are those of transformers' modeling_rope_utils.py and of ggml's rope operator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import Unsupported
from edgeslm.gguf.types import Field
from edgeslm.packager.convert.fields import real, text, whole
from edgeslm.packager.convert.values import number, section

_LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class Rope:
    """How positions are encoded; `values` are the parameters of its kind."""

    kind: str
    theta: float
    values: Mapping[str, Any]

    def number(self, name: str, default: float | None = None) -> float:
        """A parameter that must be a positive number.

        Raises:
            InvalidCheckpoint: it is missing without a default, or something else.
        """
        return number(self.values, name, default)


def read_rope(config: Mapping[str, Any], layer_type: str = "full_attention") -> Rope:
    """The parameters in `config`, of one layer type where they differ by that."""
    values = section(config, "rope_parameters") or section(config, "rope_scaling")
    if any(name in values for name in _LAYER_TYPES):
        values = section(values, layer_type)
    kind = str(values.get("rope_type") or values.get("type") or "default")
    theta = values.get("rope_theta") or config.get("rope_theta") or 10_000.0
    rope = Rope(kind, 0.0, {**values, "rope_theta": theta})
    rotated = values.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if rotated not in (None, 1, 1.0):
        raise Unsupported(
            f"only part of each head is rotated (partial_rotary_factor {rotated})",
            hint="This architecture rotates whole heads in llama.cpp.",
        )
    return Rope(kind, rope.number("rope_theta"), values)


def rope_fields(arch: str, rope: Rope, context_length: int) -> list[Field]:
    """Base frequency and scaling as llama.cpp reads them."""
    fields = [real(f"{arch}.rope.freq_base", rope.theta)]
    if rope.kind == "linear":
        fields += [
            text(f"{arch}.rope.scaling.type", "linear"),
            real(f"{arch}.rope.scaling.factor", rope.number("factor")),
        ]
    elif rope.kind == "yarn":
        fields += _yarn_fields(arch, rope, context_length)
    return fields


def llama3_factors(rope: Rope, head_dim: int, context_length: int) -> NDArray[np.float32]:
    """What each frequency is divided by; llama.cpp reads it as rope_freqs.weight.

    Short wavelengths stay, long ones are stretched by `factor`, those between are blended.
    """
    factor = rope.number("factor")
    low, high = rope.number("low_freq_factor", 1.0), rope.number("high_freq_factor", 4.0)
    original = rope.number("original_max_position_embeddings", context_length)
    frequencies = rope.theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    wavelengths = 2 * math.pi / frequencies
    if high == low:
        return np.where(wavelengths < original / high, 1.0, factor).astype(np.float32)
    smooth = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def _yarn_fields(arch: str, rope: Rope, context_length: int) -> list[Field]:
    if rope.values.get("truncate") is False:
        raise Unsupported(
            "yarn rope scaling without truncation", hint="llama.cpp always truncates."
        )
    factor = rope.number("factor")
    original = rope.number("original_max_position_embeddings", context_length)
    fields = [
        text(f"{arch}.rope.scaling.type", "yarn"),
        real(f"{arch}.rope.scaling.factor", factor),
        whole(f"{arch}.rope.scaling.original_context_length", int(original)),
        real(f"{arch}.rope.scaling.yarn_beta_fast", rope.number("beta_fast", 32.0)),
        real(f"{arch}.rope.scaling.yarn_beta_slow", rope.number("beta_slow", 1.0)),
    ]
    # llama.cpp derives the usual attention factor from `factor`; what is asked for beside it
    # is written as a multiple of that.
    multiple = _yarn_attention(rope, factor) / _mscale(factor, 1.0)
    if not math.isclose(multiple, 1.0):
        fields.append(real(f"{arch}.rope.scaling.attn_factor", multiple))
    return fields


def _yarn_attention(rope: Rope, factor: float) -> float:
    """The factor on attention logits' magnitude that the checkpoint asks for."""
    if rope.values.get("attention_factor") is not None:
        return rope.number("attention_factor")
    if rope.values.get("mscale") and rope.values.get("mscale_all_dim"):
        return _mscale(factor, rope.number("mscale")) / _mscale(
            factor, rope.number("mscale_all_dim")
        )
    return _mscale(factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
