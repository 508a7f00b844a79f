"""Gemma 3: text models, and the text part of those that also see images."""

from __future__ import annotations

from edgeslm.errors import Unsupported
from edgeslm.estimate.config import GEMMA3_DEFAULTS
from edgeslm.gguf.types import Field
from edgeslm.packager.convert.families.base import Family, Shape, Sizes
from edgeslm.packager.convert.fields import flags, real, whole
from edgeslm.packager.convert.rope import Rope, read_rope
from edgeslm.packager.convert.values import Config, layer_types, number, positive, section

_TEXT_PREFIXES = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
}
_IMAGE_PARTS = ("vision_tower.", "multi_modal_projector.")


class Gemma3(Family):
    """Norms around each part, scaled by 1 + weight; most layers see a window only."""

    architectures = ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")
    arch = "gemma3"
    activations = frozenset({"gelu_pytorch_tanh"})
    rope_kinds = frozenset({"default", "linear"})
    defaults = GEMMA3_DEFAULTS

    def text_config(self, config: Config) -> Config:
        """Models with images keep the language model's settings in an object of their own."""
        return super().text_config(section(config, "text_config") or config)

    def check(self, config: Config) -> None:
        """The attention scale is fixed in llama.cpp, and some variants are not computed."""
        super().check(config)
        sizes = Sizes.of(config)
        # llama.cpp takes the layer count as the mark of the 27B model, whose scale differs.
        implied = sizes.hidden // sizes.heads if sizes.layers == 62 else sizes.head_dim
        scalar = config["query_pre_attn_scalar"]
        if scalar != implied:
            raise Unsupported(
                f"attention scaled by the root of {scalar} (query_pre_attn_scalar)",
                hint=f"llama.cpp's gemma3 uses {implied} for such a model.",
            )
        if config.get("attn_logit_softcapping"):
            raise Unsupported("capped attention scores in gemma3", hint="llama.cpp has none.")
        if config.get("use_bidirectional_attention"):
            raise Unsupported("bidirectional attention in gemma3", hint="Only text generation.")
        if _local_rope(config).kind != "default":
            raise Unsupported(
                "rope scaling in the windowed layers of gemma3",
                hint="llama.cpp scales the layers with full attention only.",
            )

    def canonical_name(self, name: str) -> str | None:
        """Without the prefixes of models with images, and without their image part."""
        if name.removeprefix("model.").startswith(_IMAGE_PARTS):
            return None
        for prefix, short in _TEXT_PREFIXES.items():
            if name.startswith(prefix):
                name = short + name.removeprefix(prefix)
        return super().canonical_name(name)

    def layer_shapes(self, config: Config, sizes: Sizes) -> dict[str, Shape]:
        """Four more norms."""
        return {
            **super().layer_shapes(config, sizes),
            "self_attn.q_norm.weight": (sizes.head_dim,),
            "self_attn.k_norm.weight": (sizes.head_dim,),
            "pre_feedforward_layernorm.weight": (sizes.hidden,),
            "post_feedforward_layernorm.weight": (sizes.hidden,),
        }

    def offset(self, name: str) -> float:
        """Its norms multiply by 1 + weight, llama.cpp's by the weight."""
        return 1.0 if name.endswith("norm.weight") else 0.0

    def fields(self, config: Config) -> list[Field]:
        """The window, which layers have it, their rope base, and the cap on logits."""
        fields, arch = super().fields(config), self.arch
        sliding = self._sliding(config)
        if any(sliding):
            fields += [
                whole(f"{arch}.attention.sliding_window", positive(config, "sliding_window")),
                flags(f"{arch}.attention.sliding_window_pattern", sliding),
                real(f"{arch}.rope.freq_base_swa", _local_rope(config).theta),
            ]
        if config.get("final_logit_softcapping"):
            cap = number(config, "final_logit_softcapping")
            fields.append(real(f"{arch}.final_logit_softcapping", cap))
        return fields

    def _sliding(self, config: Config) -> list[bool]:
        """Which layers see a window only."""
        types = layer_types(config)
        if types is None:
            pattern = positive(config, "sliding_window_pattern", 6)
            layers = positive(config, "num_hidden_layers")
            return [bool((index + 1) % pattern) for index in range(layers)]
        return [kind == "sliding_attention" for kind in types]


def _local_rope(config: Config) -> Rope:
    """The positions of the windowed layers; before transformers 5 they had only a base."""
    if "sliding_attention" in section(config, "rope_parameters"):
        return read_rope(config, "sliding_attention")
    return read_rope({"rope_theta": config["rope_local_base_freq"]})
