"""What is really inside a GGUF file, against what its label says.

A label such as Q2_K names a recipe, not a width. llama-quantize cannot use a type with blocks
of 256 where a tensor's rows are no multiple of 256 and takes a wider one without a word; small
models often have such rows, so their files are larger than the label promises.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from edgeslm.gguf.arrays import Array
from edgeslm.gguf.reader import Header, TensorInfo
from edgeslm.gguf.types import FILE_TYPES, TENSOR_TYPES, TensorType

_GUESSED = 1024
"""Bit set in a file type that llama.cpp guessed."""

_BASE_TYPES = {
    "MXFP4_MOE": ("MXFP4",),
    "Q2_K": ("Q2_K", "Q3_K"),
    "Q2_K_S": ("Q2_K",),
    "IQ3_XS": ("IQ3_S", "IQ3_XXS"),
    "IQ3_M": ("IQ3_S",),
    "IQ2_M": ("IQ2_S", "IQ2_XS", "IQ3_S"),
}
"""The types a label is about where they are not the label without its _S, _M or _L."""


@dataclass(frozen=True)
class TensorSummary:
    """One tensor; `shape` in ggml order, contiguous dimension first."""

    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class TypeShare:
    """All tensors of one type; `share` is their part of all parameters, 0 to 1."""

    type: str
    tensors: int
    parameters: int
    bytes: int
    share: float


@dataclass(frozen=True)
class Inspection:
    """A file in figures. What the file does not say is None."""

    path: Path
    file_bytes: int
    architecture: str | None
    name: str | None
    license: str | None
    parameters: int
    bits_per_weight: float | None
    context_length: int | None
    embedding_length: int | None
    block_count: int | None
    head_count: int | tuple[int, ...] | None
    head_count_kv: int | tuple[int, ...] | None
    vocabulary_size: int | None
    tokenizer: str | None
    chat_template: bool
    file_type: str | None
    """What the file is labelled as, in llama-quantize's words."""
    true_type: str | None
    """The type that holds the most parameters."""
    types: tuple[TypeShare, ...]
    """All types, the one with the most parameters first."""
    label_matches: bool | None
    label_note: str | None
    tensors: tuple[TensorSummary, ...]


def inspect(header: Header) -> Inspection:
    """Sum up a file from its header alone."""
    parameters = sum(tensor.elements for tensor in header.tensors)
    weights_bytes = sum(tensor.bytes for tensor in header.tensors)
    bits = weights_bytes * 8 / parameters if parameters else None
    types = _shares(header.tensors, parameters)
    label = file_label(header)
    note = _note(header, label, types, bits) if label and bits else None
    return Inspection(
        path=header.path,
        file_bytes=header.file_bytes,
        architecture=header.architecture,
        name=_text(header.get("general.name")),
        license=_text(header.get("general.license")),
        parameters=parameters,
        bits_per_weight=bits,
        context_length=_count(header.hyper("context_length")),
        embedding_length=_count(header.hyper("embedding_length")),
        block_count=_count(header.hyper("block_count")),
        head_count=_counts(header.hyper("attention.head_count")),
        head_count_kv=_counts(header.hyper("attention.head_count_kv")),
        vocabulary_size=_vocabulary_size(header),
        tokenizer=_text(header.get("tokenizer.ggml.model")),
        chat_template=_text(header.get("tokenizer.chat_template")) is not None,
        file_type=label,
        true_type=types[0].type if types else None,
        types=types,
        label_matches=None if label is None or bits is None else note is None,
        label_note=note,
        tensors=tuple(
            TensorSummary(tensor.name, tensor.type.name, tensor.shape, tensor.bytes)
            for tensor in header.tensors
        ),
    )


def _shares(tensors: tuple[TensorInfo, ...], parameters: int) -> tuple[TypeShare, ...]:
    groups: defaultdict[TensorType, list[TensorInfo]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.type].append(tensor)
    shares = [
        TypeShare(
            kind.name,
            len(group),
            sum(tensor.elements for tensor in group),
            sum(tensor.bytes for tensor in group),
            sum(tensor.elements for tensor in group) / parameters,
        )
        for kind, group in groups.items()
    ]
    return tuple(sorted(shares, key=lambda share: (-share.parameters, share.type)))


def file_label(header: Header) -> str | None:
    """What the file says it is, in llama-quantize's words; None where it says nothing known."""
    number = header.get("general.file_type")
    if isinstance(number, bool) or not isinstance(number, int):
        return None
    return FILE_TYPES.get(number & ~_GUESSED)


def _base_types(label: str) -> tuple[TensorType, ...]:
    """The tensor types that a file with this label is expected to consist of."""
    names = _BASE_TYPES.get(label)
    if names is None:
        known = {kind.name for kind in TENSOR_TYPES.values()}
        names = (label if label in known else label.rpartition("_")[0],)
    return tuple(kind for kind in TENSOR_TYPES.values() if kind.name in names)


def _note(header: Header, label: str, types: tuple[TypeShare, ...], bits: float) -> str | None:
    """How the label misleads, in a sentence; None where most weights are what it says."""
    bases = _base_types(label)
    names = {base.name for base in bases}
    share = sum(entry.share for entry in types if entry.type in names)
    if share > 0.5:
        return None
    mix = ", ".join(f"{entry.share:.0%} {entry.type}" for entry in types if entry.share >= 0.01)
    note = (
        f"labelled {label}, but {share:.0%} of the weights are: {mix}; {bits:.2f} bits per weight"
    )
    block = max(base.block_elements for base in bases)
    unfit = sum(
        tensor.elements
        for tensor in header.tensors
        if len(tensor.shape) > 1 and tensor.shape[0] % block
    )
    if unfit:
        part = unfit / sum(entry.parameters for entry in types)
        note += (
            f". {part:.0%} of the weights have rows that are no multiple of {block}, which "
            f"{bases[0].name} needs, so wider types replace it there"
        )
    return note


def _vocabulary_size(header: Header) -> int | None:
    tokens = header.get("tokenizer.ggml.tokens")
    return len(tokens) if isinstance(tokens, (tuple, Array)) else _count(header.hyper("vocab_size"))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _counts(value: object) -> int | tuple[int, ...] | None:
    return value if isinstance(value, tuple) else _count(value)
