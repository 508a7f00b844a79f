"""Whether two sets of runs differ, and by how much; pure.

Runs are few, and one disturbed by a neighbour lies far off, so nothing is assumed about how they
spread: Wilcoxon, Mann and Whitney's rank test, with the exact distribution of its statistic. It
asks in how many of all pairs, a run of each side, the one is larger. A pair that is equal counts
against a difference, so ties make the test more careful, never less.

The size of a difference is Hodges and Lehmann's: the median of the ratios in all those pairs. Its
interval holds the ratios that the same test would not reject, so it leaves out 1 exactly if the
test finds a difference. A bootstrap of the ratio of medians would need more than five or seven
runs: it can only draw values that were seen, and its intervals come out too narrow.

Who makes twenty comparisons finds one difference by chance. Benjamini and Hochberg's step-up (J. R.
Stat. Soc. B 57, 1995) holds the expected share of false ones among the differences found; intervals
are widened to match (Benjamini and Yekutieli, JASA 100, 2005).

Runs of one process know nothing of another day, another place in memory, another temperature. What
is found here holds for these runs; `REPEATABLE` says what a second measurement may differ by.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

FALSE_SHARE = 0.05
"""Of the differences found, at most so many are expected to be chance."""
REPEATABLE = 0.05
"""On an idle machine, medians of one model measured twice may differ by this much."""
_MOST_RUNS = 100
"""Of more, evenly spaced ones are taken: the exact distribution costs the cube of their number."""


class Verdict(str, Enum):
    """What the runs say."""

    HIGHER = "higher"
    LOWER = "lower"
    NO_DIFFERENCE = "no difference seen"
    TOO_FEW = "too few runs to tell"


@dataclass(frozen=True)
class Comparison:
    """One set of runs against another, the baseline.

    Attributes:
        ratio: By which runs are larger than the baseline's; the median over all pairs.
        low, high: Interval of it at `level`; None where so few runs give none.
        level: Of the interval, widened for the number of comparisons.
        p: How often chance alone would give a difference as clear as this, two-sided.
        adjusted_p: The same for all comparisons made together; a difference if at most
            `FALSE_SHARE`.
        verdict: In words.
        runs, baseline_runs: How many there were.
    """

    ratio: float
    low: float | None
    high: float | None
    level: float
    p: float
    adjusted_p: float
    verdict: Verdict
    runs: int
    baseline_runs: int

    @property
    def is_small(self) -> bool:
        """Whether a second measurement of the same thing might differ by as much."""
        return abs(self.ratio - 1) < REPEATABLE


@dataclass(frozen=True)
class _Pairs:
    """All ratios of a run to a run of the baseline, sorted, and what chance does to them."""

    ratios: tuple[float, ...]
    tail: tuple[float, ...]
    runs: int
    baseline_runs: int

    @property
    def p(self) -> float:
        smaller = sum(ratio <= 1 for ratio in self.ratios)
        larger = sum(ratio >= 1 for ratio in self.ratios)
        return min(1.0, 2 * self.tail[min(smaller, larger)])

    @property
    def least_p(self) -> float:
        return min(1.0, 2 * self.tail[0])

    def interval(self, alpha: float) -> tuple[float, float] | None:
        outside = sum(2 * chance <= alpha for chance in self.tail)
        if outside == 0:
            return None
        return self.ratios[outside - 1], self.ratios[-outside]


def compare(
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]], false_share: float = FALSE_SHARE
) -> tuple[Comparison, ...]:
    """Compare runs with runs, many times at once.

    Args:
        pairs: Of each comparison the runs and the baseline's, all above zero, at least one each.
        false_share: How many of the differences found may be chance.

    Raises:
        ValueError: a run that is not above zero, or none.
    """
    found = [_pairs(*pair) for pair in pairs]
    values = [each.p for each in found]
    adjusted = adjust(values)
    differences = sum(p <= false_share for p in adjusted)
    alpha = max(differences, 1) * false_share / max(len(found), 1)
    return tuple(
        _comparison(each, p, alpha, false_share) for each, p in zip(found, adjusted, strict=True)
    )


def adjust(values: Sequence[float]) -> tuple[float, ...]:
    """Benjamini and Hochberg's adjusted p-values, in the order given."""
    order = sorted(range(len(values)), key=lambda index: values[index], reverse=True)
    adjusted = [1.0] * len(values)
    least = 1.0
    for place, index in enumerate(order):
        factor = max(len(values) / (len(values) - place), 1.0)
        least = min(least, values[index] * factor)
        adjusted[index] = least
    return tuple(adjusted)


def _pairs(runs: Sequence[float], baseline: Sequence[float]) -> _Pairs:
    if not all(value > 0 and math.isfinite(value) for value in (*runs, *baseline)):
        raise ValueError("runs have to be above zero")
    if not runs or not baseline:
        raise ValueError("there has to be a run on both sides")
    ours, theirs = _thinned(runs), _thinned(baseline)
    ratios = sorted(one / other for one in ours for other in theirs)
    return _Pairs(tuple(ratios), _tail(len(ours), len(theirs)), len(runs), len(baseline))


def _comparison(pairs: _Pairs, adjusted: float, alpha: float, false_share: float) -> Comparison:
    ratio = statistics.median(pairs.ratios)
    interval = pairs.interval(alpha)
    if adjusted <= false_share:
        verdict = Verdict.HIGHER if ratio > 1 else Verdict.LOWER
    elif pairs.least_p > false_share or pairs.p <= pairs.least_p:
        verdict = Verdict.TOO_FEW
    else:
        verdict = Verdict.NO_DIFFERENCE
    return Comparison(
        ratio=ratio,
        low=None if interval is None else interval[0],
        high=None if interval is None else interval[1],
        level=1 - alpha,
        p=pairs.p,
        adjusted_p=adjusted,
        verdict=verdict,
        runs=pairs.runs,
        baseline_runs=pairs.baseline_runs,
    )


def _thinned(runs: Sequence[float]) -> list[float]:
    if len(runs) <= _MOST_RUNS:
        return list(runs)
    return [runs[index * len(runs) // _MOST_RUNS] for index in range(_MOST_RUNS)]


def _tail(runs: int, baseline_runs: int) -> tuple[float, ...]:
    """How likely at most 0, 1, 2, ... of all pairs are of one kind, if nothing differs.

    The numbers of arrangements are the coefficients of a Gaussian binomial: the product of
    (1 - q^(m+i)) / (1 - q^i) for i from 1 to n.
    """
    most = runs * baseline_runs
    counts = [1] + [0] * most
    for i in range(1, runs + 1):
        for at in range(most, baseline_runs + i - 1, -1):
            counts[at] -= counts[at - baseline_runs - i]
        for at in range(i, most + 1):
            counts[at] += counts[at - i]
    total = math.comb(runs + baseline_runs, runs)
    tail, reached = [], 0
    for count in counts:
        reached += count
        tail.append(reached / total)
    return tuple(tail)
