"""Grammars of the whole numbers between two bounds, digit by digit."""

from __future__ import annotations

from edgeslm.runtime.gbnf import alternatives, literal

MOST_DIGITS = 16
"""Of a number without bounds: as many as a float holds."""


def between(lowest: int | None, highest: int | None) -> str:
    """All whole numbers from `lowest` to `highest`, either of which may be missing."""
    bound = int(10**MOST_DIGITS) - 1
    low, high = -bound if lowest is None else lowest, bound if highest is None else highest
    parts = []
    if low < 0:
        parts += [f'"-" {part}' for part in _naturals(max(1, -high), -low)]
    if high >= 0:
        parts += _naturals(max(0, low), high)
    return alternatives(parts)


def _naturals(low: int, high: int) -> list[str]:
    """From `low` to `high`, those of each length by themselves."""
    parts = []
    for length in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (length - 1) if length > 1 else 0)
        parts.append(_same_length(str(first), str(min(high, 10**length - 1))))
    return parts


def _same_length(low: str, high: str) -> str:
    """Numbers of as many digits as both ends have, leading zeros included."""
    if low == high:
        return literal(low)
    if set(low) == {"0"} and set(high) == {"9"}:
        return f"[0-9]{{{len(low)}}}" if len(low) > 1 else "[0-9]"
    if len(low) == 1:
        return f"[{low}-{high}]"
    rest = len(low) - 1
    nines, zeros = "9" * rest, "0" * rest
    if low[0] == high[0]:
        return f"{literal(low[0])} {_same_length(low[1:], high[1:])}"
    parts, begin, end = [], int(low[0]), int(high[0])
    if low[1:] != zeros:
        parts.append(f"{literal(low[0])} {_same_length(low[1:], nines)}")
        begin += 1
    if high[1:] != nines:
        parts.append(f"{literal(high[0])} {_same_length(zeros, high[1:])}")
        end -= 1
    if begin <= end:
        digits = f"[{begin}-{end}]" if begin < end else literal(str(begin))
        parts.append(f"{digits} {_same_length(zeros, nines)}")
    return alternatives(parts)
