"""Which type each tensor gets when all together may take so many bytes, so much time, or both.

A multiple-choice knapsack: minimise the sum of the scores. With one limit, each tensor's useful
types form a falling curve of score over cost; on its lower convex hull every step buys less per
unit than the one before, and taking all tensors' steps in the order of what a unit buys solves
the Lagrangian relaxation for every multiplier at once. With two limits the cost is a mixture of
both, each as a share of its limit; which mixture is right is searched for. What such a
walk leaves over or takes too much is mended by single changes and exchanges (`improvement`).
Pure: no arrays, no files.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeslm.packager.quantize.candidates import Candidate, Limits, Options
from edgeslm.packager.quantize.improvement import Curves, Mix, Mixture, improve, repair

__all__ = [
    "Allocation",
    "Candidate",
    "Infeasible",
    "Limits",
    "Marginal",
    "Options",
    "allocate",
    "marginal",
    "smallest_bytes",
]

_SEARCHED = 10
"""Mixtures tried on the way to the right one; what remains is repaired."""
_LARGEST = 2
"""So many of the largest tensors are tried at each of their types in turn: one step of a big
embedding can be more than all other tensors together have left."""
_ROUNDING = 1e-12
_IMPROVED = 3
"""Starts that are improved to the end, the best ones."""


class Infeasible(ValueError):
    """No mix that keeps the limits was found; with one limit there is none."""


@dataclass(frozen=True)
class Allocation:
    """The candidate chosen for each tensor, in the order of the options.

    The prices are what a unit more of each limit would save, to first order; 0 where it does
    not bind.
    """

    chosen: tuple[Candidate, ...]
    score_per_byte: float = 0.0
    score_per_second: float = 0.0

    @property
    def bytes(self) -> int:
        """What the tensors take together."""
        return sum(candidate.bytes for candidate in self.chosen)

    @property
    def seconds(self) -> float:
        """What they cost together for each token."""
        return sum(candidate.seconds for candidate in self.chosen)

    @property
    def score(self) -> float:
        """What is lost in all."""
        return sum(candidate.score for candidate in self.chosen)


@dataclass(frozen=True)
class Marginal:
    """What binds ("bytes", "seconds", "both", None for nothing), and what more of it would save."""

    binds: str | None
    score_per_megabyte: float
    score_per_millisecond: float


def marginal(allocation: Allocation) -> Marginal:
    """What one more megabyte, or millisecond per token, would buy, to first order."""
    by_bytes, by_seconds = allocation.score_per_byte > 0, allocation.score_per_second > 0
    names = {(True, True): "both", (True, False): "bytes", (False, True): "seconds"}
    return Marginal(
        binds=names.get((by_bytes, by_seconds)),
        score_per_megabyte=allocation.score_per_byte * 1e6,
        score_per_millisecond=allocation.score_per_second * 1e-3,
    )


def smallest_bytes(options: Sequence[Options]) -> int:
    """The least number of bytes that can be met."""
    return sum(min(entry.bytes for entry in item.candidates) for item in options)


def allocate(options: Sequence[Options], limits: Limits) -> Allocation:
    """The mix with (nearly) the least total score that keeps `limits`.

    Raises:
        Infeasible: no mix keeps the limits.
    """
    curves = [_useful(item.candidates, limits) for item in options]
    roads = _roads(curves, limits)
    mixes = list(itertools.islice(_sound(roads, curves), _IMPROVED)) or _any_fitting(curves, limits)
    if not mixes:
        raise Infeasible("no mix keeps the limits")
    road = roads[0]
    for mix in mixes:
        improve(mix, curves, road.mixture, road.worth)
    best = min(mixes, key=lambda mix: mix.score)
    return Allocation(
        tuple(best.chosen), road.worth * road.mixture.per_byte, road.worth * road.mixture.per_second
    )


class _Road:
    """All tensors' steps along their hulls under one mixture, the ones worth most first.

    `mix` is where taking them as long as they fit leads, `worth` what a unit of cost would save
    there: 0 where nothing is left to take.
    """

    def __init__(self, curves: Curves, limits: Limits, share: float) -> None:
        """`share`: the weight of the seconds, from 0 (bytes alone count) to 1."""
        self.mixture = Mixture((1 - share) / limits.unit_bytes, share / limits.unit_seconds)
        self._curves = curves
        self._limits = limits
        self._first: list[_Point] = []
        steps: list[tuple[float, int, _Point]] = []
        for tensor, curve in enumerate(curves):
            hull = _hull(_falling(_points(curve, self.mixture)))
            self._first.append(hull[0])
            steps += [
                (-_worth(lower, upper), tensor, upper) for lower, upper in itertools.pairwise(hull)
            ]
        self._steps = sorted(steps, key=lambda step: step[:2])
        self.mix, self.worth = self._walk()

    def starts(self) -> Iterator[Mix]:
        """Mixes to mend: where the road leads, one step further, and with a large tensor fixed."""
        yield self.mix
        yield self._walk(over=True)[0]
        cost = self.mixture.cost
        order = sorted(
            range(len(self._curves)), key=lambda item: -max(map(cost, self._curves[item]))
        )
        for tensor in order[:_LARGEST]:
            for point in _points(self._curves[tensor], self.mixture):
                yield self._walk((tensor, point))[0]

    def _walk(
        self, fixed: tuple[int, _Point] | None = None, *, over: bool = False
    ) -> tuple[Mix, float]:
        """Take steps as long as they fit, and what the first one that did not was worth.

        Args:
            fixed: A tensor that keeps this candidate.
            over: Take that first one too, and stop there; else go on with other tensors.
        """
        chosen = list(self._first)
        if fixed is not None:
            chosen[fixed[0]] = fixed[1]
        left = 1 + _ROUNDING - sum(point[0] for point in chosen)
        stopped = {fixed[0]} if fixed is not None else set()
        worth = 0.0
        for value, tensor, step in self._steps:
            if tensor in stopped:
                continue
            more = step[0] - chosen[tensor][0]
            if more <= left:
                chosen[tensor] = step
                left -= more
                continue
            worth = worth or -value
            stopped.add(tensor)
            if over:
                chosen[tensor] = step
                break
        return Mix([point[2] for point in chosen], self._limits), worth


def _roads(curves: Curves, limits: Limits) -> list[_Road]:
    """The road under the one limit that decides, else two that enclose the right mixture."""
    if limits.seconds is None:
        return [_Road(curves, limits, 0.0)]
    if limits.bytes is None:
        return [_Road(curves, limits, 1.0)]
    ends = []
    for share in (0.0, 1.0):
        road = _Road(curves, limits, share)
        if road.mix.fits():
            return [road]
        ends.append((share, _slowness(road.mix), road))
    slow, fast = ends
    for index in range(_SEARCHED):
        # Every other time half-way, so that a curve that hugs one end cannot stall the search.
        secant = index % 2 == 0 and slow[1] > 0 > fast[1]
        part = slow[1] / (slow[1] - fast[1]) if secant else 0.5
        middle = slow[0] + (fast[0] - slow[0]) * part
        road = _Road(curves, limits, middle)
        if road.mix.fits():
            return [road]
        point = (middle, _slowness(road.mix), road)
        slow, fast = (point, fast) if point[1] > 0 else (slow, point)
    return [slow[2], fast[2]]


def _slowness(mix: Mix) -> float:
    """How much more of its seconds than of its bytes a mix uses, in shares of the limits."""
    return mix.seconds / mix.limits.unit_seconds - mix.bytes / mix.limits.unit_bytes


def _sound(roads: Sequence[_Road], curves: Curves) -> Iterator[Mix]:
    """The roads' starts, repaired, the ones that promise most first."""
    starts = [
        (mix.score + road.worth * mix.limits.excess(mix.bytes, mix.seconds), mix)
        for road in roads
        for mix in road.starts()
    ]
    for _, mix in sorted(starts, key=lambda start: start[0]):
        if repair(mix, curves):
            yield mix


def _any_fitting(curves: Curves, limits: Limits) -> list[Mix]:
    """A mix that keeps both limits, whatever it scores; for limits so tight that few do.

    The least of either resource under a limit on the other.
    """
    if limits.bytes is None or limits.seconds is None:
        return []
    for name, limit in (
        ("seconds", Limits(bytes=limits.bytes)),
        ("bytes", Limits(seconds=limits.seconds)),
    ):
        rated = [
            [dataclasses.replace(entry, score=float(getattr(entry, name))) for entry in curve]
            for curve in curves
        ]
        try:
            found = allocate([Options("", tuple(curve)) for curve in rated], limit)
        except Infeasible:
            return []
        chosen = [
            curve[like.index(entry)]
            for curve, like, entry in zip(curves, rated, found.chosen, strict=True)
        ]
        if (mix := Mix(chosen, limits)).fits():
            return [mix]
    return []


def _useful(candidates: Sequence[Candidate], limits: Limits) -> list[Candidate]:
    """Those no other candidate beats in score and in everything that is limited."""
    kept: list[Candidate] = []
    by_bytes, by_seconds = limits.bytes is not None, limits.seconds is not None
    for entry in sorted(
        candidates,
        key=lambda item: (by_bytes * item.bytes, by_seconds * item.seconds, item.score),
    ):
        beaten = any(
            other.score <= entry.score and (not by_seconds or other.seconds <= entry.seconds)
            for other in kept
        )
        if not beaten:
            kept.append(entry)
    return kept


_Point = tuple[float, float, Candidate]
"""Cost, score, and whose they are: looked up once, since the search visits them many times."""


def _points(curve: Sequence[Candidate], mixture: Mixture) -> list[_Point]:
    return [(mixture.cost(entry), entry.score, entry) for entry in curve]


def _falling(points: Sequence[_Point]) -> list[_Point]:
    """Those no other beats in both cost and score, cheapest first."""
    kept: list[_Point] = []
    for point in sorted(points, key=lambda entry: entry[:2]):
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept


def _hull(curve: Sequence[_Point]) -> list[_Point]:
    """The lower convex hull of a falling curve: each step buys less per unit than the last."""
    hull: list[_Point] = []
    for point in curve:
        while len(hull) > 1 and _worth(hull[-2], hull[-1]) <= _worth(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _worth(lower: _Point, upper: _Point) -> float:
    """Score saved per unit of cost by moving up."""
    return (lower[1] - upper[1]) / (upper[0] - lower[0])
