"""How much memory a loaded model will occupy, from its header alone.

    weights    the tensors' bytes: mapped from the file and read for every token
    copied     tensors of which llama.cpp keeps a second, interleaved copy on this processor
    KV cache   keys, values and recurrent states, see `cache`
    compute    activations and attention masks of one micro-batch, and a row of logits per sequence
    overhead   Python and its libraries, llama.cpp, the vocabulary's tables, the file's own header

The plan is the peak of resident memory (`VmHWM`) of a process that loads the model, fills its
context with prompts and answers. KV cache and copies are llama.cpp's allocations to the byte;
compute is that of a decoder with attention and a gated feed-forward part, and an estimate for
others. Overhead is a fit to processes on x86-64 Linux with Python 3.11 and llama-cpp-python
0.3.36 (`scripts/bench_memory` measures what is left of it: the plan's error).

llama.cpp *reserves* more rows of logits than are wanted at a time, in the compute buffer and
beside it. Only rows that are asked for are ever touched, and memory that was never touched is
not resident, so only those count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

from edgeslm.estimate.cache import (
    Layer,
    cells_for,
    count_of,
    kv_bytes,
    layers,
    per_layer,
    whole,
)
from edgeslm.gguf.arrays import Array
from edgeslm.gguf.reader import Header, TensorInfo
from edgeslm.records import MemoryPlan

PROCESS_BYTES = 47_900_000
"""What `edgeslm run` has before it opens a model: Python, numpy, typer, llama_cpp."""
SERVER_BYTES = 11_000_000
"""What `edgeslm serve` has beyond that."""
_GRAPH_BYTES = 6_000_000
"""Compute graphs, scheduler and the code pages that decoding touches."""
_TOKEN_BYTES = 160
_MERGE_BYTES = 200
"""llama.cpp's tables per vocabulary entry and per BPE merge."""
_CELL_BYTES = 200
"""What llama.cpp and the scheduler note of each token in the cache."""
_QUANTIZED_ACTIVATION = 1.125
"""Bytes of one activation as it is multiplied with quantized weights."""
_LOGIT_BYTES = 4 + 4
"""Per sequence and vocabulary entry: a logit as computed, and as handed out."""
_CANDIDATE_BYTES = 12
"""Per vocabulary entry: answers are chosen for one after the other."""


_ARM_4 = (("i8mm", 4), ("asimddp", 4))
_ARM_8 = (("i8mm", 8), ("asimddp", 8))
_INTERLEAVED: Mapping[str, tuple[tuple[str, int], ...]] = {
    "IQ4_NL": (("avx2", 8), ("asimddp", 4)),
    "MXFP4": (("avx2", 8), ("asimddp", 4)),
    "Q1_0": _ARM_4,
    "Q2_K": (("avx512f", 8),),
    "Q4_0": (("avx2", 8), *_ARM_4),
    "Q4_K": (("avx2", 8), *_ARM_8),
    "Q5_K": _ARM_8,
    "Q6_K": _ARM_8,
    "Q8_0": _ARM_4,
}
"""Tensor types that llama.cpp copies into an interleaved form, the processor's feature that makes
it (as Linux names it), and of what the rows must be a multiple
(`ggml_repack_get_optimal_repack_type`)."""
_LOOKED_UP = ("token_embd.weight", "position_embd.weight", "token_types.weight")
"""Tensors of which single rows are read; they are multiplied with nothing."""


def plan_memory(
    header: Header,
    *,
    context_length: int,
    kv_type: str = "F16",
    ubatch: int = 512,
    sequences: int = 1,
    rows: int = 1,
    features: Collection[str] = (),
) -> MemoryPlan:
    """Predict the most memory that is resident while the model answers long prompts.

    Args:
        header: The model.
        context_length: Tokens the KV cache holds, of all sequences together.
        kv_type: Tensor type of the cached keys and values.
        ubatch: Tokens computed at once during prefill.
        sequences: Answers at a time, each with its part of the cache.
        rows: Rows of logits that one decode may give, as guessing ahead needs several.
        features: The processor's, as Linux names them; without, no tensors count as copied.

    Raises:
        InvalidGGUF: the header lacks a hyperparameter the plan needs.
        InvalidOption: `kv_type` is no tensor type.
    """
    kept = layers(header)

    def cells(window: int | None = None) -> int:
        return cells_for(window, context_length=context_length, ubatch=ubatch, sequences=sequences)

    most = sequences * cells()
    seen = sum(map(cells, {layer.window for layer in kept if layer.kv_heads}))
    return MemoryPlan(
        weights_bytes=sum(tensor.bytes for tensor in header.tensors),
        kv_bytes=kv_bytes(
            header,
            context_length=context_length,
            kv_type=kv_type,
            ubatch=ubatch,
            sequences=sequences,
        ),
        compute_bytes=_compute_bytes(header, kept, seen, min(ubatch, most), sequences)
        + 4 * max(0, rows - sequences) * _vocabulary(header),
        overhead_bytes=_overhead_bytes(header) + _CELL_BYTES * most,
        copied_bytes=copied_bytes(header, features),
    )


def together(plans: Iterable[MemoryPlan]) -> MemoryPlan:
    """The plan of one process that holds several models."""
    plans = tuple(plans)
    sums = {
        field.name: sum(getattr(plan, field.name) for plan in plans)
        for field in dataclasses.fields(MemoryPlan)
    }
    sums["overhead_bytes"] -= PROCESS_BYTES * (len(plans) - 1)
    return MemoryPlan(**sums)


def weights_budget(
    header: Header, ram_bytes: int, *, context_length: int, kv_type: str = "F16", ubatch: int = 512
) -> int:
    """What a memory budget leaves for the tensors of the model of `header`; below 0 if nothing.

    With that many bytes of tensors, `plan_memory` comes to `ram_bytes` in all.
    """
    plan = plan_memory(header, context_length=context_length, kv_type=kv_type, ubatch=ubatch)
    return ram_bytes - (plan.total_bytes - plan.weights_bytes)


def copied_bytes(header: Header, features: Collection[str]) -> int:
    """Bytes of the tensors of which llama.cpp keeps an interleaved copy on such a processor.

    The originals, in the file's mapping, are resident once they were copied, and never read
    again: the system drops them when it needs room.
    """
    tied = all(tensor.name != "output.weight" for tensor in header.tensors)
    return sum(
        tensor.bytes
        for tensor in header.tensors
        if _is_copied(tensor, features)
        and (not tensor.name.endswith(_LOOKED_UP) or (tied and tensor.name == _LOOKED_UP[0]))
    )


def _is_copied(tensor: TensorInfo, features: Collection[str]) -> bool:
    return len(tensor.shape) > 1 and any(
        feature in features and tensor.shape[1] % rows == 0
        for feature, rows in _INTERLEAVED.get(tensor.type.name, ())
    )


def _compute_bytes(
    header: Header, kept: Sequence[Layer], seen: int, ubatch: int, sequences: int
) -> int:
    """Activations and masks of one micro-batch in the graph allocator's arrangement, and logits.

    The most is alive in the feed-forward part: per token three hidden states and three inner
    states in F32, beside the place that the queries, or a recurrent layer, left, where it is too
    small for an inner state. Or, where that is narrow, in the attention, or in a recurrent layer.
    A mask in F16 for each kind of attention, together as wide as the cells `seen`; activations once
    more in 8 bits, as quantized weights are multiplied with them.
    """
    width = count_of(header, "embedding_length")
    heads = max(per_layer(header, "attention.head_count", len(kept), least=0), default=0)
    queries = heads * max(layer.key_length for layer in kept)
    keys = max(layer.kv_heads * layer.key_length for layer in kept)
    inner = _inner_width(header, width, len(kept))
    recurrent = any(layer.state for layer in kept)
    left = whole(header, "ssm.inner_size") if recurrent else queries
    numbers = max(
        3 * width + 3 * inner + (left if inner > width + left else 0),
        3 * width + 2 * queries + keys,
        _recurrent_numbers(header, width) if recurrent else 0,
    )
    per_token = 4 * numbers + 2 * seen + _QUANTIZED_ACTIVATION * max(inner, width)
    choosing = (_LOGIT_BYTES * sequences + _CANDIDATE_BYTES) * _vocabulary(header)
    return round(ubatch * per_token) + choosing


def _inner_width(header: Header, width: int, count: int) -> int:
    """Numbers in the widest inner state of a feed-forward part, of all experts it uses."""
    dense = max(per_layer(header, "feed_forward_length", count, fallback=[4 * width], least=0))
    used = max(per_layer(header, "expert_used_count", count, fallback=[0], least=0))
    if not used:
        return dense
    expert = per_layer(header, "expert_feed_forward_length", count, fallback=[dense], least=0)
    shared = whole(header, "expert_shared_feed_forward_length")
    return max(used * max(expert), shared)


def _recurrent_numbers(header: Header, width: int) -> int:
    """Numbers per token of what a recurrent layer computes with: projected, convolved, gated."""
    if whole(header, "shortconv.l_cache"):
        return 7 * width
    inner = whole(header, "ssm.inner_size")
    beside = 2 * whole(header, "ssm.group_count") * whole(header, "ssm.state_size")
    return 3 * width + 11 * inner // 2 + 3 * beside


def _overhead_bytes(header: Header) -> int:
    merges = header.metadata.get("tokenizer.ggml.merges")
    merge_count = len(merges) if isinstance(merges, (tuple, list, Array)) else 0
    tables = _TOKEN_BYTES * _vocabulary(header) + _MERGE_BYTES * merge_count
    return PROCESS_BYTES + _GRAPH_BYTES + tables + header.data_offset


def _vocabulary(header: Header) -> int:
    """Rows of the token embedding, else of the metadata's list of tokens."""
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight" and len(tensor.shape) > 1:
            return tensor.shape[1]
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if isinstance(tokens, (tuple, list, Array)) else 0
