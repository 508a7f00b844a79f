"""From a checkpoint's config.json to the header that its GGUF file would have.

Nothing is read but the configuration, so that a model can be judged before it is downloaded. The
tensors have the names, shapes and order of llama.cpp's converter, in F16; what a vocabulary takes
is estimated from its size. Only what decides memory and speed is filled in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from edgeslm.errors import InvalidCheckpoint, Unsupported
from edgeslm.estimate.config import GEMMA3_DEFAULTS, Numbers, laid_over, read_config
from edgeslm.gguf.reader import Header, TensorInfo
from edgeslm.gguf.types import printable, tensor_type

_VOCABULARY_BYTES = 236
"""Per entry of a vocabulary: its text and type in the file, and its merge, there and in memory."""
_MOST_LAYERS = 512

_FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "ArceeForCausalLM": "arcee",
        "CohereForCausalLM": "command-r",
        "Ernie4_5ForCausalLM": "ernie4_5",
        "Exaone4ForCausalLM": "exaone4",
        "ExaoneForCausalLM": "exaone",
        "FalconForCausalLM": "falcon",
        "Gemma2ForCausalLM": "gemma2",
        "Gemma3ForCausalLM": "gemma3",
        "Gemma3ForConditionalGeneration": "gemma3",
        "GemmaForCausalLM": "gemma",
        "GlmForCausalLM": "chatglm",
        "GPT2LMHeadModel": "gpt2",
        "GPTNeoXForCausalLM": "gptneox",
        "GraniteForCausalLM": "granite",
        "GraniteMoeHybridForCausalLM": "granitehybrid",
        "HunYuanDenseV1ForCausalLM": "hunyuan-dense",
        "InternLM2ForCausalLM": "internlm2",
        "Lfm2ForCausalLM": "lfm2",
        "LlamaForCausalLM": "llama",
        "MiniCPMForCausalLM": "minicpm",
        "MistralForCausalLM": "llama",
        "Mistral3ForConditionalGeneration": "llama",
        "MixtralForCausalLM": "llama",
        "NemotronForCausalLM": "nemotron",
        "Olmo2ForCausalLM": "olmo2",
        "Olmo3ForCausalLM": "olmo2",
        "OlmoForCausalLM": "olmo",
        "PhiForCausalLM": "phi2",
        "Phi3ForCausalLM": "phi3",
        "Qwen2ForCausalLM": "qwen2",
        "Qwen2MoeForCausalLM": "qwen2moe",
        "Qwen3ForCausalLM": "qwen3",
        "Qwen3MoeForCausalLM": "qwen3moe",
        "SmolLM3ForCausalLM": "smollm3",
        "StableLmForCausalLM": "stablelm",
        "Starcoder2ForCausalLM": "starcoder2",
    }
)
_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"gemma3": GEMMA3_DEFAULTS})
"""What a family takes where its configuration is silent."""
_SINGLE = re.compile(r"ffn_gate_inp|shortconv\.conv|ssm_(conv1d|a|d|norm)\b")
"""Matrices that the converter keeps in F32."""
_TIED_UNLESS_TOLD = frozenset({"command-r", "gemma", "gemma2", "gemma3", "gpt2", "lfm2"})
_PLAIN_FEED_FORWARD = frozenset(
    {"arcee", "falcon", "gpt2", "gptneox", "nemotron", "phi2", "starcoder2"}
)
"""Families without a gate."""
_FUSED_QKV = frozenset({"chatglm", "falcon", "gpt2", "gptneox", "phi2", "phi3"})
_FUSED_GATE = frozenset({"chatglm", "phi3"})
_BIASED_QKV = frozenset({"qwen2", "qwen2moe", "starcoder2"})
_POST_NORMS = frozenset({"exaone4", "gemma2", "gemma3", "olmo2"})
_WINDOWED = frozenset({"gemma2", "gemma3"})
_HEAD_NORMS = frozenset({"exaone4", "gemma3", "olmo2", "qwen3", "qwen3moe"})
_WHOLE_NORMS = frozenset({"olmo2"})
"""Of those, the ones that norm all heads together."""
_UNUSUAL = re.compile("expert|mamba|ssm|conv|linear_|per_layer|altup|lora_rank|kda|rwkv", re.I)
"""Keys of a configuration that say that a model is no plain decoder."""
_MIXTURES = frozenset({"granitehybrid", "llama", "qwen2moe", "qwen3moe"})
"""Families whose mixtures are known here: experts in every layer."""
_NAME_A_FILE = "Name a GGUF file of it; its header tells everything."


class FromConfig(NamedTuple):
    """A header, and what was assumed to get it of a family that is not known here, if anything."""

    header: Header
    assumed: str | None


@dataclass(frozen=True)
class _State:
    """The recurrent part of a Mamba 2 layer."""

    inner: int
    heads: int
    groups: int
    length: int
    kernel: int


@dataclass(frozen=True)
class _Experts:
    """A mixture: how many experts, how many a token uses, their width, and that of a shared one."""

    count: int
    used: int
    width: int
    shared: int


@dataclass(frozen=True)
class _Sizes:
    """What the tensors' shapes follow from."""

    family: str
    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    tied: bool
    experts: _Experts | None
    attends: tuple[bool, ...]
    """Which layers have attention; the others convolve, or keep a state."""
    convolved: int
    """Tokens that a short convolution sees."""
    window: int
    """Tokens that layers with a window see, 0 where none has one."""
    context: int
    """0 where it is not stated."""
    state: _State | None


def header_of_config(path: Path) -> FromConfig:
    """The header that the GGUF file of a checkpoint would have, its matrices in F16.

    Args:
        path: A config.json, or the directory it is in.

    Raises:
        NotFound: there is none.
        InvalidCheckpoint: it is no configuration, or lacks a size.
        Unsupported: a family whose tensors are not known here.
    """
    if path.is_dir():
        path = path / "config.json"
    config = read_config(path)
    return FromConfig(header_from_config(path, config), _family(path, config)[1])


def header_from_config(path: Path, config: Mapping[str, Any]) -> Header:
    """The same of a configuration that was read; `path` is for messages."""
    sizes = _sizes(path, config)
    half, single = tensor_type("F16"), tensor_type("F32")
    start = sizes.vocabulary * _VOCABULARY_BYTES
    tensors, offset = [], start
    for name, shape in _tensors(sizes):
        kind = half if len(shape) > 1 and not _SINGLE.search(name) else single
        count = kind.bytes_for(shape)
        tensors.append(TensorInfo(name, kind, shape, offset, count))
        offset += count
    return Header(
        path=path,
        version=3,
        metadata=MappingProxyType(_metadata(sizes)),
        metadata_types=MappingProxyType({}),
        tensors=tuple(tensors),
        data_offset=start,
        alignment=32,
        file_bytes=offset,
    )


def _sizes(path: Path, config: Mapping[str, Any]) -> _Sizes:
    family, _ = _family(path, config)
    config = laid_over(_DEFAULTS.get(family, {}), config)
    numbers = Numbers(path, config)
    number = numbers.count
    width = number("hidden_size", "n_embd")
    heads = number("num_attention_heads", "n_head")
    layers = number("num_hidden_layers", "n_layer", most=_MOST_LAYERS)
    feed_forward = number("intermediate_size", "n_inner", "ffn_hidden_size", default=4 * width)
    if family == "lfm2":
        feed_forward = _lfm2_feed_forward(config, numbers, feed_forward)
    experts = _experts(path, config, family, numbers, feed_forward)
    if family == "granitehybrid":
        feed_forward = number("shared_intermediate_size", default=feed_forward)
    kv_heads = number(
        "num_key_value_heads",
        "num_kv_heads",
        "multi_query_group_num",
        default=1 if config.get("multi_query") is True else heads,
    )
    tied = config.get("tie_word_embeddings")
    return _Sizes(
        family=family,
        layers=layers,
        width=width,
        feed_forward=feed_forward,
        heads=heads,
        kv_heads=kv_heads,
        head=number("head_dim", default=max(width // heads, 1)),
        vocabulary=number("vocab_size"),
        tied=tied is True or (tied is None and family in _TIED_UNLESS_TOLD),
        experts=experts,
        attends=_attends(config, layers),
        convolved=number("conv_L_cache", default=3),
        window=number("sliding_window", default=0) if family in _WINDOWED else 0,
        context=number("max_position_embeddings", default=0, most=2**31),
        state=_state(numbers, width) if family == "granitehybrid" else None,
    )


def _experts(
    path: Path, config: Mapping[str, Any], family: str, numbers: Numbers, feed_forward: int
) -> _Experts | None:
    """The mixture, None where each layer has one feed-forward part."""
    several = config.get("num_local_experts") or config.get("num_experts")
    count = numbers.count("num_local_experts", "num_experts") if several else 1
    if count == 1:
        return None
    step, plain = config.get("decoder_sparse_step"), config.get("mlp_only_layers")
    if family not in _MIXTURES or plain or step not in (None, 1):
        raise Unsupported(
            f"{path}: a mixture of experts of this form cannot be judged from its configuration",
            hint=_NAME_A_FILE,
        )
    shared = {
        "qwen2moe": "shared_expert_intermediate_size",
        "granitehybrid": "shared_intermediate_size",
    }.get(family)
    return _Experts(
        count=count,
        used=min(numbers.count("num_experts_per_tok", default=2), count),
        width=numbers.count("moe_intermediate_size", default=feed_forward),
        shared=numbers.count(shared) if shared and config.get(shared) else 0,
    )


def _state(numbers: Numbers, width: int) -> _State:
    number = numbers.count
    inner = number("mamba_expand", default=2) * width
    heads = number("mamba_n_heads", default=max(inner // 64, 1))
    return _State(
        inner=inner,
        heads=heads,
        groups=number("mamba_n_groups", default=1),
        length=number("mamba_d_state", default=128),
        kernel=number("mamba_d_conv", default=4),
    )


def _family(path: Path, config: Mapping[str, Any]) -> tuple[str, str | None]:
    """The family by llama.cpp's name, and what is assumed of one that is not known here."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str):
        raise InvalidCheckpoint(
            f"{path} names no architecture",
            hint='Add "architectures": ["LlamaForCausalLM"] or whichever class it is.',
        )
    if config.get("quantization_config"):
        raise Unsupported(
            f"{path}: a quantized checkpoint cannot be judged from its configuration",
            hint=_NAME_A_FILE,
        )
    if name in _FAMILIES:
        return _FAMILIES[name], None
    shown = printable(name[:80])
    strange = sorted(key for key, value in config.items() if value and _UNUSUAL.search(key))
    if strange or not name.endswith(("ForCausalLM", "LMHeadModel")):
        said = f" ({', '.join(map(printable, strange[:3]))})" if strange else ""
        raise Unsupported(
            f"{path}: the family of {shown} cannot be judged from its configuration{said}",
            hint=_NAME_A_FILE,
        )
    return "llama", f"{shown} is taken for a plain decoder with a gated feed-forward part"


def _attends(config: Mapping[str, Any], layers: int) -> tuple[bool, ...]:
    """Which layers have attention: all, but for a family that mixes it with convolutions."""
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        return tuple(kind not in ("conv", "mamba") for kind in kinds)
    chosen = config.get("full_attn_idxs")
    if isinstance(chosen, list) and chosen:
        return tuple(index in chosen for index in range(layers))
    return (True,) * layers


def _lfm2_feed_forward(config: Mapping[str, Any], numbers: Numbers, width: int) -> int:
    """The width that LFM2 rounds its feed-forward part to, where it is told to."""
    width = numbers.count("block_ff_dim", default=width)
    if not config.get("block_auto_adjust_ff_dim", True):
        return width
    multiple = numbers.count("block_multiple_of", default=256)
    shrunk = int(numbers.factor("block_ffn_dim_multiplier") * (2 * width // 3))
    return multiple * max(-(-shrunk // multiple), 1)


def _metadata(sizes: _Sizes) -> dict[str, Any]:
    convolves = not all(sizes.attends)
    kv_heads = tuple(sizes.kv_heads * attends for attends in sizes.attends)
    values: dict[str, Any] = {
        "block_count": sizes.layers,
        "embedding_length": sizes.width,
        "feed_forward_length": sizes.feed_forward,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": kv_heads if convolves else sizes.kv_heads,
        "attention.key_length": sizes.head,
        "attention.value_length": sizes.head,
    }
    if sizes.state:
        values |= {
            "ssm.inner_size": sizes.state.inner,
            "ssm.group_count": sizes.state.groups,
            "ssm.state_size": sizes.state.length,
            "ssm.conv_kernel": sizes.state.kernel,
            "ssm.time_step_rank": sizes.state.heads,
        }
    elif convolves:
        values["shortconv.l_cache"] = sizes.convolved
    if sizes.window:
        values["attention.sliding_window"] = sizes.window
    if sizes.experts:
        values["expert_count"] = sizes.experts.count
        values["expert_used_count"] = sizes.experts.used
        values["expert_feed_forward_length"] = sizes.experts.width
    if sizes.context:
        values["context_length"] = sizes.context
    hyper = {f"{sizes.family}.{name}": value for name, value in values.items()}
    return {"general.architecture": sizes.family, **hyper}


def _tensors(sizes: _Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes; the contiguous dimension first."""
    yield "token_embd.weight", (sizes.width, sizes.vocabulary)
    if not sizes.tied:
        yield "output.weight", (sizes.width, sizes.vocabulary)
    yield "output_norm.weight", (sizes.width,)
    for layer in range(sizes.layers):
        block = _attention if sizes.attends[layer] else _convolution
        for name, shape in (*block(sizes), *_feed_forward(sizes)):
            yield f"blk.{layer}.{name}", shape


def _attention(sizes: _Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, queries, keys = sizes.width, sizes.heads * sizes.head, sizes.kv_heads * sizes.head
    yield "attn_norm.weight", (width,)
    if sizes.family in _FUSED_QKV:
        yield "attn_qkv.weight", (width, queries + 2 * keys)
    else:
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield f"attn_{name}.weight", (width, rows)
            if sizes.family in _BIASED_QKV:
                yield f"attn_{name}.bias", (rows,)
    yield "attn_output.weight", (queries, width)
    if sizes.family in _HEAD_NORMS:
        whole = sizes.family in _WHOLE_NORMS
        yield "attn_q_norm.weight", (queries if whole else sizes.head,)
        yield "attn_k_norm.weight", (keys if whole else sizes.head,)
    if sizes.family in _POST_NORMS:
        yield "post_attention_norm.weight", (width,)


def _convolution(sizes: _Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A layer without attention: a short convolution, or a Mamba 2 layer."""
    width, state = sizes.width, sizes.state
    yield "attn_norm.weight", (width,)
    if state:
        convolved = state.inner + 2 * state.groups * state.length
        yield "ssm_in.weight", (width, state.inner + convolved + state.heads)
        yield "ssm_conv1d.weight", (state.kernel, convolved)
        for name, count in (("conv1d.bias", convolved), ("dt.bias", state.heads)):
            yield f"ssm_{name}", (count,)
        yield "ssm_a", (1, state.heads)
        yield "ssm_d", (1, state.heads)
        yield "ssm_norm.weight", (state.inner // state.groups, state.groups)
        yield "ssm_out.weight", (state.inner, width)
        return
    yield "shortconv.conv.weight", (sizes.convolved, width)
    yield "shortconv.in_proj.weight", (width, 3 * width)
    yield "shortconv.out_proj.weight", (width, width)


def _feed_forward(sizes: _Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner = sizes.width, sizes.feed_forward
    yield "ffn_norm.weight", (width,)
    if sizes.experts:
        yield from _mixture(sizes, sizes.experts)
        return
    if sizes.family in _FUSED_GATE:
        yield "ffn_up.weight", (width, 2 * inner)
    else:
        if sizes.family not in _PLAIN_FEED_FORWARD:
            yield "ffn_gate.weight", (width, inner)
        yield "ffn_up.weight", (width, inner)
    yield "ffn_down.weight", (inner, width)
    if sizes.family in _POST_NORMS:
        yield "post_ffw_norm.weight", (width,)


def _mixture(sizes: _Sizes, experts: _Experts) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner, shared = sizes.width, experts.width, experts.shared
    yield "ffn_gate_inp.weight", (width, experts.count)
    yield "ffn_gate_exps.weight", (width, inner, experts.count)
    yield "ffn_down_exps.weight", (inner, width, experts.count)
    yield "ffn_up_exps.weight", (width, inner, experts.count)
    if not shared:
        return
    if sizes.family == "qwen2moe":
        yield "ffn_gate_inp_shexp.weight", (width,)
    yield "ffn_gate_shexp.weight", (width, shared)
    yield "ffn_down_shexp.weight", (shared, width)
    yield "ffn_up_shexp.weight", (width, shared)
