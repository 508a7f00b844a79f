"""Qwen2 and Qwen2.5."""

from __future__ import annotations

from edgeslm.errors import Unsupported
from edgeslm.packager.convert.families.base import ATTENTION_PROJECTIONS, Config, Family, Sizes


class Qwen2(Family):
    """Llama's layers with biases on queries, keys and values."""

    architectures = ("Qwen2ForCausalLM",)
    arch = "qwen2"

    def check(self, config: Config) -> None:
        """llama.cpp sizes these heads by the hidden width, and lets each layer see everything."""
        super().check(config)
        refuse_sliding_window(config)
        sizes = Sizes.of(config)
        if sizes.heads * sizes.head_dim != sizes.hidden:
            raise Unsupported(
                f"{sizes.heads} heads of {sizes.head_dim} in a width of {sizes.hidden}",
                hint="llama.cpp's qwen2 needs heads that fill the hidden size exactly.",
            )

    def biased(self, config: Config) -> tuple[str, ...]:  # noqa: ARG002 - always there
        """Always there; the config does not mention them."""
        return tuple(f"self_attn.{name}" for name in ATTENTION_PROJECTIONS)


def refuse_sliding_window(config: Config) -> None:
    """Refuse windowed attention, which llama.cpp does not compute for Qwen's dense models.

    Raises:
        Unsupported: the config turns it on for some layer.
    """
    sliding = "sliding_attention" in (config.get("layer_types") or ())
    if config.get("use_sliding_window") and sliding:
        raise Unsupported(
            "sliding-window attention in a Qwen model", hint="llama.cpp computes full attention."
        )
