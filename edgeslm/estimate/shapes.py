"""From a checkpoint's config.json to the header that its GGUF file would have.

Nothing is read but the configuration, so that a model can be judged before it is downloaded. The
tensors have the names, shapes and order of llama.cpp's converter, in F16; what a vocabulary takes
is estimated from its size. Only what decides memory and speed is filled in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgeslm.errors import InvalidCheckpoint, Unsupported, reading
from edgeslm.gguf.reader import Header, TensorInfo
from edgeslm.gguf.types import printable, tensor_type

_VOCABULARY_BYTES = 236
"""Per entry of a vocabulary: its text and type in the file, and its merge, there and in memory."""
_MOST = 2**24
"""Beyond any real width, vocabulary or count."""
_MOST_LAYERS = 512
_MOST_CONFIG_BYTES = 8_000_000

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
_TIED_UNLESS_TOLD = frozenset({"command-r", "gemma", "gemma2", "gemma3", "gpt2", "lfm2"})
_PLAIN_FEED_FORWARD = frozenset(
    {"arcee", "falcon", "gpt2", "gptneox", "nemotron", "phi2", "starcoder2"}
)
"""Families without a gate."""
_FUSED_QKV = frozenset({"chatglm", "falcon", "gpt2", "gptneox", "phi2", "phi3"})
_FUSED_GATE = frozenset({"chatglm", "phi3"})
_BIASED_QKV = frozenset({"qwen2", "qwen2moe", "starcoder2"})
_POST_NORMS = frozenset({"exaone4", "gemma2", "gemma3", "olmo2"})
_HEAD_NORMS = frozenset({"exaone4", "gemma3", "olmo2", "qwen3", "qwen3moe"})
_WHOLE_NORMS = frozenset({"olmo2"})
"""Of those, the ones that norm all heads together."""
_UNUSUAL = re.compile("expert|mamba|ssm|conv|linear_|per_layer|altup|lora_rank|kda|rwkv", re.I)
"""Keys of a configuration that say that a model is no plain decoder."""
ASSUMED = "edgeslm.assumed"
"""The metadata key under which a header says what was assumed of an unknown family."""


@dataclass(frozen=True)
class _State:
    """The recurrent part of a Mamba 2 layer."""

    inner: int
    heads: int
    groups: int
    length: int
    kernel: int


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
    experts: int
    experts_used: int
    expert_feed_forward: int
    attends: tuple[bool, ...]
    """Which layers have attention; the others convolve, or keep a state."""
    state: _State | None
    assumed: str | None


def header_of_config(path: Path) -> Header:
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
    return header_from_config(path, _read(path))


def header_from_config(path: Path, config: Mapping[str, Any]) -> Header:
    """The same of a configuration that was read; `path` is for messages."""
    sizes = _sizes(path, config)
    half, single = tensor_type("F16"), tensor_type("F32")
    start = sizes.vocabulary * _VOCABULARY_BYTES
    tensors, offset = [], start
    for name, shape in _tensors(sizes):
        kind = half if len(shape) > 1 else single
        count = kind.bytes_for(shape)
        tensors.append(TensorInfo(name, kind, shape, offset, count))
        offset += count
    return Header(
        path=path,
        version=3,
        metadata=MappingProxyType(_metadata(sizes, config)),
        metadata_types=MappingProxyType({}),
        tensors=tuple(tensors),
        data_offset=start,
        alignment=32,
        file_bytes=offset,
    )


def _read(path: Path) -> Mapping[str, Any]:
    with reading(path):
        if path.stat().st_size > _MOST_CONFIG_BYTES:
            raise InvalidCheckpoint(f"{path} is too large for a configuration")
        try:
            config = json.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise InvalidCheckpoint(
                f"{path} is no JSON: {str(error)[:200]}", hint="Download it again."
            ) from error
    if not isinstance(config, dict):
        raise InvalidCheckpoint(f"{path} is no configuration of a model")
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def _sizes(path: Path, config: Mapping[str, Any]) -> _Sizes:
    family, assumed = _family(path, config)

    def number(*names: str, default: int | None = None, most: int = _MOST) -> int:
        for name in names:
            value = config.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
                raise InvalidCheckpoint(
                    f"{path}: {name} is no number of 1 to {most}", hint="Download it again."
                )
            return value
        if default is None:
            raise InvalidCheckpoint(f"{path} lacks {names[0]}", hint="Download it again.")
        return default

    width = number("hidden_size", "n_embd")
    heads = number("num_attention_heads", "n_head")
    layers = number("num_hidden_layers", "n_layer", most=_MOST_LAYERS)
    feed_forward = number(
        "shared_intermediate_size",
        "intermediate_size",
        "n_inner",
        "ffn_hidden_size",
        default=4 * width,
    )
    if family == "lfm2":
        feed_forward = _lfm2_feed_forward(config, number("block_ff_dim", default=feed_forward))
    several = config.get("num_local_experts") or config.get("num_experts")
    experts = number("num_local_experts", "num_experts", default=1) if several else 1
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
        experts=experts if experts > 1 else 0,
        experts_used=number("num_experts_per_tok", default=2) if experts > 1 else 0,
        expert_feed_forward=number("moe_intermediate_size", default=feed_forward),
        attends=_attends(config, layers),
        state=_state(number, width) if family == "granitehybrid" else None,
        assumed=assumed,
    )


def _state(number: Callable[..., int], width: int) -> _State:
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
    hint = "Name a GGUF file of it; its header tells everything."
    if config.get("quantization_config"):
        raise Unsupported(
            f"{path}: a quantized checkpoint cannot be judged from its configuration", hint=hint
        )
    if name in _FAMILIES:
        return _FAMILIES[name], None
    shown = printable(name[:80])
    strange = sorted(key for key, value in config.items() if value and _UNUSUAL.search(key))
    if strange or not name.endswith(("ForCausalLM", "LMHeadModel")):
        said = f" ({', '.join(map(printable, strange[:3]))})" if strange else ""
        raise Unsupported(
            f"{path}: the family of {shown} cannot be judged from its configuration{said}",
            hint=hint,
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


def _lfm2_feed_forward(config: Mapping[str, Any], width: int) -> int:
    """The width that LFM2 rounds its feed-forward part to, where it is told to."""
    if not config.get("block_auto_adjust_ff_dim", True):
        return width
    multiple = config.get("block_multiple_of")
    multiple = multiple if isinstance(multiple, int) and multiple > 0 else 256
    factor = config.get("block_ffn_dim_multiplier")
    shrunk = int((factor if isinstance(factor, (int, float)) else 1) * (2 * width // 3))
    return multiple * -(-shrunk // multiple)


def _metadata(sizes: _Sizes, config: Mapping[str, Any]) -> dict[str, Any]:
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
        length = config.get("conv_L_cache")
        values["shortconv.l_cache"] = length if isinstance(length, int) and length > 1 else 3
    window = config.get("sliding_window")
    if sizes.family in ("gemma2", "gemma3") and isinstance(window, int) and window > 0:
        values["attention.sliding_window"] = window
    if sizes.experts:
        values["expert_count"] = sizes.experts
        values["expert_used_count"] = min(sizes.experts_used, sizes.experts)
        values["expert_feed_forward_length"] = sizes.expert_feed_forward
    length = config.get("max_position_embeddings")
    if isinstance(length, int) and length > 0:
        values["context_length"] = length
    hyper = {f"{sizes.family}.{name}": value for name, value in values.items()}
    assumed = {ASSUMED: sizes.assumed} if sizes.assumed else {}
    return {"general.architecture": sizes.family, **hyper, **assumed}


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
    yield "shortconv.conv.weight", (3, width)
    yield "shortconv.in_proj.weight", (width, 3 * width)
    yield "shortconv.out_proj.weight", (width, width)


def _feed_forward(sizes: _Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner = sizes.width, sizes.feed_forward
    yield "ffn_norm.weight", (width,)
    if sizes.experts:
        inner = sizes.expert_feed_forward
        yield "ffn_gate_inp.weight", (width, sizes.experts)
        yield "ffn_gate_exps.weight", (width, inner, sizes.experts)
        yield "ffn_down_exps.weight", (inner, width, sizes.experts)
        yield "ffn_up_exps.weight", (width, inner, sizes.experts)
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
