"""Qwen2 and Qwen2.5, and what Qwen3 shares with them."""

from __future__ import annotations

from edgeslm.errors import Unsupported
from edgeslm.packager.convert.families.base import ATTENTION_PROJECTIONS, Family, Sizes
from edgeslm.packager.convert.values import Config, count, layer_types, positive


class Qwen(Family):
    """Layers may see a window only, which llama.cpp does not compute for these models."""

    defaults = {"max_window_layers": 28}  # noqa: RUF012 - declared as ClassVar in the base

    def text_config(self, config: Config) -> Config:
        """A window that is null stays so: it means none, and silence means 4096."""
        window = config.get("sliding_window", 4096)
        return {**super().text_config(config), "sliding_window": window}

    def check(self, config: Config) -> None:
        """llama.cpp lets every layer see everything."""
        super().check(config)
        if config.get("use_sliding_window") and _has_window(config):
            raise Unsupported(
                "sliding-window attention in a Qwen model",
                hint="llama.cpp computes full attention.",
            )


class Qwen2(Qwen):
    """Llama's layers with biases on queries, keys and values."""

    architectures = ("Qwen2ForCausalLM",)
    arch = "qwen2"

    def check(self, config: Config) -> None:
        """llama.cpp sizes these heads by the hidden width."""
        super().check(config)
        sizes = Sizes.of(config)
        if sizes.heads * sizes.head_dim != sizes.hidden:
            raise Unsupported(
                f"{sizes.heads} heads of {sizes.head_dim} in a width of {sizes.hidden}",
                hint="llama.cpp's qwen2 needs heads that fill the hidden size exactly.",
            )

    def biased(self, config: Config) -> tuple[str, ...]:  # noqa: ARG002 - always there
        """Always there; the config does not mention them."""
        return tuple(f"self_attn.{name}" for name in ATTENTION_PROJECTIONS)


def _has_window(config: Config) -> bool:
    """Whether some layer sees a window; before transformers 4.53 no list of layers says so."""
    types = layer_types(config)
    if types is not None:
        return "sliding_attention" in types
    first = count(config, "max_window_layers")
    return config["sliding_window"] is not None and first < positive(config, "num_hidden_layers")
