"""What the decoder families share: sizes, tensor shapes, tensor names, metadata.

A family's own file says only what differs. A checkpoint's tensors are compared with
`shapes`, one by one: nothing is left out and nothing is ignored without being named here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import InvalidCheckpoint, Unsupported
from edgeslm.gguf.types import Field
from edgeslm.gguf.validation import MAX_BLOCKS
from edgeslm.packager.convert.fields import real, whole
from edgeslm.packager.convert.rope import llama3_factors, read_rope, rope_fields
from edgeslm.packager.convert.values import Config, number, positive

Shape = tuple[int, ...]

ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_UNPREFIXED = ("embed_tokens.", "layers.", "norm.")


@dataclass(frozen=True)
class Sizes:
    """The numbers that give every tensor its shape."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int

    @classmethod
    def of(cls, config: Config) -> Sizes:
        """Read them from a config whose defaults are filled in.

        Raises:
            InvalidCheckpoint: one is missing, no positive integer, or contradicts another.
            Unsupported: more layers or other heads than llama.cpp has.
        """
        hidden, heads = positive(config, "hidden_size"), positive(config, "num_attention_heads")
        kv_heads = positive(config, "num_key_value_heads", heads)
        head_dim = positive(config, "head_dim", hidden // heads)
        if heads % kv_heads:
            raise InvalidCheckpoint(
                f"config.json: {heads} attention heads cannot share {kv_heads} key-value heads",
                hint="Compare config.json with the original model's.",
            )
        if head_dim % 2:
            raise Unsupported(
                f"heads of {head_dim} dimensions",
                hint="Rotary position embeddings need an even number.",
            )
        layers = positive(config, "num_hidden_layers")
        if layers > MAX_BLOCKS:
            raise Unsupported(
                f"config.json: num_hidden_layers is {layers}",
                hint=f"llama.cpp runs models of up to {MAX_BLOCKS} layers.",
            )
        return cls(
            layers=layers,
            hidden=hidden,
            feed_forward=positive(config, "intermediate_size"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocabulary=positive(config, "vocab_size"),
            context=positive(config, "max_position_embeddings"),
        )


class Family:
    """A pre-norm decoder with gated feed-forward layers and rotary positions."""

    architectures: ClassVar[tuple[str, ...]]
    """What `architectures` in config.json may say."""
    arch: ClassVar[str]
    """llama.cpp's name for it."""
    defaults: ClassVar[Config] = {}
    """What transformers takes where config.json is silent."""
    rope_kinds: ClassVar[frozenset[str]] = frozenset({"default", "linear", "yarn"})
    """Rope scalings that llama.cpp computes for this architecture."""
    activations: ClassVar[frozenset[str]] = frozenset({"silu", "swish"})
    """What the feed-forward gate may be."""

    def text_config(self, config: Config) -> Config:
        """The part of config.json that describes the language model, defaults filled in."""
        given = {key: value for key, value in config.items() if value is not None}
        return {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, **self.defaults, **given}

    def check(self, config: Config) -> None:
        """Refuse what llama.cpp would compute differently.

        Raises:
            Unsupported: the config asks for such a thing.
        """
        kind = read_rope(config).kind
        if kind not in self.rope_kinds:
            raise Unsupported(
                f"rope scaling of the type {kind} in {self.arch}",
                hint=f"Supported are {', '.join(sorted(self.rope_kinds))}.",
            )
        activation = config.get("hidden_act") or config.get("hidden_activation")
        known = isinstance(activation, str) and activation in self.activations
        if activation is not None and not known:
            raise Unsupported(
                f"the activation {activation} in {self.arch}",
                hint=f"llama.cpp computes {sorted(self.activations)[0]} there.",
            )

    def canonical_name(self, name: str) -> str | None:
        """A stored tensor's name in the text model; None for one that is not needed."""
        # Rotary frequencies used to be stored; they follow from the config.
        if name.endswith("rotary_emb.inv_freq"):
            return None
        # Embedding models are saved without the prefix that models with a head have.
        return f"model.{name}" if name.startswith(_UNPREFIXED) else name

    def shapes(self, config: Config) -> dict[str, Shape]:
        """Every tensor the model needs, by canonical name; row-major, as torch prints them."""
        sizes = Sizes.of(config)
        shapes: dict[str, Shape] = {"model.embed_tokens.weight": (sizes.vocabulary, sizes.hidden)}
        layer = self.layer_shapes(config, sizes)
        for index in range(sizes.layers):
            shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
        shapes["model.norm.weight"] = (sizes.hidden,)
        if not config["tie_word_embeddings"]:
            shapes["lm_head.weight"] = (sizes.vocabulary, sizes.hidden)
        return shapes

    def layer_shapes(self, config: Config, sizes: Sizes) -> dict[str, Shape]:
        """The tensors of one layer."""
        queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
        shapes: dict[str, Shape] = {
            "input_layernorm.weight": (sizes.hidden,),
            "self_attn.q_proj.weight": (queries, sizes.hidden),
            "self_attn.k_proj.weight": (keys, sizes.hidden),
            "self_attn.v_proj.weight": (keys, sizes.hidden),
            "self_attn.o_proj.weight": (sizes.hidden, queries),
            "post_attention_layernorm.weight": (sizes.hidden,),
            "mlp.gate_proj.weight": (sizes.feed_forward, sizes.hidden),
            "mlp.up_proj.weight": (sizes.feed_forward, sizes.hidden),
            "mlp.down_proj.weight": (sizes.hidden, sizes.feed_forward),
        }
        for name in self.biased(config):
            shapes[f"{name}.bias"] = shapes[f"{name}.weight"][:1]
        return shapes

    def biased(self, config: Config) -> tuple[str, ...]:
        """The projections of a layer that have a bias."""
        if config.get("attention_bias"):
            raise Unsupported(
                f"biases in the attention of {self.arch}", hint="llama.cpp has no place for them."
            )
        return ()

    def rearranged(self, name: str, tensor: NDArray[Any], sizes: Sizes) -> NDArray[Any]:  # noqa: ARG002 - for overriding
        """The tensor with its rows where llama.cpp expects them; values stay as they are.

        It may hold bfloat16 as raw codes, so only moving is allowed here.
        """
        return tensor

    def offset(self, name: str) -> float:  # noqa: ARG002 - for overriding
        """What is added to every value of a one-dimensional tensor."""
        return 0.0

    def extra_tensors(self, config: Config) -> dict[str, NDArray[np.float32]]:
        """Tensors that no checkpoint stores, by GGUF name."""
        rope = read_rope(config)
        if rope.kind != "llama3":
            return {}
        sizes = Sizes.of(config)
        return {"rope_freqs.weight": llama3_factors(rope, sizes.head_dim, sizes.context)}

    def context_length(self, config: Config, sizes: Sizes) -> int:  # noqa: ARG002 - for overriding
        """The most tokens the model was made for."""
        return sizes.context

    def fields(self, config: Config) -> list[Field]:
        """The hyperparameters, under keys that begin with the architecture's name."""
        sizes, arch = Sizes.of(config), self.arch
        return [
            whole(f"{arch}.block_count", sizes.layers),
            whole(f"{arch}.context_length", self.context_length(config, sizes)),
            whole(f"{arch}.embedding_length", sizes.hidden),
            whole(f"{arch}.feed_forward_length", sizes.feed_forward),
            whole(f"{arch}.attention.head_count", sizes.heads),
            whole(f"{arch}.attention.head_count_kv", sizes.kv_heads),
            whole(f"{arch}.attention.key_length", sizes.head_dim),
            whole(f"{arch}.attention.value_length", sizes.head_dim),
            whole(f"{arch}.rope.dimension_count", sizes.head_dim),
            real(f"{arch}.attention.layer_norm_rms_epsilon", number(config, "rms_norm_eps")),
            whole(f"{arch}.vocab_size", sizes.vocabulary),
            *rope_fields(arch, read_rope(config), sizes.context),
        ]
