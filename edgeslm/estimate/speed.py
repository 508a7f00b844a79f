"""How fast a model should run on a target.

Decode reads every weight once per token, so its speed is memory bandwidth over bytes:

    seconds per token = sum over tensor types of bytes / the target's bytes per second, + KV cache

Read are all tensors but the token embedding, of which one row is looked up; where there is no
`output.weight` the embedding is also the output head and is read like the rest. The KV cache
counts at half the context, the mean depth of filling it once. Mixtures of experts read fewer
bytes than this counts: all experts are taken as read.

Prefill computes: 2 FLOP per weight and token (multiply, add). Embedding and head are left out
(a lookup, and only the last token's logits), and so is attention.
"""

from __future__ import annotations

from collections import Counter

from edgeslm.estimate.memory import kv_bytes
from edgeslm.gguf.reader import Header
from edgeslm.records import Figure, Provenance
from edgeslm.targets.target import Target

_EMBEDDING = "token_embd.weight"
_HEAD = "output.weight"


def decode_tokens_per_second(
    header: Header, target: Target, *, context_length: int = 2048, kv_type: str = "F16"
) -> Figure:
    """Tokens generated per second, at half of `context_length`.

    A figure without a value says in `source` what the target's file lacks.
    """
    by_type = bytes_read_per_token(header)
    seconds = 0.0
    used: list[str] = []
    for name, count in by_type.most_common():
        rate = target.decode_gigabytes_per_second(name)
        if rate.value is None:
            return _unknown(target, f"decode bandwidth (memory or kernels.{name})")
        seconds += count / (rate.value * 1e9)
        used.append(f"{name} {count / 1e6:.0f} MB at {rate.value:g} GB/s ({rate.source})")
    cache = kv_bytes(header, context_length=max(context_length // 2, 1), kv_type=kv_type, ubatch=1)
    rate = target.decode_gigabytes_per_second(kv_type)
    if rate.value is None:
        return _unknown(target, "decode bandwidth (memory)")
    seconds += cache / (rate.value * 1e9)
    used.append(f"KV cache at half of {context_length} tokens {cache / 1e6:.0f} MB")
    return Figure(
        1 / seconds if seconds else None,
        Provenance.ESTIMATED,
        f"bytes read per token / bandwidth of {target.id}: {'; '.join(used)}",
    )


def prefill_tokens_per_second(header: Header, target: Target) -> Figure:
    """Tokens of a prompt processed per second.

    A figure without a value says in `source` what the target's file lacks.
    """
    seconds = 0.0
    used: list[str] = []
    for name, weights in _matrix_weights(header).most_common():
        rate = target.prefill_gigaflops_for(name)
        if rate.value is None:
            return _unknown(target, f"prefill GFLOP/s (compute or kernels.{name})")
        seconds += 2 * weights / (rate.value * 1e9)
        used.append(f"{name} {weights / 1e6:.0f} M at {rate.value:g} GFLOP/s ({rate.source})")
    return Figure(
        1 / seconds if seconds else None,
        Provenance.ESTIMATED,
        f"2 FLOP per weight and token / GFLOP/s of {target.id}: {'; '.join(used)}",
    )


def bytes_read_per_token(header: Header) -> Counter[str]:
    """Bytes of weights that generating one token reads, by tensor type name."""
    tied = all(tensor.name != _HEAD for tensor in header.tensors)
    counts: Counter[str] = Counter()
    for tensor in header.tensors:
        if tied or tensor.name != _EMBEDDING:
            counts[tensor.type.name] += tensor.bytes
    return counts


def _matrix_weights(header: Header) -> Counter[str]:
    """Weights of the matrices that every prompt token is multiplied with, by type name."""
    counts: Counter[str] = Counter()
    for tensor in header.tensors:
        if len(tensor.shape) > 1 and tensor.name not in (_EMBEDDING, _HEAD):
            counts[tensor.type.name] += tensor.elements
    return counts


def _unknown(target: Target, what: str) -> Figure:
    return Figure(None, None, f"unknown: the file of {target.id} has no {what}")
