"""What one token costs, whatever the machine: bytes to read, numbers to multiply, steps to take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from edgeslm.estimate.cache import layers, per_layer, whole
from edgeslm.gguf.reader import Header
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
        attended: Multiplications of attention per token before it.
        windows: For each layer, how many tokens back it sees; None for all.
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
    read: Counter[str] = Counter()
    multiplied: Counter[str] = Counter()
    prompt: Counter[str] = Counter()
    share = _experts_used(header)
    untied = any(tensor.name == _HEAD for tensor in header.tensors)
    for tensor in header.tensors:
        if tensor.name in _LOOKED_UP or (untied and tensor.name == _EMBEDDING):
            continue
        part = share if "_exps." in tensor.name else 1.0
        read[tensor.type.name] += round(part * tensor.bytes)
        if len(tensor.shape) > 1:
            multiplied[tensor.type.name] += round(part * tensor.elements)
            if tensor.name not in (_EMBEDDING, _HEAD):
                prompt[tensor.type.name] += round(part * tensor.elements)
    kept = layers(header)
    heads = per_layer(header, "attention.head_count", len(kept), least=0)
    cached: Counter[int | None] = Counter()
    attended: Counter[int | None] = Counter()
    for layer, count in zip(kept, heads, strict=True):
        if layer.kv_heads:
            numbers = layer.key_length + layer.value_length
            cached[layer.window] += 2 * layer.kv_heads * numbers
            attended[layer.window] += count * numbers
    return Work(dict(read), dict(multiplied), dict(prompt), len(kept), dict(cached), dict(attended))


def _experts_used(header: Header) -> float:
    """The part of its experts that a token goes through."""
    count = whole(header, "expert_count")
    used = header.hyper("expert_used_count")
    most = max(used) if isinstance(used, tuple) and used else used
    return min(most / count, 1.0) if count and isinstance(most, int) and most > 0 else 1.0


def _seen(window: int | None, depth: float) -> float:
    return depth if window is None else min(depth, window)
