"""How much memory a loaded model will occupy, from its header alone.

    weights    the tensors' bytes: mapped from the file and read for every token
    KV cache   per layer: cells x (key + value) x KV heads, in the type asked for
    compute    activations and attention masks of one micro-batch
    overhead   Python, numpy and llama.cpp, the vocabulary's tables, the file's own header

The KV cache is llama.cpp's to the byte for llama, qwen2, qwen3, gemma2 and gemma3, and for other
families whose layers all keep keys and values. Sliding windows are counted where the file says
which layers have one, or the family is gemma2 or gemma3; elsewhere, and for families that share a
cache between layers (gemma3n) or compress it (deepseek2), the plan is an upper bound. The fixed
state of recurrent layers (mamba, rwkv, the linear attention of qwen3next) is not counted.

Compute and overhead are fits to what stays resident
after a prefill (`/proc/self/smaps_rollup`, x86-64 Linux, llama-cpp-python 0.3.36, SmolLM2-135M
and Gemma-3-270M, micro-batches of 64, 128 and 512 tokens). llama.cpp *reserves* logits for a
whole micro-batch (n_ubatch x vocabulary x 4 bytes: 512 MiB for Gemma 3), but only the rows
asked for are ever touched, and memory that was never touched is not resident.

Not counted: a CPU backend that repacks tensors keeps a second copy of them; the first, in the
file's mapping, is never read again and the system drops it when it needs room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeslm.errors import InvalidGGUF
from edgeslm.gguf.arrays import Array
from edgeslm.gguf.reader import Header
from edgeslm.gguf.types import kv_tensor_type
from edgeslm.records import MemoryPlan

_CELLS = 256
"""llama.cpp rounds a cache up to a multiple of this many tokens."""

_PROCESS_BYTES = 43_000_000
"""Python, numpy and llama_cpp once imported."""
_GRAPH_BYTES = 5_000_000
"""Compute graphs, scheduler and the code pages that decoding touches."""
_TOKEN_BYTES = 170
_MERGE_BYTES = 200
"""llama.cpp's tables per vocabulary entry and per BPE merge."""

_WINDOW_PATTERNS: Mapping[str, int] = {"gemma2": 2, "gemma3": 6}
"""Every n-th layer sees the whole context; the rest have a sliding window (`src/models/*.cpp`)."""
_FULL_INTERVALS: Mapping[str, int] = {
    "minimax-01": 8,
    "qwen3next": 4,
    "qwen35": 4,
    "qwen35moe": 4,
    "qwen4exp": 4,
}
"""Every n-th layer keeps keys and values; the rest are recurrent (`src/models/*.cpp`)."""
_RECURRENT = frozenset({"arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"})
"""Families without any keys and values (`llm_arch_is_recurrent`)."""
_DEFAULT_WINDOWS: Mapping[str, int] = {"gemma2": 4096}


@dataclass(frozen=True)
class Layer:
    """What one layer keeps per token; `window` is None where it keeps the whole context."""

    kv_heads: int
    key_length: int
    value_length: int
    window: int | None


def plan_memory(
    header: Header,
    *,
    context_length: int,
    kv_type: str = "F16",
    ubatch: int = 512,
) -> MemoryPlan:
    """Predict the memory that is resident once the model has answered a long prompt.

    Args:
        header: The model.
        context_length: Tokens the KV cache holds.
        kv_type: Tensor type of the cached keys and values.
        ubatch: Tokens computed at once during prefill.

    Raises:
        InvalidGGUF: the header lacks a hyperparameter the plan needs.
        InvalidOption: `kv_type` is no tensor type.
    """
    cells = _padded(context_length)
    return MemoryPlan(
        weights_bytes=sum(tensor.bytes for tensor in header.tensors),
        kv_bytes=kv_bytes(header, context_length=context_length, kv_type=kv_type, ubatch=ubatch),
        compute_bytes=_compute_bytes(header, cells, min(ubatch, cells)),
        overhead_bytes=_overhead_bytes(header),
    )


def weights_budget(
    header: Header, ram_bytes: int, *, context_length: int, kv_type: str = "F16", ubatch: int = 512
) -> int:
    """What a memory budget leaves for the tensors of the model of `header`; below 0 if nothing.

    With that many bytes of tensors, `plan_memory` comes to `ram_bytes` in all.
    """
    plan = plan_memory(header, context_length=context_length, kv_type=kv_type, ubatch=ubatch)
    return ram_bytes - (plan.total_bytes - plan.weights_bytes)


def kv_bytes(header: Header, *, context_length: int, kv_type: str, ubatch: int) -> int:
    """Bytes of the KV cache as llama.cpp allocates it, for one sequence."""
    kind = kv_tensor_type(kv_type)
    cells = _padded(context_length)
    total = 0
    for layer in layers(header):
        kept = cells if layer.window is None else min(cells, _padded(layer.window + ubatch))
        for length in (layer.key_length, layer.value_length):
            width = layer.kv_heads * length
            if width:
                total += kind.bytes_for((_padded(width, kind.block_elements), kept))
    return total


def layers(header: Header) -> tuple[Layer, ...]:
    """What each layer of the model keeps in the KV cache, first layer first."""
    count = _count(header, "block_count")
    heads = _per_layer(header, "attention.head_count", count, least=0)
    kv_heads = _per_layer(header, "attention.head_count_kv", count, fallback=heads, least=0)
    width = _count(header, "embedding_length")
    full = _lengths(header, "", (width // max(*heads, 1),) * 2)
    swa = _lengths(header, "_swa", full)
    recurrent = _recurrent(header, count)
    return tuple(
        Layer(
            0 if recurrent[index] else kv_heads[index],
            *(full if window is None else swa),
            window,
        )
        for index, window in enumerate(_windows(header, count))
    )


def _lengths(header: Header, suffix: str, default: tuple[int, int]) -> tuple[int, int]:
    """Numbers in one key and one value; `suffix` "_swa" in layers with a window."""
    return (
        int(header.hyper(f"attention.key_length{suffix}", default[0])),
        int(header.hyper(f"attention.value_length{suffix}", default[1])),
    )


def _recurrent(header: Header, count: int) -> list[bool]:
    """Which layers keep a fixed state in place of keys and values."""
    family = header.architecture or ""
    listed = header.hyper("attention.recurrent_layers")
    if isinstance(listed, (tuple, list)) and len(listed) >= count:
        return [bool(item) for item in listed]
    interval = int(header.hyper("full_attention_interval", _FULL_INTERVALS.get(family, 1)))
    return [family in _RECURRENT or (index + 1) % interval != 0 for index in range(count)]


def _windows(header: Header, count: int) -> tuple[int | None, ...]:
    """The sliding window of each layer, None where it sees everything."""
    family = header.architecture or ""
    window = header.hyper("attention.sliding_window", _DEFAULT_WINDOWS.get(family))
    pattern: Any = header.hyper("attention.sliding_window_pattern", _WINDOW_PATTERNS.get(family))
    if not window or pattern is None:
        return (None,) * count
    if isinstance(pattern, (tuple, list)):
        slides = [bool(item) for item in pattern] + [False] * count
    else:
        slides = [pattern == 0 or index % pattern < pattern - 1 for index in range(count)]
    return tuple(int(window) if slides[index] else None for index in range(count))


def _compute_bytes(header: Header, cells: int, ubatch: int) -> int:
    """Activations and masks of one micro-batch, and two rows of logits.

    Per token: three hidden states, two feed-forward states and the queries that go beyond the
    hidden size, in F32; a mask in F32 and F16 for each kind of attention.
    """
    width = _count(header, "embedding_length")
    feed_forward = max(_per_layer(header, "feed_forward_length", 1, fallback=[4 * width]))
    masks = len({layer.window is None for layer in layers(header)})
    per_token = 4 * (3 * width + 2 * feed_forward) + masks * 6 * cells
    return ubatch * per_token + 2 * 4 * _vocabulary(header)


def _overhead_bytes(header: Header) -> int:
    merges = header.metadata.get("tokenizer.ggml.merges")
    merge_count = len(merges) if isinstance(merges, (tuple, list, Array)) else 0
    tables = _TOKEN_BYTES * _vocabulary(header) + _MERGE_BYTES * merge_count
    return _PROCESS_BYTES + _GRAPH_BYTES + tables + header.data_offset


def _vocabulary(header: Header) -> int:
    """Rows of the token embedding, else of the metadata's list of tokens."""
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight" and len(tensor.shape) > 1:
            return tensor.shape[1]
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if isinstance(tokens, (tuple, list, Array)) else 0


def _count(header: Header, name: str, least: int = 1) -> int:
    value = header.hyper(name)
    if not isinstance(value, int) or value < least:
        raise InvalidGGUF(
            f"{header.path}: {header.architecture}.{name} is missing or no number from {least} on",
            hint="Convert the model again; without it no memory plan can be made.",
        )
    return value


def _per_layer(
    header: Header, name: str, count: int, *, fallback: list[int] | None = None, least: int = 1
) -> list[int]:
    """A hyperparameter that is one number for all layers or an array with one for each."""
    value = header.hyper(name)
    if value is None and fallback is not None:
        return fallback
    if isinstance(value, (tuple, list)) and len(value) >= count:
        return [int(item) for item in value]
    return [_count(header, name, least)] * count


def _padded(value: int, multiple: int = _CELLS) -> int:
    return -(-value // multiple) * multiple
