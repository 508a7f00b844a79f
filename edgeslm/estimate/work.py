"""What one token costs, whatever the machine: bytes to read, numbers to multiply, steps to take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from edgeslm.estimate.cache import layers, per_layer, whole
from edgeslm.gguf.reader import Header, TensorInfo
from edgeslm.gguf.types import kv_tensor_type

_LOOKED_UP = ("position_embd.weight", "token_types.weight", "per_layer_token_embd.weight")
_EMBEDDING = "token_embd.weight"
_HEAD = "output.weight"


@dataclass(frozen=True)
class Work:
    """What a model asks of a machine.

    Attributes:
        read: Bytes of matrices that one generated token reads, by type.
        multiplied: Weights it is multiplied with, by type.
        prompt: Weights each token of a prompt is multiplied with, by type: no head.
        layers: Blocks; at each, threads wait for each other a few times.
        cached: Bytes of cache that a generated token reads per token before it, in F16.
        attended: Multiplications of attention per token before it. Both for each number of tokens
            that a layer looks back; None for all.
    """

    read: Mapping[str, int]
    multiplied: Mapping[str, int]
    prompt: Mapping[str, int]
    layers: int
    cached: Mapping[int | None, int]
    attended: Mapping[int | None, int]

    def cache_bytes(self, depth: float, kv_type: str = "F16") -> float:
        """Bytes of cache that a token reads after `depth` others."""
        bits = kv_tensor_type(kv_type).bits_per_weight / 16
        return bits * sum(count * _seen(window, depth) for window, count in self.cached.items())

    def attention(self, depth: float) -> float:
        """Multiplications of attention of a token after `depth` others."""
        return sum(count * _seen(window, depth) for window, count in self.attended.items())


def work_of(header: Header) -> Work:
    """What the model of `header` asks for.

    Raises:
        InvalidGGUF: the header lacks a hyperparameter.
    """
    kept = layers(header)
    heads = per_layer(header, "attention.head_count", len(kept), least=0)
    cached: Counter[int | None] = Counter()
    attended: Counter[int | None] = Counter()
    for layer, count in zip(kept, heads, strict=True):
        if layer.kv_heads:
            numbers = layer.key_length + layer.value_length
            cached[layer.window] += 2 * layer.kv_heads * numbers
            attended[layer.window] += count * numbers
    multiplied, prompt = _weights(header)
    return Work(
        dict(bytes_read_per_token(header)),
        dict(multiplied),
        dict(prompt),
        len(kept),
        dict(cached),
        dict(attended),
    )


def prompt_weights(header: Header) -> int:
    """Weights that each token of a prompt is multiplied with, whatever their type."""
    return sum(_weights(header)[1].values())


def bytes_read_per_token(header: Header) -> Counter[str]:
    """Bytes of weights that generating one token reads, by tensor type name.

    Of a mixture's experts those count that a token goes through; an embedding that is not the head
    too is looked up, and not read.
    """
    shares = shares_read(header)
    counts: Counter[str] = Counter()
    for tensor in header.tensors:
        if share := shares[tensor.name]:
            counts[tensor.type.name] += round(tensor.bytes * share)
    return counts


def shares_read(header: Header) -> dict[str, float]:
    """For each tensor the part of it that generating one token reads, whatever its type.

    None of what is looked up (0), of a mixture's experts those that a token goes through, all of
    the rest (1).
    """
    looked_up = set(_LOOKED_UP)
    if any(tensor.name == _HEAD for tensor in header.tensors):
        looked_up.add(_EMBEDDING)
    used = _experts_used(header)
    return {
        tensor.name: 0.0 if tensor.name in looked_up else used if _is_expert(tensor) else 1.0
        for tensor in header.tensors
    }


def _weights(header: Header) -> tuple[Counter[str], Counter[str]]:
    """Weights that a generated token, and each token of a prompt, is multiplied with."""
    shares = shares_read(header)
    generated: Counter[str] = Counter()
    prompt: Counter[str] = Counter()
    for tensor in header.tensors:
        share = shares[tensor.name]
        if share and len(tensor.shape) > 1:
            count = round(tensor.elements * share)
            generated[tensor.type.name] += count
            if tensor.name not in (_EMBEDDING, _HEAD):
                prompt[tensor.type.name] += count
    return generated, prompt


def _is_expert(tensor: TensorInfo) -> bool:
    return "_exps." in tensor.name


def _experts_used(header: Header) -> float:
    """The part of its experts that a token goes through."""
    count = whole(header, "expert_count")
    used = header.hyper("expert_used_count")
    most = max(used) if isinstance(used, tuple) and used else used
    return min(most / count, 1.0) if count and isinstance(most, int) and most > 0 else 1.0


def _seen(window: int | None, depth: float) -> float:
    return depth if window is None else min(depth, window)
