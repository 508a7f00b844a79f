"""Llama 2 and 3, SmolLM2, TinyLlama; Mistral, whose dense models are the same."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from edgeslm.packager.convert.families.base import (
    ATTENTION_PROJECTIONS,
    Family,
    Sizes,
)
from edgeslm.packager.convert.values import Config, positive


class Llama(Family):
    """Rotates neighbouring dimensions where transformers rotates halves: rows move."""

    architectures = ("LlamaForCausalLM", "MistralForCausalLM")
    arch = "llama"
    rope_kinds = frozenset({"default", "linear", "yarn", "llama3"})

    def biased(self, config: Config) -> tuple[str, ...]:
        """Both kinds of bias exist and llama.cpp knows both."""
        attention = tuple(f"self_attn.{name}" for name in (*ATTENTION_PROJECTIONS, "o_proj"))
        feed_forward = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
        return (attention if config.get("attention_bias") else ()) + (
            feed_forward if config.get("mlp_bias") else ()
        )

    def rearranged(self, name: str, tensor: NDArray[Any], sizes: Sizes) -> NDArray[Any]:
        """Queries and keys, weights and biases: halves of each head become interleaved."""
        if ".q_proj." in name:
            return interleaved(tensor, sizes.heads)
        if ".k_proj." in name:
            return interleaved(tensor, sizes.kv_heads)
        return tensor

    def context_length(self, config: Config, sizes: Sizes) -> int:
        """Mistral's window, where it has one: llama.cpp lets this architecture see everything.

        Up to the window's length both compute the same.
        """
        if not config.get("sliding_window"):
            return sizes.context
        return min(sizes.context, positive(config, "sliding_window"))


def interleaved(tensor: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows 0, 1, 2, ... of each head's first half alternate with those of its second half."""
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    rows: NDArray[Any] = halves.swapaxes(1, 2).reshape(tensor.shape)
    return rows
