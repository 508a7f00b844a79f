"""Quantities as people write them: parse sizes and durations, print them back.

Decimal suffixes are powers of 1000 (250M = 250,000,000 bytes), binary ones carry an
`i` (250Mi = 262,144,000 bytes). Nothing here knows what is being counted.
"""

from __future__ import annotations

import math
import re

from edgeslm.errors import InvalidOption

_DECIMAL = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_FACTORS = _DECIMAL | _BINARY
_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d+)?|\.\d+)\s*([kKmMgGtT]?i?)[bB]?\s*", re.ASCII)


def parse_bytes(text: str) -> int:
    """Bytes in "250M", "1.5G", "512Mi" or "1024".

    Raises:
        InvalidOption: not a positive size.
    """
    match = _SIZE.fullmatch(text)
    factor = _FACTORS.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise InvalidOption(
            f"not a size: {text!r}", hint="Write it like 250M, 1.5G or 512Mi (M = 1000 * 1000)."
        )
    value = round(float(match[1]) * factor)
    if value <= 0:
        raise InvalidOption(f"a size must be positive: {text!r}", hint="Write it like 250M.")
    return value


def parse_bits(text: str) -> float:
    """Bits per weight in "4" or "3.7"; anything in [1, 32].

    Raises:
        InvalidOption: not a number in that range.
    """
    try:
        bits = float(text)
    except ValueError:
        bits = math.nan
    if not 1 <= bits <= 32:
        raise InvalidOption(
            f"not a width in bits per weight: {text!r}",
            hint="Any number from 1 to 32, for example 4.5.",
        )
    return bits


def parse_widths(text: str) -> tuple[float, ...]:
    """Several widths in bits per weight, in "3.5,4,5"; rising, each once.

    Raises:
        InvalidOption: one of them is none, or there are none.
    """
    return tuple(sorted({parse_bits(part) for part in text.split(",")}))


def format_bytes(count: float) -> str:
    """Bytes as in 98.4 MB: decimal units, three significant digits."""
    for factor, suffix in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if abs(count) >= factor:
            return f"{significant(count / factor)} {suffix}"
    return f"{count:.0f} B"


def format_seconds(seconds: float) -> str:
    """A duration as in 840 ms, 12.3 s or 3 min 20 s."""
    if seconds < 1:
        return f"{significant(seconds * 1000)} ms"
    if seconds < 60:
        return f"{significant(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def significant(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits and no exponent: 0.0123, 4.57, 105, 2350."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(decimals, 0)}f}"
