"""How many rounds a benchmark takes: as many as it needs to know its ratios.

On a shared machine the ratio of two programs' speeds differs by a quarter from round to round. So
a benchmark goes on until the median of its ratios is known, and prints how well that is. Whether
to go on hangs by the width of the interval alone, never by what the ratio is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

LEAST, MOST = 15, 40
"""Where nobody says how many."""
KNOWN = 0.02
"""How near to the median both ends of its interval have to be, as a fraction of it."""
_OUTSIDE = 0.05
"""Chance that the true median lies beyond one end of the interval."""


def interval(samples: Sequence[float]) -> tuple[float, float]:
    """The 90% interval of the median, whatever the samples' distribution is; all of fewer than 5.

    Each sample lies below the true median with a chance of one half, so their order tells.
    """
    ordered, left_out, chance = sorted(samples), 0, 0.0
    while (chance := chance + math.comb(len(ordered), left_out) / 2 ** len(ordered)) <= _OUTSIDE:
        left_out += 1
    outside = max(left_out - 1, 0)
    return ordered[outside], ordered[-1 - outside]


def enough(wanted: int | None, *ratios: Sequence[float]) -> bool:
    """Whether no further round is worth it.

    Args:
        wanted: Exactly so many, if somebody said so; one at least.
        ratios: Each one of every round so far.
    """
    done = min(map(len, ratios))
    if wanted is not None:
        return done >= max(wanted, 1)
    return done >= MOST or (done >= LEAST and all(map(_is_known, ratios)))


def spread(samples: Sequence[float]) -> str:
    """The median, its 90% interval, the lowest and the highest."""
    low, high = interval(samples)
    middle = statistics.median(samples)
    ends = f"({min(samples):.3f} to {max(samples):.3f})"
    return f"{middle:6.3f} [{low:.3f} to {high:.3f}] {ends}"


def _is_known(samples: Sequence[float]) -> bool:
    middle = statistics.median(samples)
    return all(abs(end / middle - 1) <= KNOWN for end in interval(samples))
