"""Joules per token from readings of a meter, with and without what an idle machine draws; pure.

Of each stretch of work there are two readings, before and after. With E its joules, t its seconds
and n its tokens:

    gross  e = median of E / n
    net    median of (E - P t) / n,   P the watts of the idle baseline

A standard uncertainty (one sigma) stands beside each:

    u(e)   = sqrt(u_runs^2 + u_meter^2)
    u_runs = 1.4826 x MAD(E / n) / sqrt(number of stretches)
    u_meter = watts x period / sqrt(6) / tokens of a stretch
    u(net) = sqrt(u(e)^2 + (t / n x u(P))^2)

MAD is the median distance from the median; times 1.4826 it is the standard deviation of what is
spread normally, and one disturbed run hardly moves it. A meter whose reading changes every `period`
seconds is late by anything from nothing to a period at both ends of a stretch: each end has the
standard deviation period / sqrt(12) of an even distribution, both together period / sqrt(6). How
well the instrument is calibrated is in none of this.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

ENOUGH_CHANGES = 10
"""Changes of a meter's reading that a stretch must hold for its energy to mean much."""
_NORMAL = 1.4826


@dataclass(frozen=True)
class Stretch:
    """What lies between two readings of a meter; `tokens` is 0 for the idle baseline."""

    joules: float
    seconds: float
    tokens: int = 0


@dataclass(frozen=True)
class Idle:
    """What the machine draws when nothing runs.

    Attributes:
        watts: Median of the baseline's parts.
        uncertainty_watts: One sigma.
        seconds: Length of the whole baseline.
    """

    watts: float
    uncertainty_watts: float
    seconds: float


@dataclass(frozen=True)
class PerToken:
    """Joules per token; net and its uncertainty are None without a baseline.

    Attributes:
        gross: Idle power included.
        gross_uncertainty: One sigma.
        net: Without what the idle machine would have drawn.
        net_uncertainty: One sigma.
        seconds: Length of all stretches together.
        enough_samples: Whether the reading changed at least ten times in a stretch.
    """

    gross: float
    gross_uncertainty: float
    net: float | None
    net_uncertainty: float | None
    seconds: float
    enough_samples: bool


def idle_power(parts: Sequence[Stretch], period_seconds: float) -> Idle | None:
    """The baseline from its parts, one after the other; None where there are none."""
    parts = [part for part in parts if part.seconds > 0]
    if not parts:
        return None
    seconds = sum(part.seconds for part in parts)
    if period_seconds * 2 > min(part.seconds for part in parts):
        parts = [Stretch(sum(part.joules for part in parts), seconds)]
    watts = [part.joules / part.seconds for part in parts]
    median = statistics.median(watts)
    late = abs(median) * period_seconds / math.sqrt(6) / seconds
    return Idle(median, math.hypot(_standard_error(watts), late), seconds)


def per_token(
    stretches: Sequence[Stretch], period_seconds: float, idle: Idle | None
) -> PerToken | None:
    """Energy of a token from stretches of the same work; None where there are none."""
    stretches = [each for each in stretches if each.tokens > 0 and each.seconds > 0]
    if not stretches:
        return None
    gross = [each.joules / each.tokens for each in stretches]
    watts = statistics.median(each.joules / each.seconds for each in stretches)
    tokens = statistics.median(each.tokens for each in stretches)
    late = abs(watts) * period_seconds / math.sqrt(6) / tokens
    uncertainty = math.hypot(_standard_error(gross), late)
    net = net_uncertainty = None
    if idle is not None:
        net = statistics.median(
            (each.joules - idle.watts * each.seconds) / each.tokens for each in stretches
        )
        pace = statistics.median(each.seconds / each.tokens for each in stretches)
        net_uncertainty = math.hypot(uncertainty, pace * idle.uncertainty_watts)
    return PerToken(
        gross=statistics.median(gross),
        gross_uncertainty=uncertainty,
        net=net,
        net_uncertainty=net_uncertainty,
        seconds=sum(each.seconds for each in stretches),
        enough_samples=is_long_enough(
            statistics.median(each.seconds for each in stretches), period_seconds
        ),
    )


def needed_seconds(period_seconds: float) -> float:
    """How long a stretch must be for a meter whose reading changes that often."""
    return ENOUGH_CHANGES * period_seconds


def is_long_enough(seconds: float, period_seconds: float) -> bool:
    """Whether a stretch holds ten changes of the reading."""
    return seconds >= needed_seconds(period_seconds)


def _standard_error(samples: Sequence[float]) -> float:
    """Of their median, as far as the spread tells; 0 for a single sample, which tells nothing."""
    middle = statistics.median(samples)
    deviation = statistics.median(abs(sample - middle) for sample in samples)
    return _NORMAL * deviation / math.sqrt(len(samples))
