"""Our own forward and backward pass of decoder models, for what llama.cpp cannot give: gradients.

A layer's weights are decoded to float32 when it is computed, and dropped with the next one. The
families are those that share Llama's block: norm, grouped-query attention with rotary positions,
norm, gated feed-forward. `judge` compares the logits with llama.cpp's before anything is built on
them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeslm.errors import Unsupported
from edgeslm.estimate.cache import Layer, layers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeslm.gguf.reader import Header
    from edgeslm.packager.quantize.weights import Weights

    Array = NDArray[Any]

_INTERLEAVED = frozenset({"llama"})
"""Families whose rotary pairs lie side by side; elsewhere a pair is half a head apart."""
FAMILIES = frozenset({"llama", "qwen2", "qwen3", "gemma3"})
INPUTS: Mapping[str, str] = MappingProxyType(
    {
        "attn_q": "h",
        "attn_k": "h",
        "attn_v": "h",
        "attn_output": "mixed",
        "ffn_gate": "h2",
        "ffn_up": "h2",
        "ffn_down": "inner",
    }
)
"""The matrices of a block, and what each is multiplied with: equal names, one input."""
_KNOWN_TENSORS = frozenset(
    {
        *(f"{name}.weight" for name in INPUTS),
        *(f"attn_{name}.bias" for name in "qkv"),
        *(f"attn_{name}_norm.weight" for name in "qk"),
        *("attn_norm.weight", "ffn_norm.weight"),
        *("post_attention_norm.weight", "post_ffw_norm.weight"),
        *("token_embd.weight", "output.weight", "output_norm.weight", "rope_freqs.weight"),
    }
)
"""Names without `blk.N.`. A model with others computes something that is not done here."""
_BLOCK_NAME = re.compile(r"^blk\.\d+\.")
_LOCAL_BASE = 10000.0
_NEVER = np.float32(-1e30)
_LEAST_EXPONENT = np.float32(-80)
"""Below it the sigmoid is zero in single precision, and its exponential nearly too large."""


@dataclass(frozen=True)
class Shape:
    """What the passes need to know of a model."""

    architecture: str
    width: int
    heads: int
    head_width: int
    epsilon: float
    base: float
    base_local: float
    scale: float
    layers: tuple[Layer, ...]
    rope_factors: Array | None

    @property
    def gemma(self) -> bool:
        """Whether a block has Gemma's extra norms and activation."""
        return self.architecture == "gemma3"


def shape_of(weights: Weights) -> Shape:
    """Read the shape of a model.

    Raises:
        Unsupported: a family, or a setting of one, that the passes do not know.
    """
    header = weights.header
    family = header.architecture or ""
    names = {tensor.name for tensor in header.tensors}
    if family not in FAMILIES:
        raise Unsupported(f"no gradients for the family {family}")
    kinds = layers(header)
    head_width = kinds[0].key_length
    if not _plain(header, kinds):
        raise Unsupported(f"no gradients for this kind of {family}")
    base = float(header.hyper("rope.freq_base", 10000.0))
    scale = 1.0
    if header.hyper("rope.scaling.type") == "linear":
        scale = 1.0 / (float(header.hyper("rope.scaling.factor", 1.0)) or 1.0)
    local = float(header.hyper("rope.freq_base_swa", _LOCAL_BASE)) if family == "gemma3" else base
    factors = None
    if "rope_freqs.weight" in names:
        factors = weights.vector("rope_freqs.weight")
    return Shape(
        family,
        width=int(header.hyper("embedding_length")),
        heads=int(header.hyper("attention.head_count")),
        head_width=head_width,
        epsilon=float(header.hyper("attention.layer_norm_rms_epsilon", 1e-5)),
        base=base,
        base_local=local,
        scale=scale,
        layers=kinds,
        rope_factors=factors,
    )


def _plain(header: Header, kinds: tuple[Layer, ...]) -> bool:
    """Whether the model has nothing that is not done here: experts, odd heads, other tensors."""
    head_width = kinds[0].key_length
    short = {_BLOCK_NAME.sub("", tensor.name) for tensor in header.tensors}
    return (
        short <= _KNOWN_TENSORS
        and {f"{name}.weight" for name in INPUTS} <= short
        and isinstance(header.hyper("attention.head_count"), int)
        and not header.hyper("expert_count")
        and header.hyper("rope.scaling.type") in (None, "none", "linear")
        and int(header.hyper("rope.dimension_count", head_width)) == head_width
        and all(layer.key_length == layer.value_length == head_width for layer in kinds)
        and not header.hyper("attn_logit_softcapping")
        and not header.hyper("final_logit_softcapping")
    )


@dataclass(frozen=True)
class Passed:
    """What a backward pass through one block gives for one sequence.

    Attributes:
        gradient: [tokens, width] by the block's input.
        inputs: [tokens, in] what each matrix was multiplied with.
        outputs: [tokens, out] the gradient by each product.
        back: [tokens, in] the gradient by each matrix's input, through that matrix alone.
    """

    gradient: Array
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    back: Mapping[str, Array]


class Block:
    """One block's forward and backward pass, for whole sequences."""

    def __init__(self, shape: Shape, index: int, weights: Mapping[str, Array], length: int) -> None:
        self.shape = shape
        self.layer = shape.layers[index]
        self.weights = weights
        local = shape.gemma and self.layer.window is not None
        self._cos, self._sin = _rotation(shape, length, local=local)
        position = np.arange(length)
        hidden = position[None, :] > position[:, None]
        if self.layer.window is not None:
            hidden |= position[:, None] - position[None, :] >= self.layer.window
        self._mask = np.where(hidden, _NEVER, np.float32(0))

    def forward(self, x: Array) -> Array:
        """[tokens, width] of one sequence to the same, one block later."""
        return self._forward(x)["out"]

    def _forward(self, x: Array) -> dict[str, Array]:
        w, shape = self.weights, self.shape
        kept: dict[str, Array] = {"x": x}
        kept["h"], kept["r1"] = norm(x, w["attn_norm.weight"], shape.epsilon)
        for name, heads in (("q", shape.heads), ("k", self.layer.kv_heads)):
            flat = kept["h"] @ w[f"attn_{name}.weight"].T
            if f"attn_{name}.bias" in w:
                flat = flat + w[f"attn_{name}.bias"]
            split = flat.reshape(len(x), heads, shape.head_width)
            kept[f"{name}0"] = split
            if f"attn_{name}_norm.weight" in w:
                split, kept[f"r{name}"] = norm(split, w[f"attn_{name}_norm.weight"], shape.epsilon)
            kept[name] = self._rotate(split, forward=True)
        value = kept["h"] @ w["attn_v.weight"].T
        if "attn_v.bias" in w:
            value = value + w["attn_v.bias"]
        kept["v"] = value.reshape(len(x), self.layer.kv_heads, shape.head_width)
        kept["p"] = self._attention(kept["q"], kept["k"])
        mixed = kept["p"] @ self._spread(kept["v"])
        kept["mixed"] = mixed.transpose(1, 0, 2).reshape(len(x), -1)
        attended = kept["mixed"] @ w["attn_output.weight"].T
        if shape.gemma:
            kept["attended"] = attended
            post = w["post_attention_norm.weight"]
            attended, kept["rp1"] = norm(attended, post, shape.epsilon)
        kept["x2"] = x + attended
        kept["h2"], kept["r2"] = norm(kept["x2"], w["ffn_norm.weight"], shape.epsilon)
        kept["gate"] = kept["h2"] @ w["ffn_gate.weight"].T
        kept["up"] = kept["h2"] @ w["ffn_up.weight"].T
        kept["act"], kept["slope"] = (_gelu if shape.gemma else _silu)(kept["gate"])
        kept["inner"] = kept["act"] * kept["up"]
        down = kept["inner"] @ w["ffn_down.weight"].T
        if shape.gemma:
            kept["down"] = down
            down, kept["rp2"] = norm(down, w["post_ffw_norm.weight"], shape.epsilon)
        kept["out"] = kept["x2"] + down
        return kept

    def backward(self, x: Array, gradient: Array) -> Passed:
        """From the gradient by the block's output to that by its input.

        Args:
            x: [tokens, width] what the block was given.
            gradient: [tokens, width] by what it gave.
        """
        w, shape, kept = self.weights, self.shape, self._forward(x)
        by: dict[str, Array] = {}
        back: dict[str, Array] = {}
        down = gradient
        if shape.gemma:
            down = norm_back(down, kept["down"], kept["rp2"], w["post_ffw_norm.weight"])
        by["ffn_down"] = down
        back["ffn_down"] = inner = down @ w["ffn_down.weight"]
        by["ffn_up"] = inner * kept["act"]
        by["ffn_gate"] = inner * kept["up"] * kept["slope"]
        for name in ("ffn_up", "ffn_gate"):
            back[name] = by[name] @ w[f"{name}.weight"]
        h2 = back["ffn_up"] + back["ffn_gate"]
        x2 = gradient + norm_back(h2, kept["x2"], kept["r2"], w["ffn_norm.weight"])
        attended = x2
        if shape.gemma:
            post = w["post_attention_norm.weight"]
            attended = norm_back(attended, kept["attended"], kept["rp1"], post)
        by["attn_output"] = attended
        back["attn_output"] = attended @ w["attn_output.weight"]
        self._attention_back(kept, back["attn_output"], by)
        for name in ("attn_q", "attn_k", "attn_v"):
            back[name] = by[name] @ w[f"{name}.weight"]
        h = back["attn_q"] + back["attn_k"] + back["attn_v"]
        before = x2 + norm_back(h, x, kept["r1"], w["attn_norm.weight"])
        return Passed(before, {name: kept[where] for name, where in INPUTS.items()}, by, back)

    def _attention_back(self, kept: dict[str, Array], mixed: Array, by: dict[str, Array]) -> None:
        shape, w, tokens = self.shape, self.weights, len(mixed)
        split = mixed.reshape(tokens, shape.heads, shape.head_width).transpose(1, 0, 2)
        p = kept["p"]
        by["attn_v"] = self._gather(p.transpose(0, 2, 1) @ split)
        dp = split @ self._spread(kept["v"]).transpose(0, 2, 1)
        scores = p * (dp - (dp * p).sum(-1, keepdims=True))
        scores *= np.float32(shape.head_width**-0.5)
        q = (scores @ self._spread(kept["k"])).transpose(1, 0, 2)
        k = self._gather(scores.transpose(0, 2, 1) @ kept["q"].transpose(1, 0, 2))
        for name, turned in (("q", q), ("k", k.reshape(tokens, -1, shape.head_width))):
            flat = self._rotate(turned, forward=False)
            if f"attn_{name}_norm.weight" in w:
                norm = w[f"attn_{name}_norm.weight"]
                flat = norm_back(flat, kept[f"{name}0"], kept[f"r{name}"], norm)
            by[f"attn_{name}"] = flat.reshape(tokens, -1)

    def _attention(self, q: Array, k: Array) -> Array:
        """[heads, tokens, tokens] how much each token looks at each."""
        scores: Array = q.transpose(1, 0, 2) @ self._spread(k).transpose(0, 2, 1)
        scores *= np.float32(self.shape.head_width**-0.5)
        scores += self._mask
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        return scores

    def _spread(self, kv: Array) -> Array:
        """[tokens, kv heads, head] to [heads, tokens, head]."""
        return np.repeat(kv.transpose(1, 0, 2), self.shape.heads // self.layer.kv_heads, 0)

    def _gather(self, spread: Array) -> Array:
        """The transpose of `_spread`: [heads, tokens, head] to [tokens, kv heads * head]."""
        _, tokens, size = spread.shape
        grouped = spread.reshape(self.layer.kv_heads, -1, tokens, size).sum(1)
        return np.ascontiguousarray(grouped.transpose(1, 0, 2)).reshape(tokens, -1)

    def _rotate(self, x: Array, *, forward: bool) -> Array:
        """Turn each pair of [tokens, heads, head] by its position's angle, or back."""
        cos, sin = self._cos[:, None, :], self._sin[:, None, :]
        sin = sin if forward else -sin
        out = np.empty_like(x)
        if self.shape.architecture in _INTERLEAVED:
            a, b = x[..., 0::2], x[..., 1::2]
            out[..., 0::2], out[..., 1::2] = a * cos - b * sin, a * sin + b * cos
        else:
            half = x.shape[-1] // 2
            a, b = x[..., :half], x[..., half:]
            out[..., :half], out[..., half:] = a * cos - b * sin, a * sin + b * cos
        return out


def _rotation(shape: Shape, length: int, *, local: bool) -> tuple[Array, Array]:
    half = shape.head_width // 2
    base = shape.base_local if local else shape.base
    scale = 1.0 if local else shape.scale
    frequency = base ** (-np.arange(half, dtype=np.float64) / half) * scale
    if shape.rope_factors is not None:
        frequency = frequency / shape.rope_factors
    angle = np.arange(length)[:, None] * frequency
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def norm(x: Array, weight: Array, epsilon: float) -> tuple[Array, Array]:
    """Root-mean-square norm over the last axis, and the factors it divided by, inverted."""
    inverse = 1 / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(epsilon))
    return x * inverse * weight, inverse


def norm_back(gradient: Array, x: Array, inverse: Array, weight: Array) -> Array:
    """From the gradient by what `norm` gave to that by `x`."""
    scaled = gradient * weight
    along = (scaled * x).mean(-1, keepdims=True)
    result: Array = inverse * scaled - x * (inverse**3 * along)
    return result


def _silu(x: Array) -> tuple[Array, Array]:
    """The function and its slope."""
    sigmoid = 1 / (1 + np.exp(-np.maximum(x, _LEAST_EXPONENT)))
    value = x * sigmoid
    return value, sigmoid + value * (1 - sigmoid)


def _gelu(x: Array) -> tuple[Array, Array]:
    """The tanh form, and its slope."""
    root, cubic = np.float32(0.7978845608028654), np.float32(0.044715)
    inner = np.tanh(root * (x + cubic * x**3))
    slope = 0.5 * (1 + inner) + 0.5 * x * (1 - inner**2) * root * (1 + 3 * cubic * x**2)
    return 0.5 * x * (1 + inner), slope
