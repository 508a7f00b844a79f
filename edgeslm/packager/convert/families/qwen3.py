"""Qwen3, dense."""

from __future__ import annotations

from edgeslm.packager.convert.families.base import Shape, Sizes
from edgeslm.packager.convert.families.qwen2 import Qwen
from edgeslm.packager.convert.values import Config


class Qwen3(Qwen):
    """Queries and keys are normalised per head; the head size is explicit."""

    architectures = ("Qwen3ForCausalLM",)
    arch = "qwen3"
    defaults = {**Qwen.defaults, "head_dim": 128}  # noqa: RUF012 - declared as ClassVar in the base

    def layer_shapes(self, config: Config, sizes: Sizes) -> dict[str, Shape]:
        """Two more norms."""
        return {
            **super().layer_shapes(config, sizes),
            "self_attn.q_norm.weight": (sizes.head_dim,),
            "self_attn.k_norm.weight": (sizes.head_dim,),
        }
