"""Which type each tensor gets when all of them together may take so many bytes.

A multiple-choice knapsack: minimise the sum of the scores. Each tensor's useful types form
a falling curve of score over bytes; on its lower convex hull every step buys less per byte
than the one before. Taking all tensors' steps in the order of what a byte buys solves the
Lagrangian relaxation for every multiplier at once. It ends at the first step that does not
fit; what is left of the budget then goes to the single changes that help most. The sum of
scores is therefore at most the optimum of a budget one step smaller. Pure: no arrays, no files.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from edgeslm.gguf.types import TensorType


@dataclass(frozen=True)
class Candidate:
    """A type a tensor could get: what it takes, and how much it harms (0 for nothing)."""

    type: TensorType
    bytes: int
    score: float


@dataclass(frozen=True)
class Options:
    """Everything one tensor could become; never empty."""

    tensor: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Allocation:
    """The candidate chosen for each tensor, in the order of the options."""

    chosen: tuple[Candidate, ...]

    @property
    def bytes(self) -> int:
        """What the tensors take together."""
        return sum(candidate.bytes for candidate in self.chosen)

    @property
    def score(self) -> float:
        """What is lost in all."""
        return sum(candidate.score for candidate in self.chosen)


def smallest_bytes(options: Sequence[Options]) -> int:
    """The least budget that can be met."""
    return sum(min(entry.bytes for entry in item.candidates) for item in options)


def allocate(options: Sequence[Options], budget_bytes: int) -> Allocation:
    """The mix with (nearly) the least total score that takes at most `budget_bytes`.

    Raises:
        ValueError: the budget is below `smallest_bytes(options)`.
    """
    if budget_bytes < smallest_bytes(options):
        raise ValueError(f"{budget_bytes} bytes are less than the smallest mix takes")
    curves = [_falling(item.candidates) for item in options]
    chosen = [curve[0] for curve in curves]
    left = budget_bytes - sum(candidate.bytes for candidate in chosen)
    for tensor, step in _steps(curves):
        cost = step.bytes - chosen[tensor].bytes
        if cost > left:
            break
        chosen[tensor] = step
        left -= cost
    _fill(curves, chosen, left)
    return Allocation(tuple(chosen))


def _falling(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those no other candidate beats in both bytes and score, smallest first."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda entry: (entry.bytes, entry.score)):
        if not kept or candidate.score < kept[-1].score:
            kept.append(candidate)
    return kept


def _hull(curve: Sequence[Candidate]) -> list[Candidate]:
    """The lower convex hull of a falling curve: each step buys less per byte than the last."""
    hull: list[Candidate] = []
    for candidate in curve:
        while len(hull) > 1 and _worth(hull[-2], hull[-1]) <= _worth(hull[-1], candidate):
            hull.pop()
        hull.append(candidate)
    return hull


def _worth(lower: Candidate, upper: Candidate) -> float:
    """Score saved per byte by moving up."""
    return (lower.score - upper.score) / (upper.bytes - lower.bytes)


def _steps(curves: Sequence[Sequence[Candidate]]) -> list[tuple[int, Candidate]]:
    """Every tensor's steps along its hull, the ones worth most per byte first."""
    steps = [
        (_worth(lower, upper), tensor, upper)
        for tensor, hull in enumerate(map(_hull, curves))
        for lower, upper in itertools.pairwise(hull)
    ]
    steps.sort(key=lambda step: (-step[0], step[1], step[2].bytes))
    return [(tensor, upper) for _, tensor, upper in steps]


def _fill(curves: Sequence[Sequence[Candidate]], chosen: list[Candidate], left: int) -> None:
    """Spend what is left on the changes that save most, as long as one fits."""
    while True:
        changes = [
            (chosen[tensor].score - candidate.score, -tensor, candidate)
            for tensor, curve in enumerate(curves)
            for candidate in curve
            if 0 < candidate.bytes - chosen[tensor].bytes <= left
        ]
        if not changes:
            return
        _, negative, best = max(changes, key=lambda change: change[:2])
        left -= best.bytes - chosen[-negative].bytes
        chosen[-negative] = best
