"""What each tensor type is made of, what it needs, and whether llama.cpp can run it.

All of it is fact about the llama.cpp in llama-cpp-python 0.3.36, and compared with that library
by tests: block structures are from `ggml-common.h`, what runs is what has a dot product in
`ggml-cpu.c`, and what can be encoded is what `ggml_quantize_chunk` takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from edgeslm.gguf.types import TensorType, tensor_type


class Importance(str, Enum):
    """What an importance matrix does to the encoding of a type."""

    IGNORED = "ignored"
    """The encoder has nothing to decide, or does not look at it."""
    USED = "used"
    """The rounding gets better for it, and works without it."""
    NEEDED = "needed"
    """llama.cpp refuses to write the type without it, save for the embedding and the head."""


@dataclass(frozen=True)
class TypeInfo:
    """One tensor type, explained."""

    type: TensorType
    structure: str
    """Scales, minimums and codes of a block, in a sentence."""
    importance: Importance
    runs: bool
    """llama.cpp multiplies by it on a CPU."""
    encodable: bool
    """ggml turns floats into it."""
    needs_training: bool
    """Only models that were trained for it survive it."""


_NO, _USED, _NEEDED = Importance.IGNORED, Importance.USED, Importance.NEEDED


def _weights(
    name: str, importance: Importance, structure: str, *, needs_training: bool = False
) -> TypeInfo:
    return TypeInfo(tensor_type(name), structure, importance, True, True, needs_training)


def _numbers(name: str, structure: str) -> TypeInfo:
    return TypeInfo(
        tensor_type(name), structure, _NO, runs=False, encodable=False, needs_training=False
    )


TYPES: tuple[TypeInfo, ...] = (
    _weights("F32", _NO, "a 32-bit float for each weight"),
    _weights("F16", _NO, "a 16-bit float for each weight: 11 bits of precision, up to 65504"),
    _weights("BF16", _NO, "the upper half of a 32-bit float: 8 bits of precision, full range"),
    _weights("Q8_0", _NO, "a scale for 32 codes of 8 bits"),
    _weights("Q6_K", _USED, "16 scales of 8 bits under one for 256 codes of 6 bits"),
    _weights("Q5_1", _USED, "a scale and a minimum for 32 codes of 5 bits"),
    _weights("Q5_0", _USED, "a scale for 32 codes of 5 bits"),
    _weights("Q5_K", _USED, "8 scales and minimums of 6 bits under one pair for 256 codes of 5"),
    _weights("Q4_1", _USED, "a scale and a minimum for 32 codes of 4 bits"),
    _weights("Q4_0", _USED, "a scale for 32 codes of 4 bits"),
    _weights("Q4_K", _USED, "8 scales and minimums of 6 bits under one pair for 256 codes of 4"),
    _weights("IQ4_NL", _USED, "a scale for 32 codes of 4 bits, whose 16 steps widen outwards"),
    _weights("NVFP4", _NO, "4 scales, floats of 8 bits, for 64 floats of 4 bits"),
    _weights("IQ4_XS", _USED, "8 scales of 6 bits under one for 256 codes as in IQ4_NL"),
    _weights("MXFP4", _NO, "a power of two for 32 floats of 4 bits"),
    _weights("Q3_K", _USED, "16 scales of 6 bits under one for 256 codes of 3 bits"),
    _weights("IQ3_S", _USED, "8 scales of 4 bits under one for 64 points of a grid, and 256 signs"),
    _weights(
        "IQ3_XXS",
        _NEEDED,
        "8 scales of 4 bits under one for 64 points of a smaller grid, 7 bits for 8 signs",
    ),
    _weights("Q2_K", _USED, "16 scales and minimums of 4 bits under one pair for 256 codes of 2"),
    _weights(
        "IQ2_S", _NEEDED, "16 scales of 4 bits under one for 32 points of a grid, and 256 signs"
    ),
    _weights(
        "IQ2_XS",
        _NEEDED,
        "16 scales of 4 bits under one for 32 points of a smaller grid, 7 bits for 8 signs",
    ),
    _weights("Q2_0", _NO, "a scale for 64 codes of 2 bits: -1, 0, 1, 2", needs_training=True),
    _weights(
        "IQ2_XXS",
        _NEEDED,
        "8 scales of 4 bits under one for 32 points of the smallest grid, 7 bits for 8 signs",
    ),
    _weights("TQ2_0", _NO, "a scale for 256 codes of 2 bits: -1, 0, 1", needs_training=True),
    _weights(
        "IQ1_M",
        _NEEDED,
        "16 scales of 3 bits under one for 32 points of a ternary grid, each shifted up or down",
    ),
    _weights("TQ1_0", _NO, "a scale for 256 digits -1, 0, 1, five to a byte", needs_training=True),
    _weights(
        "IQ1_S",
        _NEEDED,
        "8 scales of 3 bits under one for 32 points of a ternary grid, shifted up or down by fours",
    ),
    _weights("Q1_0", _NO, "a scale for 128 signs", needs_training=True),
    _numbers("Q8_1", "a scale and a sum for 32 codes of 8 bits; for intermediate results only"),
    _numbers("Q8_K", "a scale and 16 sums for 256 codes of 8 bits; for intermediate results only"),
    _numbers("F64", "a 64-bit float"),
    _numbers("I64", "a 64-bit integer"),
    _numbers("I32", "a 32-bit integer"),
    _numbers("I16", "a 16-bit integer"),
    _numbers("I8", "an 8-bit integer"),
)
"""Every tensor type llama.cpp reads: weights from the widest to the narrowest, then the rest."""

_BY_NAME: Mapping[str, TypeInfo] = MappingProxyType({info.type.name: info for info in TYPES})


def type_info(kind: TensorType) -> TypeInfo:
    """The explanation of a tensor type."""
    return _BY_NAME[kind.name]


def runnable_types(
    shape: Sequence[int], *, importance: bool = False, trained: bool = False
) -> tuple[TensorType, ...]:
    """What ordinary weights of a shape can become and still run, the smallest first.

    Args:
        shape: In ggml order, contiguous dimension first.
        importance: There are importances for this tensor, so types that need them count too.
        trained: The model was trained for ternary or binary weights, so their types count too.
    """
    kinds = [
        info.type
        for info in TYPES
        if info.runs
        and info.encodable
        and info.type.fits(shape)
        and (importance or info.importance is not Importance.NEEDED)
        and (trained or not info.needs_training)
    ]
    return tuple(sorted(kinds, key=lambda kind: (kind.bits_per_weight, kind.id)))


def nearest_type(kind: TensorType, shape: Sequence[int], *, importance: bool = False) -> TensorType:
    """The runnable type that fits `shape` and is nearest to `kind` in bits; the wider of two."""
    return min(
        runnable_types(shape, importance=importance),
        key=lambda other: (
            abs(other.bits_per_weight - kind.bits_per_weight),
            -other.bits_per_weight,
            other.block_elements,
        ),
    )
