"""A file's type in its metadata: llama.cpp's name for what most weights are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from edgeslm.gguf.reader import Header
from edgeslm.gguf.types import FILE_TYPES, Field, TensorType, ValueType
from edgeslm.packager.quantize.result import FLOAT_TYPES

_QUANTIZATION_VERSION = 2
_VERSION_KEY, _FILE_TYPE_KEY = "general.quantization_version", "general.file_type"
_LABELS = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "MXFP4": "MXFP4_MOE"}
"""File types for the tensor types whose name they do not share."""
_NUMBERS = {name: number for number, name in FILE_TYPES.items()}


def label_of(header: Header, types: Mapping[str, TensorType]) -> str:
    """llama.cpp's name for a file of which most weights have the type they have here."""
    elements: Counter[str] = Counter()
    for tensor in header.tensors:
        if tensor.name in types:
            elements[types[tensor.name].name] += tensor.elements
    ranked = [name for name, _ in elements.most_common()]
    name = next((name for name in ranked if name not in FLOAT_TYPES), ranked[0])
    return _LABELS.get(name, name)


def labelled(header: Header, label: str) -> Sequence[Field]:
    """The source's metadata, with a file type's name as its label."""
    number = _NUMBERS.get(label, _NUMBERS["F16"])
    own = (  # last, and in this order, as llama.cpp writes them
        Field(_VERSION_KEY, ValueType.UINT32, _QUANTIZATION_VERSION),
        Field(_FILE_TYPE_KEY, ValueType.UINT32, number),
    )
    keys = {field.key for field in own}
    return [*(field for field in header.fields() if field.key not in keys), *own]
