"""What a GGUF file is made of: tensor types, file types, metadata types.

Ids and sizes are those of ggml (`ggml.h`, `gguf.h`) and `llama.h` of the llama.cpp that
llama-cpp-python 0.3.36 ships; a test compares the tensor types with that library itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any

from edgeslm.errors import InvalidOption


@dataclass(frozen=True)
class TensorType:
    """How the elements of a tensor are stored: in blocks along the first dimension."""

    id: int
    name: str
    block_elements: int
    block_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Average bits an element takes, scales included."""
        return self.block_bytes * 8 / self.block_elements

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether every row of such a tensor is a whole number of blocks."""
        return shape[0] % self.block_elements == 0

    def bytes_for(self, shape: Sequence[int]) -> int:
        """Bytes of a tensor of this type; `shape` in ggml order, contiguous dimension first.

        Raises:
            ValueError: a row is not a whole number of blocks.
        """
        if not self.fits(shape):
            raise ValueError(
                f"rows of {shape[0]} elements are no multiple of {self.name}'s block of "
                f"{self.block_elements}"
            )
        return math.prod(shape) // self.block_elements * self.block_bytes


_TENSOR_TYPES = (
    TensorType(0, "F32", 1, 4),
    TensorType(1, "F16", 1, 2),
    TensorType(2, "Q4_0", 32, 18),
    TensorType(3, "Q4_1", 32, 20),
    TensorType(6, "Q5_0", 32, 22),
    TensorType(7, "Q5_1", 32, 24),
    TensorType(8, "Q8_0", 32, 34),
    TensorType(9, "Q8_1", 32, 36),
    TensorType(10, "Q2_K", 256, 84),
    TensorType(11, "Q3_K", 256, 110),
    TensorType(12, "Q4_K", 256, 144),
    TensorType(13, "Q5_K", 256, 176),
    TensorType(14, "Q6_K", 256, 210),
    TensorType(15, "Q8_K", 256, 292),
    TensorType(16, "IQ2_XXS", 256, 66),
    TensorType(17, "IQ2_XS", 256, 74),
    TensorType(18, "IQ3_XXS", 256, 98),
    TensorType(19, "IQ1_S", 256, 50),
    TensorType(20, "IQ4_NL", 32, 18),
    TensorType(21, "IQ3_S", 256, 110),
    TensorType(22, "IQ2_S", 256, 82),
    TensorType(23, "IQ4_XS", 256, 136),
    TensorType(24, "I8", 1, 1),
    TensorType(25, "I16", 1, 2),
    TensorType(26, "I32", 1, 4),
    TensorType(27, "I64", 1, 8),
    TensorType(28, "F64", 1, 8),
    TensorType(29, "IQ1_M", 256, 56),
    TensorType(30, "BF16", 1, 2),
    TensorType(34, "TQ1_0", 256, 54),
    TensorType(35, "TQ2_0", 256, 66),
    TensorType(39, "MXFP4", 32, 17),
    TensorType(40, "NVFP4", 64, 36),
    TensorType(41, "Q1_0", 128, 18),
    TensorType(42, "Q2_0", 64, 18),
)

TENSOR_TYPES: Mapping[int, TensorType] = MappingProxyType({kind.id: kind for kind in _TENSOR_TYPES})
"""Every tensor type llama.cpp reads, by id."""

REMOVED_TENSOR_TYPES: Mapping[int, str] = MappingProxyType(
    {
        4: "Q4_2",
        5: "Q4_3",
        31: "Q4_0_4_4",
        32: "Q4_0_4_8",
        33: "Q4_0_8_8",
        36: "IQ4_NL_4_4",
        37: "IQ4_NL_4_8",
        38: "IQ4_NL_8_8",
    }
)
"""Ids that older files use and llama.cpp no longer reads."""

_BY_NAME = {kind.name: kind for kind in _TENSOR_TYPES}


KV_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")
"""Tensor types the KV cache may have, widest first."""


def kv_tensor_type(name: str) -> TensorType:
    """The type called `name`, which llama.cpp can keep keys and values in.

    Raises:
        InvalidOption: it cannot.
    """
    if name not in KV_TYPES:
        raise InvalidOption(
            f"not a type for the KV cache: {name}",
            hint=f"One of {', '.join(KV_TYPES)}; Q8_0 halves it at almost no cost.",
        )
    return tensor_type(name)


def tensor_type(name: str) -> TensorType:
    """The tensor type called `name`, in upper or lower case.

    Raises:
        InvalidOption: there is none.
    """
    kind = _BY_NAME.get(name.upper())
    if kind is None:
        raise InvalidOption(
            f"not a tensor type: {name!r}", hint=f"Tensor types are {', '.join(_BY_NAME)}."
        )
    return kind


_FALLBACKS: Mapping[str, str] = MappingProxyType(
    {
        "IQ4_NL": "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_XS",
        "Q4_0": "Q2_0 Q2_K Q3_K TQ1_0 TQ2_0",
        "Q5_0": "Q4_K",
        "Q5_1": "Q5_K",
        "Q8_0": "Q6_K",
    }
)
"""What takes the place of which types where rows are no multiple of their block."""


def fallback(kind: TensorType, width: int) -> TensorType | None:
    """What llama-quantize writes where it wants `kind` for rows of `width` elements.

    None where it stops with an error instead (`src/llama-quant.cpp`). A fallback is wider or as
    wide: a file of a model with odd widths is larger than its label says.
    """
    if kind.fits((width,)):
        return kind
    if kind.block_elements <= 32:
        return tensor_type("F16")
    for name, replaced in _FALLBACKS.items():
        if kind.name in replaced.split():
            other = tensor_type(name)
            return other if other.fits((width,)) else tensor_type("F16")
    return None


FILE_TYPES: Mapping[int, str] = MappingProxyType(
    {
        0: "F32",
        1: "F16",
        2: "Q4_0",
        3: "Q4_1",
        7: "Q8_0",
        8: "Q5_0",
        9: "Q5_1",
        10: "Q2_K",
        11: "Q3_K_S",
        12: "Q3_K_M",
        13: "Q3_K_L",
        14: "Q4_K_S",
        15: "Q4_K_M",
        16: "Q5_K_S",
        17: "Q5_K_M",
        18: "Q6_K",
        19: "IQ2_XXS",
        20: "IQ2_XS",
        21: "Q2_K_S",
        22: "IQ3_XS",
        23: "IQ3_XXS",
        24: "IQ1_S",
        25: "IQ4_NL",
        26: "IQ3_S",
        27: "IQ3_M",
        28: "IQ2_S",
        29: "IQ2_M",
        30: "IQ4_XS",
        31: "IQ1_M",
        32: "BF16",
        36: "TQ1_0",
        37: "TQ2_0",
        38: "MXFP4_MOE",
        39: "NVFP4",
        40: "Q1_0",
        41: "Q2_0",
    }
)
"""The label of a whole file (`general.file_type`), spelt as llama-quantize spells it."""


class ValueType(IntEnum):
    """The types of metadata values, with their ids in a file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


STRUCT_CODES: Mapping[ValueType, str] = MappingProxyType(
    {
        ValueType.UINT8: "B",
        ValueType.INT8: "b",
        ValueType.UINT16: "H",
        ValueType.INT16: "h",
        ValueType.UINT32: "I",
        ValueType.INT32: "i",
        ValueType.FLOAT32: "f",
        ValueType.BOOL: "?",
        ValueType.UINT64: "Q",
        ValueType.INT64: "q",
        ValueType.FLOAT64: "d",
    }
)
"""The `struct` code of each metadata type that has a fixed size."""

MAGIC = b"GGUF"
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
MAX_NAME_BYTES = 63
"""ggml keeps tensor names in 64 bytes, the last one a zero."""
MAX_DIMENSIONS = 4


@dataclass(frozen=True)
class Field:
    """One metadata entry; `item_type` is what an array holds, None for anything else."""

    key: str
    type: ValueType
    value: Any
    item_type: ValueType | None = None


def padded(position: int, alignment: int) -> int:
    """`position` moved up to the next multiple of `alignment`."""
    return -(-position // alignment) * alignment


def printable(text: str) -> str:
    """Text from a file, fit for one line on a terminal: nothing invisible, not too long."""
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in text[:201])
    return shown if len(text) <= 200 else shown[:200] + "…"
