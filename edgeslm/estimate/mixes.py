"""Which type each tensor gets from llama-quantize under the label of a whole file.

A label such as Q4_K_M names a mix, not a type: attention values and some of the feed-forward parts
get more bits, rows that fit no block of 256 fall back on another type, and an embedding that is the
head too is kept wider. These are the rules of llama.cpp 0c1e57098 (`llama-quant.cpp`) for dense and
mixture-of-experts decoders without an importance matrix, so that a file can be judged before it is
made. `at_bits` gives a mix for any number of bits per weight.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from edgeslm.errors import InvalidOption
from edgeslm.gguf.reader import Header, TensorInfo
from edgeslm.gguf.types import TensorType, fallback, tensor_type

_MAIN_TYPES: Mapping[str, str] = MappingProxyType(
    {
        label: name
        for name, labels in (
            *((name, name) for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0")),
            *((name, name) for name in ("Q5_1", "Q6_K", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0")),
            *((name, name) for name in ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ3_XXS")),
            ("IQ2_XS", "IQ2_XS IQ2_S"),
            ("IQ2_S", "IQ2_M"),
            ("IQ3_S", "IQ3_S IQ3_XS IQ3_M"),
            ("Q2_K", "Q2_K Q2_K_S"),
            ("Q3_K", "Q3_K_S Q3_K_M Q3_K_L"),
            ("Q4_K", "Q4_K_S Q4_K_M"),
            ("Q5_K", "Q5_K_S Q5_K_M"),
        )
        for label in labels.split()
    }
)
"""The type most tensors get, by label."""
FILE_TYPES = tuple(_MAIN_TYPES)

_LOW = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"})
_LOWEST = _LOW - {"IQ2_S", "IQ2_M"}
_WIDER_OUTPUTS: Mapping[str, str] = MappingProxyType(
    {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}
)
_WIDER_AT_FIRST: Mapping[str, str] = MappingProxyType(
    {"Q2_K_S": "Q4_K", "IQ3_M": "Q4_K", "IQ4_NL": "Q5_K", "IQ4_XS": "Q5_K", "Q4_K_S": "Q5_K"}
)
"""What the first eighth of ffn_down gets."""
_NEVER = (
    *("_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel"),
    *("per_layer_model_proj", "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight"),
    *("indexer.q_proj.weight", "attn_rel_b.weight", ".position_embd"),
    *(f"time_mix_{part}.weight" for part in ("first", "g1", "g2")),
    *(f"time_mix_{letter}{part}.weight" for letter in "wva" for part in range(3)),
    *(f"time_mix_{part}.weight" for part in ("decay_w1", "decay_w2", "lerp_fused")),
)
_NEVER_NAMED = ("position_embd.weight", "token_types.weight")
_EIGHT_EXPERTS_OUTPUT = frozenset(
    {
        *("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS"),
        *("IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M"),
    }
)
"""Labels under which eight experts get wider attention outputs."""
_LARGE_LAYERS = 80
_LARGE = frozenset({"deci", "llama", "olmo", "qwen2"})
"""Families that llama.cpp takes for one of 70 billion weights at so many layers."""
_LAYER = re.compile(r"blk\.(\d+)\.")
_LADDER = ("Q2_0", "Q2_K", "Q3_K", "Q4_0", "Q5_0", "Q6_K", "Q8_0", "F16")
"""Types of rising width, between which any number of bits lies."""


@dataclass(frozen=True)
class _Model:
    """What the rules ask of a model."""

    tied: bool
    group: int
    """Attention heads per head of keys and values."""
    experts: int
    layers: int
    values: int
    """Tensors that hold attention values."""
    is_falcon: bool
    is_large: bool
    """One that llama.cpp takes for a model of 70 billion weights."""


@dataclass(frozen=True)
class _Place:
    """One tensor: the label asked for, which of its role it is, and of how many."""

    label: str
    main: str
    index: int
    count: int
    order: int
    """As `index`, but counted; tensors of experts have their layer as index."""
    model: _Model

    @property
    def is_early(self) -> bool:
        """Whether it is in the first eighth."""
        return self.index < self.count // 8

    @property
    def gets_more(self) -> bool:
        """Whether it is among those at the ends, or every third between, that get more bits."""
        eighth = self.count // 8
        return self.is_early or self.index >= 7 * self.count // 8 or (self.index - eighth) % 3 == 2


def as_file_type(header: Header, label: str) -> Header:
    """The header that the model of `header` would have after `llama-quantize` to `label`.

    Raises:
        InvalidOption: there is no such label, or none whose mix is known.
    """
    label = label.upper()
    label = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "Q3_K": "Q3_K_M"}.get(label, label)
    if label not in _MAIN_TYPES:
        raise InvalidOption(
            f"no mix of types is known under {label[:40]!r}",
            hint=f"One of {', '.join(FILE_TYPES)}.",
        )
    model = _describe(header)
    seen: Counter[str] = Counter()
    chosen = {}
    for tensor in sorted(header.tensors, key=lambda each: (_layer(each.name), each.name)):
        if not _may_change(tensor):
            chosen[tensor.name] = tensor.type
        elif label in ("F32", "F16", "BF16"):
            chosen[tensor.name] = tensor_type(label)
        else:
            role = _role(tensor.name)
            place = _place(label, role, model, seen[role], _layer(tensor.name))
            seen[role] += 1
            chosen[tensor.name] = _fitting(tensor, _wanted(role, place, tensor))
    return _with_types(header, chosen)


def _place(label: str, role: str, model: _Model, order: int, layer: int) -> _Place:
    is_feed_forward = role.startswith("ffn_")
    return _Place(
        label=label,
        main=_MAIN_TYPES[label],
        index=layer if is_feed_forward and model.experts > 1 else order,
        count=model.layers if is_feed_forward else model.values,
        order=order,
        model=model,
    )


def _layer(name: str) -> int:
    """The number of the layer that a tensor is in; -1 for those in none."""
    found = _LAYER.match(name)
    return int(found[1]) if found else -1


def at_bits(header: Header, bits: float) -> Header:
    """The header that the model would have at `bits` per weight in all, norms included.

    A mix of the two types next to that width, the largest tensors wider as far as that goes. Real
    mixes choose better; what a token reads and how much memory it takes is nearly the same.

    Raises:
        InvalidOption: more or fewer bits than any mix has.
    """
    low, high = (as_all(header, name) for name in (_LADDER[0], _LADDER[-1]))
    weights = sum(tensor.elements for tensor in header.tensors)
    wanted = bits * weights / 8
    if not _bytes(low) - 1 <= wanted <= _bytes(high) + 1:
        least, most = (8 * _bytes(each) / weights for each in (low, high))
        raise InvalidOption(
            f"{bits:g} bits per weight are out of reach",
            hint=f"This model can have {least:.2f} to {most:.2f}.",
        )
    chosen = low
    for narrow, wide in pairwise(_LADDER):
        below, above = as_all(header, narrow), as_all(header, wide)
        chosen = _between(below, above, wanted)
        if wanted <= _bytes(above):
            break
    return chosen


def as_all(header: Header, name: str) -> Header:
    """Every matrix that may be quantized in one type, or what its rows fall back on."""
    return _with_types(
        header,
        {
            tensor.name: _fitting(tensor, name) if _may_change(tensor) else tensor.type
            for tensor in header.tensors
        },
    )


def _between(below: Header, above: Header, wanted: float) -> Header:
    """As `below`, with as many tensors as in `above` as `wanted` bytes allow, large ones first."""
    missing = wanted - _bytes(below)
    chosen = {tensor.name: tensor.type for tensor in below.tensors}
    pairs = zip(below.tensors, above.tensors, strict=True)
    for narrow, wide in sorted(pairs, key=lambda pair: -pair[0].elements):
        more = wide.bytes - narrow.bytes
        if 0 < more <= missing:
            missing -= more
            chosen[wide.name] = wide.type
    return _with_types(below, chosen)


def _bytes(header: Header) -> int:
    return sum(tensor.bytes for tensor in header.tensors)


def _with_types(header: Header, chosen: Mapping[str, TensorType]) -> Header:
    tensors, offset = [], header.data_offset
    for tensor in header.tensors:
        kind = chosen[tensor.name]
        count = kind.bytes_for(tensor.shape)
        tensors.append(TensorInfo(tensor.name, kind, tensor.shape, offset, count))
        offset += count
    return dataclasses.replace(header, tensors=tuple(tensors), file_bytes=offset)


def _describe(header: Header) -> _Model:
    keys = _first(header, "attention.head_count_kv")  # llama.cpp asks the first layer
    heads, layers = _first(header, "attention.head_count"), _first(header, "block_count")
    family = header.architecture
    group = heads // keys if keys else 0
    return _Model(
        tied=all(tensor.name != "output.weight" for tensor in header.tensors),
        group=group,
        experts=max(_first(header, "expert_count"), 1),
        layers=layers,
        values=sum(_role(tensor.name) == "attn_v" for tensor in header.tensors),
        is_falcon=family == "falcon",
        is_large=family in _LARGE
        and layers == _LARGE_LAYERS
        and not (family == "llama" and group == 1),
    )


def _first(header: Header, name: str) -> int:
    """A count, or the first layer's; 0 where it is not stated."""
    value = header.hyper(name)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else 0


def _may_change(tensor: TensorInfo) -> bool:
    return (
        len(tensor.shape) > 1
        and tensor.name.endswith("weight")
        and tensor.name not in _NEVER_NAMED
        and not any(part in tensor.name for part in _NEVER)
    )


_AS_VALUES: Mapping[str, str] = MappingProxyType({"attn_qkv": "attn_v", "attn_kv_b": "attn_v"})
"""Fused attention follows the rule of the values, and is counted with them."""


def _role(name: str) -> str:
    if name in ("output.weight", "token_embd.weight", "per_layer_token_embd.weight"):
        return "output" if name == "output.weight" else "embedding"
    for part in ("attn_qkv", "attn_kv_b", "attn_v", "attn_k", "attn_q", "attn_output"):
        if f"{part}.weight" in name:
            return _AS_VALUES.get(part, part)
    for part in ("ffn_up", "ffn_gate", "ffn_down"):
        if part in name:
            return part
    return "other"


def _fitting(tensor: TensorInfo, name: str) -> TensorType:
    """The type called `name`, or what llama-quantize takes where its blocks don't fit the rows."""
    return fallback(tensor_type(name), tensor.shape[0]) or tensor_type("F16")


def _wanted(role: str, place: _Place, tensor: TensorInfo) -> str:
    if role == "output" or (role == "embedding" and place.model.tied):
        return _head_type(place, tensor)
    if role == "embedding":
        return _embedding_type(place)
    if place.label in _LOW:
        return _low_type(role, place)
    rule = _RULES.get(role)
    return rule(place) if rule else place.main


def _head_type(place: _Place, tensor: TensorInfo) -> str:
    if place.model.is_falcon or tensor.shape[0] % tensor_type(place.main).block_elements:
        return "Q8_0"
    if place.label in (*_LOW, "IQ3_XXS"):
        return "Q5_K"
    return place.main if place.main == "Q8_0" else "Q6_K"


def _embedding_type(place: _Place) -> str:
    if place.label in _LOWEST:
        return "Q2_K"
    if place.label in ("IQ2_S", "IQ2_M", "IQ3_XXS"):
        return "IQ3_S"
    return "Q4_K" if place.label in ("TQ1_0", "TQ2_0") else place.main


def _low_type(role: str, place: _Place) -> str:
    wider = "Q2_K" if place.label in _LOWEST else "IQ3_S"
    if role == "attn_v":
        return "Q4_K" if place.model.group >= 4 or place.model.experts >= 4 else wider
    if role == "attn_k":
        return "Q4_K" if place.model.experts == 8 else place.main
    if role == "ffn_down":
        return wider if place.order < place.count // 8 else place.main
    if role == "attn_output":
        if place.model.experts == 8:
            return "Q5_K"
        if place.label in ("IQ1_S", "IQ1_M"):
            return "IQ2_XXS"
        return "IQ3_S" if place.label in ("IQ2_S", "IQ2_M") else place.main
    return place.main


def _value_type(place: _Place) -> str:
    if place.model.experts == 8:
        return "Q8_0"
    chosen = _plain_value_type(place)
    return "Q5_K" if place.model.is_large and chosen in ("Q3_K", "Q4_K") else chosen


def _plain_value_type(place: _Place) -> str:
    label, many = place.label, place.model.group >= 4
    if label == "Q2_K":
        return "Q4_K" if many else "Q3_K"
    if label == "IQ3_XXS":
        return "Q4_K" if many else "IQ3_S"
    if label == "IQ3_M" or (label in ("Q2_K_S", "IQ3_XS", "IQ3_S") and many):
        return "Q4_K"
    if label == "Q3_K_M":
        return "Q5_K" if place.index < 2 else "Q4_K"
    if label == "Q3_K_L" or (label in ("IQ4_NL", "IQ4_XS") and many):
        return "Q5_K"
    if label in ("Q4_K_M", "Q5_K_M") and place.gets_more:
        return "Q6_K"
    return "Q5_K" if label == "Q4_K_S" and place.index < 4 else place.main


def _down_type(place: _Place) -> str:
    label = place.label
    if place.model.is_falcon and label in _FALCON_DOWN:
        return _falcon_down_type(place)
    if label == "Q2_K":
        return "Q3_K"
    if label == "IQ3_XXS":
        return "Q4_K" if place.is_early else "Q3_K"
    if label == "Q3_K_M":
        return "Q5_K" if place.index < place.count // 16 else "Q4_K"
    if label == "Q3_K_L":
        return "Q5_K"
    if label in ("Q4_K_M", "Q5_K_M") and place.gets_more:
        return "Q6_K"
    if label == "IQ3_M" and place.model.experts == 8 and place.gets_more:
        return "Q4_K"
    if place.is_early:
        return _WIDER_AT_FIRST.get(label, place.main)
    return place.main


_FALCON_DOWN = frozenset({"Q3_K_M", "Q3_K_L", "Q4_K_M", "Q4_K_S"})


def _falcon_down_type(place: _Place) -> str:
    if place.label == "Q3_K_L":
        return "Q4_K"
    if place.label == "Q4_K_S":
        return place.main
    first, more = ("Q5_K", "Q4_K") if place.label == "Q3_K_M" else ("Q6_K", "Q5_K")
    if place.index < place.count // 16:
        return first
    return more if place.gets_more else place.main


def _output_type(place: _Place) -> str:
    if place.model.is_falcon:
        return "Q4_K" if place.label == "Q3_K_L" else place.main
    if place.model.experts == 8:
        return "Q5_K" if place.label in _EIGHT_EXPERTS_OUTPUT else place.main
    return _WIDER_OUTPUTS.get(place.label, place.main)


def _key_type(place: _Place) -> str:
    return "Q8_0" if place.model.experts == 8 else _narrow_type(place)


def _narrow_type(place: _Place) -> str:
    return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(place.label, place.main)


def _inner_type(place: _Place) -> str:
    between = place.count // 8 <= place.index < 7 * place.count // 8
    return "IQ3_XXS" if place.label == "IQ3_XS" and between else place.main


_RULES: Mapping[str, Callable[[_Place], str]] = MappingProxyType(
    {
        "attn_v": _value_type,
        "attn_k": _key_type,
        "attn_q": _narrow_type,
        "attn_output": _output_type,
        "ffn_down": _down_type,
        "ffn_gate": _inner_type,
        "ffn_up": _inner_type,
    }
)
