"""The block formats that error feedback can write, as data: levels, scales, and their packing.

A weight in a block is `scale * level[code] + minimum`. Formats differ in the levels, in how many
weights share a scale, in how the scale itself is stored, and in where the bits lie. The layouts
are those of ggml (`ggml-common.h`, `ggml-quants.c`); tests decode every format with ggml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from edgeslm.gguf.types import TensorType, tensor_type
from edgeslm.packager.quantize.encoders import packing
from edgeslm.packager.quantize.encoders.packing import Coded

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Scale(IntEnum):
    """How the scale of a group is stored."""

    F16 = 0
    UE4M3 = 1
    E8M0 = 2
    SUPER = 3
    """A small integer times a half-precision scale of the whole block."""


@dataclass(frozen=True)
class Supers:
    """What the integers that scale a group inside a block can be."""

    lowest: int
    highest: int
    highest_minimum: int
    unpack: Callable[[NDArray[np.uint8]], Coded]
    """Reads the scales out of encoded rows."""


@dataclass(frozen=True)
class BlockFormat:
    """One format.

    Attributes:
        type: Its name and size.
        group: Weights that share a scale.
        levels: What codes stand for, ascending.
        affine: Whether a group has a minimum beside its scale.
        scale: How scales are stored.
        supers: The range of integer scales; None where groups have scales of their own.
        pack: From codes and scales to bytes.
    """

    type: TensorType
    group: int
    levels: tuple[float, ...]
    affine: bool
    scale: Scale
    supers: Supers | None
    pack: Callable[[Coded], NDArray[np.uint8]]

    @property
    def uniform(self) -> bool:
        """Whether levels are a distance of 1 apart."""
        return all(b - a == 1 for a, b in zip(self.levels, self.levels[1:], strict=False))

    def scale_table(self) -> NDArray[np.float32]:
        """Every positive scale that can be stored; empty where that is any f16 number."""
        if self.scale is Scale.UE4M3:
            return packing.UE4M3
        if self.scale is Scale.E8M0:
            return packing.E8M0
        return np.zeros(0, np.float32)

    def scale_factors(self) -> NDArray[np.float32]:
        """Scales to try, in units of the one whose outermost level is the largest weight."""
        count = len(self.levels)
        if count <= 4:
            return np.linspace(0.3, 1.1, 17, dtype=np.float32)
        if count <= 16:
            return np.linspace(0.72, 1.12, 15, dtype=np.float32)
        if count <= 64:
            return np.linspace(0.88, 1.06, 10, dtype=np.float32)
        return np.linspace(0.99, 1.01, 3, dtype=np.float32)


_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1 = (-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12)


def _range(low: int, high: int) -> tuple[float, ...]:
    return tuple(map(float, range(low, high + 1)))


def _plain(
    name: str,
    group: int,
    levels: tuple[float, ...],
    pack: Callable[[Coded], NDArray[np.uint8]],
    *,
    affine: bool = False,
    scale: Scale = Scale.F16,
) -> BlockFormat:
    return BlockFormat(tensor_type(name), group, levels, affine, scale, None, pack)


def _super(
    name: str,
    group: int,
    levels: tuple[float, ...],
    supers: Supers,
    pack: Callable[[Coded], NDArray[np.uint8]],
    *,
    affine: bool = False,
) -> BlockFormat:
    return BlockFormat(tensor_type(name), group, levels, affine, Scale.SUPER, supers, pack)


_FORMATS = (
    _plain("Q4_0", 32, _range(-8, 7), packing.pack_q4_0),
    _plain("Q4_1", 32, _range(0, 15), packing.pack_q4_1, affine=True),
    _plain("Q5_0", 32, _range(-16, 15), packing.pack_q5_0),
    _plain("Q5_1", 32, _range(0, 31), packing.pack_q5_1, affine=True),
    _plain("Q8_0", 32, _range(-127, 127), packing.pack_q8_0),
    _plain("IQ4_NL", 32, tuple(map(float, _IQ4)), packing.pack_q4_0),
    _plain("MXFP4", 32, tuple(map(float, _E2M1)), packing.pack_mxfp4, scale=Scale.E8M0),
    _plain("NVFP4", 16, tuple(map(float, _E2M1)), packing.pack_nvfp4, scale=Scale.UE4M3),
    _plain("Q2_0", 64, _range(-1, 2), packing.pack_q2_0),
    _plain("Q1_0", 128, (-1.0, 1.0), packing.pack_q1_0),
    _super(
        *("Q2_K", 16, _range(0, 3)),
        Supers(0, 15, 15, packing.unpack_q2_k),
        packing.pack_q2_k,
        affine=True,
    ),
    _super("Q3_K", 16, _range(-4, 3), Supers(-32, 31, 0, packing.unpack_q3_k), packing.pack_q3_k),
    _super(
        *("Q4_K", 32, _range(0, 15)),
        Supers(0, 63, 63, packing.unpack_q4_k),
        packing.pack_q4_k,
        affine=True,
    ),
    _super(
        *("Q5_K", 32, _range(0, 31)),
        Supers(0, 63, 63, packing.unpack_q5_k),
        packing.pack_q5_k,
        affine=True,
    ),
    _super(
        *("Q6_K", 16, _range(-32, 31)),
        Supers(-128, 127, 0, packing.unpack_q6_k),
        packing.pack_q6_k,
    ),
    _super(
        *("IQ4_XS", 32, tuple(map(float, _IQ4))),
        Supers(-32, 31, 0, packing.unpack_iq4_xs),
        packing.pack_iq4_xs,
    ),
)

FORMATS: Mapping[str, BlockFormat] = MappingProxyType({item.type.name: item for item in _FORMATS})
"""By tensor type name."""
