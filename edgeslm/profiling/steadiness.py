"""How well runs know their median, and how many more are worth it; pure.

Nothing is assumed about single runs but that most are undisturbed: the spread is the median
distance from the median, which a neighbour who disturbs every third run does not change much.
Nor are they taken to be independent: where a machine is fast for a while and then slow for a while,
many runs tell as little as few, and only a longer time tells more.
"""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Sequence

from edgeslm.profiling.racing import spread

RUNS, MOST_RUNS = 7, 140
"""Of each kind, where nobody says how many; the second where the first tell too little."""
WARM_UP_SECONDS = 20.0
"""Of decoding before all runs: a processor that has rested boosts about as long."""
SURE = 0.015
"""A median that is known to this much, as a fraction of it, needs no more runs."""
UNSURE = 0.05
"""One that is known no better than this is spoilt."""
DRIFTED = 0.05
"""A change from the first half of the runs to the second, beyond which neither is the answer."""
LEAST_RUNS = 3
"""Fewer tell nothing about themselves."""
_NORMAL = 1.4826
"""The standard deviation of a normal distribution, in median distances from its median."""
_MEDIAN = math.sqrt(math.pi / 2)
"""The standard error of a median of many samples, in that of their mean."""
_NINETY_PERCENT = 1.645


def median_error(samples: Sequence[float]) -> float | None:
    """Half of the 90% interval of the samples' median, as a fraction of it.

    It holds for disturbances that come and go, from run to run or in some runs' time. What slows
    all runs alike, it cannot see.

    Returns:
        None for fewer than three samples.
    """
    if len(samples) < LEAST_RUNS:
        return None
    deviation = _NORMAL * spread(samples)
    error = _NINETY_PERCENT * _MEDIAN * deviation * math.sqrt(lasting(samples) / len(samples))
    return error / statistics.median(samples)


def lasting(samples: Sequence[float]) -> float:
    """For how many runs a disturbance lasts: so many tell as much as a single independent one.

    The integrated autocorrelation time of which side of the median the samples lie on, which is
    what the median's error hangs by. The sum ends at the first correlation that is not positive
    (as Geyer's initial positive sequence, Statistical Science 7, 1992, so that no noise is summed).

    Returns:
        1 for independent samples.
    """
    middle = statistics.median(samples)
    sides = [(each > middle) - (each < middle) for each in samples]
    scale = sum(side * side for side in sides)
    time = 1.0
    for lag in range(1, len(sides) // 2):
        together = sum(map(operator.mul, sides, sides[lag:]))
        if together <= 0:
            break
        time += 2 * together / scale
    return time


def drift(samples: Sequence[float]) -> float | None:
    """By how much the second half of the samples lies above the first, as a fraction of it.

    Returns:
        None for fewer than three in each half; one in the middle belongs to neither.
    """
    half = len(samples) // 2
    if half < LEAST_RUNS:
        return None
    return statistics.median(samples[-half:]) / statistics.median(samples[:half]) - 1


def wants_more(samples: Sequence[float], most: int) -> bool:
    """Whether another run is worth it, of at most so many."""
    error = median_error(samples)
    return len(samples) < most and error is not None and error > SURE
