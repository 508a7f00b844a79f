"""Which type each tensor gets from llama-quantize under the label of a whole file.

A label such as Q4_K_M names a mix, not a type: attention values and some of the feed-forward parts
get more bits, rows that fit no block of 256 fall back on another type, and an embedding that is the
head too is kept wider. These are the rules of llama.cpp 0c1e57098 (`llama-quant.cpp`) for dense and
mixture-of-experts decoders without an importance matrix, so that a file can be judged before it is
made. `at_bits` gives a mix for any number of bits per weight.
"""

from __future__ import annotations

import dataclasses
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
_NEVER = ("_norm.weight", "ffn_gate_inp.weight", "shortconv.conv.weight", "ssm_conv1d")
_NEVER_NAMED = ("position_embd.weight", "token_types.weight", "per_layer_model_proj.weight")
_LADDER = ("Q2_0", "Q2_K", "Q3_K", "Q4_0", "Q5_0", "Q6_K", "Q8_0", "F16")
"""Types of rising width, between which any number of bits lies."""


@dataclass(frozen=True)
class _Model:
    """What the rules ask of a model."""

    tied: bool
    group: int
    """Attention heads per head of keys and values."""
    counts: Mapping[str, int]
    """Tensors of each role."""


@dataclass(frozen=True)
class _Place:
    """One tensor: the label asked for, which of its role it is, and of how many."""

    label: str
    main: str
    index: int
    count: int
    group: int

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
    for tensor in header.tensors:
        role = _role(tensor.name)
        if label == "F32" or not _may_change(tensor):
            chosen[tensor.name] = tensor_type("F32")
            continue
        if label in ("F16", "BF16"):
            chosen[tensor.name] = tensor_type(label)
            continue
        place = _Place(label, _MAIN_TYPES[label], seen[role], model.counts[role], model.group)
        seen[role] += 1
        chosen[tensor.name] = _fitting(tensor, _wanted(role, place, model.tied, tensor))
    return _with_types(header, chosen)


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
            tensor.name: _fitting(tensor, name) if _may_change(tensor) else tensor_type("F32")
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
    heads, keys = header.hyper("attention.head_count"), header.hyper("attention.head_count_kv")
    keys = keys[0] if isinstance(keys, tuple) and keys else keys  # llama.cpp asks the first layer
    heads = heads[0] if isinstance(heads, tuple) and heads else heads
    counts = Counter(_role(tensor.name) for tensor in header.tensors if _may_change(tensor))
    return _Model(
        tied=all(tensor.name != "output.weight" for tensor in header.tensors),
        group=heads // keys if isinstance(heads, int) and isinstance(keys, int) and keys else 0,
        counts=counts,
    )


def _may_change(tensor: TensorInfo) -> bool:
    return (
        len(tensor.shape) > 1
        and tensor.name.endswith("weight")
        and tensor.name not in _NEVER_NAMED
        and not any(part in tensor.name for part in _NEVER)
    )


def _role(name: str) -> str:
    if name in ("output.weight", "token_embd.weight", "per_layer_token_embd.weight"):
        return "output" if name == "output.weight" else "embedding"
    for part in ("attn_qkv", "attn_v", "attn_k", "attn_q", "attn_output"):
        if f"{part}.weight" in name:
            return part
    for part in ("ffn_up", "ffn_gate", "ffn_down"):
        if part in name:
            return part
    return "other"


def _fitting(tensor: TensorInfo, name: str) -> TensorType:
    """The type called `name`, or what llama-quantize takes where its blocks don't fit the rows."""
    return fallback(tensor_type(name), tensor.shape[0]) or tensor_type("F16")


def _wanted(role: str, place: _Place, tied: bool, tensor: TensorInfo) -> str:
    if role == "output" or (role == "embedding" and tied):
        return _head_type(place, tensor)
    if role == "embedding":
        return _embedding_type(place)
    if place.label in _LOW:
        return _low_type(role, place)
    rule = _RULES.get(role)
    return rule(place) if rule else place.main


def _head_type(place: _Place, tensor: TensorInfo) -> str:
    if tensor.shape[0] % tensor_type(place.main).block_elements:
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
    if role in ("attn_v", "attn_qkv"):
        return "Q4_K" if place.group >= 4 else wider
    if role == "ffn_down" and place.is_early:
        return wider
    if role == "attn_output":
        if place.label in ("IQ1_S", "IQ1_M"):
            return "IQ2_XXS"
        return "IQ3_S" if place.label in ("IQ2_S", "IQ2_M") else place.main
    return place.main


def _value_type(place: _Place) -> str:
    label, many = place.label, place.group >= 4
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
    if place.is_early:
        return _WIDER_AT_FIRST.get(label, place.main)
    return place.main


def _output_type(place: _Place) -> str:
    return _WIDER_OUTPUTS.get(place.label, place.main)


def _narrow_type(place: _Place) -> str:
    return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(place.label, place.main)


def _inner_type(place: _Place) -> str:
    between = place.count // 8 <= place.index < 7 * place.count // 8
    return "IQ3_XXS" if place.label == "IQ3_XS" and between else place.main


_RULES: Mapping[str, Callable[[_Place], str]] = MappingProxyType(
    {
        "attn_qkv": _value_type,
        "attn_v": _value_type,
        "attn_k": _narrow_type,
        "attn_q": _narrow_type,
        "attn_output": _output_type,
        "ffn_down": _down_type,
        "ffn_gate": _inner_type,
        "ffn_up": _inner_type,
    }
)
"""The attention's fused values follow the rule of the values alone: it is asked first."""
