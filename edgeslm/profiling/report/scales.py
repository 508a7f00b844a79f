"""Axes: from values to places, and which values get a tick; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_LOG_RANGE = 8.0
"""Values that differ by more than that factor are shown on a logarithmic axis, if it may be one."""
_NOTHING = 1e-100
"""Less is zero: between such numbers there is no room for ticks."""

_MOST_RANGE = 1e12


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` on places from `start` to `end`.

    Attributes:
        ticks: Values within, in rising order.
        is_log: Whether equal distances are equal factors.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        if self.is_log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)


def scale(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    may_be_log: bool = False,
    from_zero: bool = False,
    ticks: int = 4,
    margin: float = 0.08,
) -> Scale:
    """An axis for `values`, with about so many ticks.

    Args:
        values: At least one, all finite.
        start: Where the lowest goes.
        end: Where the highest goes.
        may_be_log: Logarithmic if the values are positive and far apart.
        from_zero: The axis begins at zero.
        ticks: About how many.
        margin: Kept free at both ends, as a part of the axis.
    """
    seen = [value if abs(value) > _NOTHING else 0.0 for value in values]
    low, high = min(seen), max(seen)
    if may_be_log and low > 0 and _LOG_RANGE < high / low < _MOST_RANGE:
        factor = (high / low) ** margin
        low, high = low / factor, high * factor
        return Scale(low, high, start, end, _log_ticks(low, high), is_log=True)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
        high += (high - low) * margin or 1.0
    else:
        room = (high - low or abs(high) or 1.0) * margin
        low, high = (max(low - room, 0.0) if low >= 0 else low - room), high + room
    return Scale(low, high, start, end, _linear_ticks(low, high, ticks))


def _linear_ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in _STEPS if each * power >= rough * 0.8)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(float(f"{index * step:.12g}") for index in range(first, last + 1))


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1,), (1, 3), (1, 2, 5)):
        ticks = [part * 10.0**power for power in powers for part in parts]
        inside = tuple(tick for tick in ticks if low <= tick <= high)
        if len(inside) >= 3:
            return inside
    return inside


def tick_text(value: float, largest: float) -> str:
    """A tick's value, short: 0.05, 1.5, 20, 3k."""
    if largest >= 10_000 and value:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"
