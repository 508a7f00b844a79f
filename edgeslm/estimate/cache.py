"""What a model keeps of the tokens it has read, layer by layer, from its header.

    attention            a key and a value per token and KV head, in the type asked for
    ... with a window    the same, for no more cells than its window and a micro-batch need
    recurrent layers     one state per sequence in F32, however long the text is

Where the file leaves it to the family, this follows llama.cpp 0c1e57098 (`src/models/*.cpp`,
`llama_model::create_memory`). It is llama.cpp's allocation to the byte for the families that
edgeslm converts, for hybrids (LFM2, Granite 4, Falcon-H1, Jamba, Nemotron-H, Qwen3-Next), for
caches that layers share (Gemma 3n, 4) or compress (DeepSeek 2), and for those whose layers all
keep keys and values. Where it knows of no window, it counts the whole context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeslm.errors import InvalidGGUF
from edgeslm.gguf.reader import Header
from edgeslm.gguf.types import kv_tensor_type, padded
from edgeslm.gguf.validation import MAX_BLOCKS

CELLS = 256
"""llama.cpp rounds a cache up to a multiple of this many tokens."""
_MOST = 2**30
"""Beyond any real width, window or count."""

_WINDOW_PATTERNS: Mapping[str, int] = {
    "afmoe": 4,
    "cohere2": 4,
    "cohere2moe": -4,
    "exaone-moe": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "laguna": -4,
    "lfm2": 0,
    "lfm2moe": 0,
    "llama4": 4,
    "mellum": 4,
    "muse-glimmer": 4,
    "olmo2": 4,
    "plamo3": 8,
    "smallthinker": -4,
}
"""Every n-th layer sees the whole context, the last of n, or the first where n is below 0; the
rest have a sliding window. 0: all have one."""
_DEFAULT_WINDOWS: Mapping[str, int] = {"gemma2": 4096}
_FIXED_WINDOWS: Mapping[str, int] = {"llama4": 8192, "smallthinker": 4096}
"""Families whose window is this wide wherever the file states another."""
_IGNORED_WINDOWS = frozenset({"phi3"})

_FULL_INTERVALS: Mapping[str, int] = {
    "minimax-01": 8,
    "qwen3next": 4,
    "qwen35": 4,
    "qwen35moe": 4,
    "qwen4exp": 4,
}
"""Every n-th layer keeps keys and values; the rest are recurrent."""
_RECURRENT = frozenset({"arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"})
"""Families without any keys and values (`llm_arch_is_recurrent`)."""
_BOTH = frozenset({"falcon-h1"})
"""Families whose layers all have keys, values and a state."""
_RECURRENT_WITHOUT_HEADS = frozenset(
    {
        "bailingmoe3",
        "glm5-next",
        "granitehybrid",
        "jamba",
        "kimi-k3",
        "kimi-linear",
        "lfm2",
        "lfm2moe",
        "nemotron_h",
        "nemotron_h_moe",
        "plamo2",
    }
)
"""Families in which a layer without KV heads is recurrent."""
_SHARED_FROM: Mapping[str, int] = {"gemma3n": 20}
"""The layers from this one on use what an earlier one keeps."""
_MEMORYLESS = frozenset(
    {
        "bert",
        "dream",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llada",
        "llada-moe",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "rnd1",
        "wavtokenizer-dec",
    }
)
"""Families that see the whole text at once, and keep nothing."""


@dataclass(frozen=True)
class Layer:
    """What one layer keeps.

    Attributes:
        kv_heads: Heads of keys and values, 0 where it keeps none.
        key_length: Numbers in one key.
        value_length: Numbers in one value.
        window: How many tokens back it sees; None where it sees, and keeps, the whole context.
        state: Numbers of its recurrent state, per sequence.
    """

    kv_heads: int
    key_length: int
    value_length: int
    window: int | None
    state: int = 0


def kv_bytes(
    header: Header, *, context_length: int, kv_type: str, ubatch: int, sequences: int = 1
) -> int:
    """Bytes of cache and states as llama.cpp allocates them.

    Args:
        header: The model.
        context_length: Tokens of all sequences together.
        kv_type: Type of keys and values.
        ubatch: Tokens computed at once.
        sequences: How many there are, each with a part of its own.
    """
    kind = kv_tensor_type(kv_type)
    total = 0
    for layer in layers(header):
        cells = sequences * cells_for(
            layer.window, context_length=context_length, ubatch=ubatch, sequences=sequences
        )
        for length in (layer.key_length, layer.value_length):
            if width := layer.kv_heads * length:
                total += kind.bytes_for((padded(width, kind.block_elements), cells))
        total += 4 * layer.state * sequences
    return total


def cells_for(window: int | None, *, context_length: int, ubatch: int, sequences: int) -> int:
    """Cells of one sequence in a layer with such a window, or without; arguments as above."""
    whole_context = padded(context_length, CELLS)
    cells = padded(whole_context // sequences, CELLS)
    if window is None:
        return cells
    # llama.cpp never computes more at once than the whole context
    return padded(min(cells, window + min(ubatch, sequences * cells)), CELLS)


def can_hold(header: Header, kv_type: str) -> bool:
    """Whether llama.cpp takes a cache in that type: its blocks must fit into a head."""
    block = kv_tensor_type(kv_type).block_elements
    return all(
        layer.key_length % block == 0 and layer.value_length % block == 0
        for layer in layers(header)
        if layer.kv_heads
    )


def layers(header: Header) -> tuple[Layer, ...]:
    """What each layer of the model keeps, first layer first."""
    family = header.architecture or ""
    count = count_of(header, "block_count") - _extra_layers(header)
    if count > MAX_BLOCKS:
        raise InvalidGGUF(
            f"{header.path}: {count} blocks", hint=f"llama.cpp knows at most {MAX_BLOCKS}."
        )
    heads = per_layer(header, "attention.head_count", count, least=0)
    kv_heads = per_layer(header, "attention.head_count_kv", count, fallback=heads, least=0)
    width = count_of(header, "embedding_length")
    full = _lengths(header, "", (width // max(*heads, 1),) * 2)
    windowed = _lengths(header, "_swa", full)
    recurrent = _recurrent(header, kv_heads)
    windows = _windows(header, count)
    shared_from = _shared_from(header, count)
    kept = []
    for index in range(count):
        attends = family in _BOTH or not recurrent[index]
        none = not attends or family in _MEMORYLESS or index >= shared_from
        lengths = full if windows[index] is None else windowed
        state = _state(header, width, heads[index]) if recurrent[index] else 0
        kept.append(Layer(0 if none else kv_heads[index], *lengths, windows[index], state))
    return tuple(kept)


def _extra_layers(header: Header) -> int:
    """Blocks that predict further tokens; nothing is kept for them unless they are asked for."""
    count = whole(header, "nextn_predict_layers")
    return count if count < count_of(header, "block_count") else 0


def _lengths(header: Header, suffix: str, default: tuple[int, int]) -> tuple[int, int]:
    """Numbers in one key and one value; `suffix` "_swa" in layers with a window.

    Where both are compressed, only what stands in the key's place is kept.
    """
    compressed = header.hyper(f"attention.key_length_mla{suffix}")
    return (
        whole(header, f"attention.key_length{suffix}", default[0]),
        0 if compressed else whole(header, f"attention.value_length{suffix}", default[1]),
    )


def _recurrent(header: Header, kv_heads: list[int]) -> list[bool]:
    """Which layers have a state."""
    family, count = header.architecture or "", len(kv_heads)
    if family in _RECURRENT or family in _BOTH:
        return [True] * count
    if family in _RECURRENT_WITHOUT_HEADS:
        inner = per_layer(header, "feed_forward_length", count, fallback=[0] * count, least=0)
        plain = family.startswith("nemotron_h")
        return [not kv_heads[i] and not (plain and inner[i]) for i in range(count)]
    listed = header.hyper("attention.recurrent_layers")
    if isinstance(listed, (tuple, list)) and len(listed) >= count:
        return [bool(item) for item in listed[:count]]
    interval = whole(header, "full_attention_interval", _FULL_INTERVALS.get(family, 1))
    return [interval > 0 and (index + 1) % interval != 0 for index in range(count)]


def _state(header: Header, width: int, heads: int) -> int:
    """Numbers in the state of a recurrent layer (`llama_hparams::n_embd_r`, `n_embd_s`)."""

    def number(name: str, default: int = 0) -> int:
        return whole(header, name, default)

    if head := number("wkv.head_size"):
        return width * (number("token_shift_count", 2) + head)
    if length := number("shortconv.l_cache"):
        return width * (length - 1)
    before = max(number("ssm.conv_kernel") - 1, 0)
    if head := number("kda.head_dim"):
        return 3 * (before or 3) * heads * head + head * head * heads
    if header.architecture == "minimax-01":
        return number("attention.key_length") ** 2 * heads
    inner, states = number("ssm.inner_size"), number("ssm.state_size")
    return before * (inner + 2 * number("ssm.group_count") * states) + inner * states


def _windows(header: Header, count: int) -> tuple[int | None, ...]:
    """The sliding window of each layer, None where it sees everything."""
    family = header.architecture or ""
    window = whole(header, "attention.sliding_window", _DEFAULT_WINDOWS.get(family, 0))
    pattern = header.hyper("attention.sliding_window_pattern")
    if not isinstance(pattern, (tuple, list)) and pattern is not None:
        pattern = count_of(header, "attention.sliding_window_pattern", least=0)
    pattern = _WINDOW_PATTERNS.get(family) if pattern is None else pattern
    if not window or pattern is None or family in _IGNORED_WINDOWS:
        return (None,) * count
    if isinstance(pattern, (tuple, list)):
        slides = [bool(item) for item in pattern] + [False] * count
    else:
        unlimited = 0 if _WINDOW_PATTERNS.get(family, 0) < 0 else abs(pattern) - 1
        slides = [pattern == 0 or index % abs(pattern) != unlimited for index in range(count)]
    width = int(_FIXED_WINDOWS.get(family, window))
    return tuple(width if slides[index] else None for index in range(count))


def _shared_from(header: Header, count: int) -> int:
    """The first layer that keeps nothing of its own."""
    if header.architecture == "gemma4":
        return count - whole(header, "attention.shared_kv_layers")
    return _SHARED_FROM.get(header.architecture or "", count)


def count_of(header: Header, name: str, least: int = 1) -> int:
    """A hyperparameter that is a whole number.

    Raises:
        InvalidGGUF: it is missing, less than `least`, or beyond any real size.
    """
    value = header.hyper(name)
    if not isinstance(value, int) or not least <= value <= _MOST:
        raise InvalidGGUF(
            f"{header.path}: {header.architecture}.{name} is missing or no number from {least} on",
            hint="Convert the model again; without it no memory plan can be made.",
        )
    return value


def whole(header: Header, name: str, default: int = 0) -> int:
    """A hyperparameter that is a whole number if it is there; fails as `count_of` does."""
    return default if header.hyper(name) is None else count_of(header, name, least=0)


def per_layer(
    header: Header, name: str, count: int, *, fallback: list[int] | None = None, least: int = 1
) -> list[int]:
    """A hyperparameter that is one number for all layers or an array with one for each."""
    value = header.hyper(name)
    if value is None and fallback is not None:
        return fallback
    if isinstance(value, (tuple, list)) and len(value) >= count:
        items = [int(item) for item in value if isinstance(item, int) and 0 <= item <= _MOST]
        if len(items) == len(value):
            return items
    return [count_of(header, name, least)] * count
