"""Where the bits of codes and scales lie in each block format, as ggml reads them.

Every function takes or gives whole matrices: rows of blocks as bytes, [rows, bytes of a row].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[Any]


@dataclass(frozen=True)
class Coded:
    """Rows as codes and scales.

    Attributes:
        codes: [rows, n] index of each weight's level.
        scales: [rows, groups] float scale of each group; in formats with integer scales,
            those integers.
        minima: [rows, groups] the same for minima, as added to the weight; integers there.
        big: [rows, blocks] scale of a block with integer scales, else empty.
        big_minima: [rows, blocks] its scale of minima, which is subtracted.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    minima: NDArray[np.float32]
    big: NDArray[np.float32]
    big_minima: NDArray[np.float32]


def _ue4m3() -> NDArray[np.float32]:
    """Value of each byte 1..126: four bits of exponent (bias 7), three of mantissa, halved."""
    byte = np.arange(1, 127)
    exponent, mantissa = byte >> 3, (byte & 7).astype(np.float32)
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    return (np.where(exponent == 0, np.ldexp(mantissa, -9), normal) * 0.5).astype(np.float32)


UE4M3: NDArray[np.float32] = _ue4m3()
E8M0: NDArray[np.float32] = np.ldexp(np.float32(1), np.arange(2, 254) - 128).astype(np.float32)
"""Powers of two, halved as the levels of 4-bit floats are doubled; from byte 2 on."""
_E8M0_FIRST = 2
_E2M1_CODES = np.array([15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7], np.uint8)
"""The code of each level of a 4-bit float, the lowest level first."""


def _half(values: NDArray[np.float32]) -> Bytes:
    """[...] float to [..., 2] bytes of half precision."""
    return np.ascontiguousarray(values.astype("<f2"))[..., None].view(np.uint8)


def _float(data: Bytes) -> NDArray[np.float32]:
    """[..., 2] bytes of half precision to [...] float."""
    return np.ascontiguousarray(data).view("<f2")[..., 0].astype(np.float32)


def _blocks(coded: Coded, size: int) -> Bytes:
    """Codes as [rows, blocks, size]."""
    rows, n = coded.codes.shape
    return coded.codes.reshape(rows, n // size, size)


def _joined(*parts: Bytes) -> Bytes:
    """Parts of blocks, [rows, blocks, bytes] each, as whole rows."""
    whole = np.concatenate(parts, axis=-1)
    return whole.reshape(whole.shape[0], -1)


def _nibbles(codes: Bytes) -> Bytes:
    """The first half of the last axis in the low four bits, the second half in the high ones."""
    half = codes.shape[-1] // 2
    return (codes[..., :half] & 15) | ((codes[..., half:] & 15) << 4)


def _fifth_bits(codes: Bytes) -> Bytes:
    """Bit 4 of each of 32 codes, in four bytes."""
    return np.packbits(codes >> 4, axis=-1, bitorder="little")


def pack_q4_0(coded: Coded) -> Bytes:
    """Q4_0 and IQ4_NL: a scale, 32 nibbles."""
    return _joined(_half(coded.scales), _nibbles(_blocks(coded, 32)))


def pack_q4_1(coded: Coded) -> Bytes:
    """Q4_1: scale, minimum, 32 nibbles."""
    return _joined(_half(coded.scales), _half(coded.minima), _nibbles(_blocks(coded, 32)))


def pack_q5_0(coded: Coded) -> Bytes:
    """Q5_0: a scale, 32 fifth bits, 32 nibbles."""
    codes = _blocks(coded, 32)
    return _joined(_half(coded.scales), _fifth_bits(codes), _nibbles(codes))


def pack_q5_1(coded: Coded) -> Bytes:
    """Q5_1: scale, minimum, 32 fifth bits, 32 nibbles."""
    codes = _blocks(coded, 32)
    return _joined(_half(coded.scales), _half(coded.minima), _fifth_bits(codes), _nibbles(codes))


def pack_q8_0(coded: Coded) -> Bytes:
    """Q8_0: a scale, 32 signed bytes."""
    return _joined(_half(coded.scales), _blocks(coded, 32) - np.uint8(127))


def pack_mxfp4(coded: Coded) -> Bytes:
    """MXFP4: the exponent of a scale, 32 four-bit floats."""
    exponents = np.searchsorted(E8M0, coded.scales).astype(np.uint8) + np.uint8(_E8M0_FIRST)
    return _joined(exponents[..., None], _nibbles(_E2M1_CODES[_blocks(coded, 32)]))


def pack_nvfp4(coded: Coded) -> Bytes:
    """NVFP4: four scales of eight bits, 64 four-bit floats in four groups."""
    rows, groups = coded.scales.shape
    stored = np.searchsorted(UE4M3, coded.scales).astype(np.uint8) + np.uint8(1)
    stored[coded.scales == 0] = 0
    nibbles = _nibbles(_E2M1_CODES[_blocks(coded, 16)]).reshape(rows, groups // 4, 32)
    return _joined(stored.reshape(rows, groups // 4, 4), nibbles)


def pack_q2_0(coded: Coded) -> Bytes:
    """Q2_0: a scale, 64 two-bit codes, four to a byte."""
    codes = _blocks(coded, 64).reshape(*coded.scales.shape, 16, 4)
    packed = codes[..., 0] | codes[..., 1] << 2 | codes[..., 2] << 4 | codes[..., 3] << 6
    return _joined(_half(coded.scales), packed)


def pack_q1_0(coded: Coded) -> Bytes:
    """Q1_0: a scale, 128 signs."""
    signs = np.packbits(_blocks(coded, 128), axis=-1, bitorder="little")
    return _joined(_half(coded.scales), signs)


def _per_block(values: NDArray[np.float32], count: int) -> Bytes:
    """Integer scales as [rows, blocks, count] bytes; negative ones wrap."""
    rows, groups = values.shape
    return values.astype(np.int16).astype(np.uint8).reshape(rows, groups // count, count)


def _quarters(codes: Bytes) -> Bytes:
    """256 codes of two bits: of each 128, four runs of 32 share 32 bytes."""
    runs = codes.reshape(*codes.shape[:-1], 2, 4, 32) & 3
    packed = runs[..., 0, :] | runs[..., 1, :] << 2 | runs[..., 2, :] << 4 | runs[..., 3, :] << 6
    return packed.reshape(*codes.shape[:-1], 64)


def pack_q2_k(coded: Coded) -> Bytes:
    """Q2_K: 16 scales and minima of four bits, 256 two-bit codes, two scales."""
    scales = _per_block(coded.scales, 16) | _per_block(coded.minima, 16) << 4
    codes = _quarters(_blocks(coded, 256))
    return _joined(scales, codes, _half(coded.big), _half(coded.big_minima))


def unpack_q2_k(data: Bytes) -> Coded:
    """The scales in rows of Q2_K."""
    block = data.reshape(data.shape[0], -1, 84)
    scales = block[..., :16]
    return _scales(scales & 15, scales >> 4, _float(block[..., 80:82]), _float(block[..., 82:84]))


def pack_q3_k(coded: Coded) -> Bytes:
    """Q3_K: 256 third bits, 256 two-bit codes, 16 scales of six bits, a scale."""
    codes = _blocks(coded, 256)
    thirds = (codes >> 2).reshape(*codes.shape[:-1], 8, 32)
    mask = np.zeros((*codes.shape[:-1], 32), np.uint8)
    for bit in range(8):
        mask |= thirds[..., bit, :] << bit
    scales = _per_block(coded.scales + 32, 16)
    low = (scales[..., :8] & 15) | (scales[..., 8:] & 15) << 4
    top = (scales >> 4).reshape(*scales.shape[:-1], 4, 4)
    high = top[..., 0, :] | top[..., 1, :] << 2 | top[..., 2, :] << 4 | top[..., 3, :] << 6
    return _joined(mask, _quarters(codes), low, high, _half(coded.big))


def unpack_q3_k(data: Bytes) -> Coded:
    """The scales in rows of Q3_K."""
    block = data.reshape(data.shape[0], -1, 110)
    low, high = block[..., 96:104], block[..., 104:108]
    lows = np.concatenate([low & 15, low >> 4], axis=-1)
    highs = np.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], axis=-1)
    scales = (lows | highs << 4).astype(np.float32) - 32
    big = _float(block[..., 108:110])
    return _scales(scales, np.zeros_like(scales), big, np.zeros_like(big))


def _six_bits(scales: Bytes, minima: Bytes) -> Bytes:
    """Eight scales and eight minima of six bits in twelve bytes."""
    first = (scales[..., :4] & 63) | (scales[..., 4:] >> 4) << 6
    second = (minima[..., :4] & 63) | (minima[..., 4:] >> 4) << 6
    third = (scales[..., 4:] & 15) | (minima[..., 4:] & 15) << 4
    return np.concatenate([first, second, third], axis=-1)


def _pairs(codes: Bytes) -> Bytes:
    """256 nibbles: of each 64, two runs of 32 share 32 bytes."""
    runs = codes.reshape(*codes.shape[:-1], 4, 64)
    return _nibbles(runs).reshape(*codes.shape[:-1], 128)


def pack_q4_k(coded: Coded) -> Bytes:
    """Q4_K: two scales, eight scales and minima of six bits, 256 nibbles."""
    small = _six_bits(_per_block(coded.scales, 8), _per_block(coded.minima, 8))
    codes = _pairs(_blocks(coded, 256))
    return _joined(_half(coded.big), _half(coded.big_minima), small, codes)


def pack_q5_k(coded: Coded) -> Bytes:
    """Q5_K: as Q4_K, with 256 fifth bits before the nibbles."""
    codes = _blocks(coded, 256)
    small = _six_bits(_per_block(coded.scales, 8), _per_block(coded.minima, 8))
    fifths = (codes >> 4).reshape(*codes.shape[:-1], 8, 32)
    mask = np.zeros((*codes.shape[:-1], 32), np.uint8)
    for bit in range(8):
        mask |= fifths[..., bit, :] << bit
    return _joined(_half(coded.big), _half(coded.big_minima), small, mask, _pairs(codes))


def unpack_q4_k(data: Bytes) -> Coded:
    """The scales in rows of Q4_K."""
    return _unpack_six_bits(data.reshape(data.shape[0], -1, 144))


def unpack_q5_k(data: Bytes) -> Coded:
    """The scales in rows of Q5_K."""
    return _unpack_six_bits(data.reshape(data.shape[0], -1, 176))


def _unpack_six_bits(block: Bytes) -> Coded:
    first, second, third = block[..., 4:8], block[..., 8:12], block[..., 12:16]
    scales = np.concatenate([first & 63, (third & 15) | first >> 6 << 4], axis=-1)
    minima = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=-1)
    return _scales(scales, minima, _float(block[..., 0:2]), _float(block[..., 2:4]))


def pack_q6_k(coded: Coded) -> Bytes:
    """Q6_K: 256 nibbles, 256 pairs of high bits, 16 scales of eight bits, a scale."""
    runs = _blocks(coded, 256).reshape(*coded.big.shape, 2, 4, 32)
    low = np.concatenate(
        [
            (runs[..., 0, :] & 15) | (runs[..., 2, :] & 15) << 4,
            (runs[..., 1, :] & 15) | (runs[..., 3, :] & 15) << 4,
        ],
        axis=-1,
    )
    high = runs >> 4
    tops = high[..., 0, :] | high[..., 1, :] << 2 | high[..., 2, :] << 4 | high[..., 3, :] << 6
    shape = coded.big.shape
    return _joined(
        low.reshape(*shape, 128),
        tops.reshape(*shape, 64),
        _per_block(coded.scales, 16),
        _half(coded.big),
    )


def unpack_q6_k(data: Bytes) -> Coded:
    """The scales in rows of Q6_K."""
    block = data.reshape(data.shape[0], -1, 210)
    scales = np.ascontiguousarray(block[..., 192:208]).view(np.int8).astype(np.float32)
    big = _float(block[..., 208:210])
    return _scales(scales, np.zeros_like(scales), big, np.zeros_like(big))


def pack_iq4_xs(coded: Coded) -> Bytes:
    """IQ4_XS: a scale, eight scales of six bits, 256 nibbles in groups of 32."""
    scales = _per_block(coded.scales + 32, 8)
    top = (scales >> 4).astype(np.uint16)
    high = np.zeros(scales.shape[:-1], np.uint16)
    for index in range(8):
        high |= top[..., index] << np.uint16(2 * index)
    low = (scales[..., 0::2] & 15) | (scales[..., 1::2] & 15) << 4
    groups = _blocks(coded, 32).reshape(*coded.big.shape, 8, 32)
    nibbles = _nibbles(groups).reshape(*coded.big.shape, 128)
    return _joined(_half(coded.big), high[..., None].view(np.uint8), low, nibbles)


def unpack_iq4_xs(data: Bytes) -> Coded:
    """The scales in rows of IQ4_XS."""
    block = data.reshape(data.shape[0], -1, 136)
    high = np.ascontiguousarray(block[..., 2:4]).view("<u2")
    low = block[..., 4:8]
    lows = np.stack([low & 15, low >> 4], axis=-1).reshape(*block.shape[:-1], 8)
    highs = np.stack([high[..., 0] >> 2 * index & 3 for index in range(8)], axis=-1)
    scales = (lows | highs << 4).astype(np.float32) - 32
    big = _float(block[..., 0:2])
    return _scales(scales, np.zeros_like(scales), big, np.zeros_like(big))


def _scales(
    small: NDArray[np.generic],
    small_minima: NDArray[np.generic],
    big: NDArray[np.float32],
    big_minima: NDArray[np.float32],
) -> Coded:
    """Scales alone, [rows, blocks, groups of a block] each, without codes."""
    rows = small.shape[0]
    return Coded(
        codes=np.zeros((rows, 0), np.uint8),
        scales=small.reshape(rows, -1).astype(np.float32),
        minima=small_minima.reshape(rows, -1).astype(np.float32),
        big=big,
        big_minima=big_minima,
    )
