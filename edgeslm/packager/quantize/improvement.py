"""Mends a mix by single changes and exchanges: back within the limits, then closer to the best.

An exchange makes one tensor worse to make another one better. Of all pairs only those are
tried whose tensors come near the price that the walk along the hulls ended at: the others
cannot pay.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeslm.packager.quantize.candidates import Candidate, Limits

Curves = Sequence[Sequence[Candidate]]

_WIDTH = 60
"""Changes up, and changes down, of which all pairs are tried."""
_ROUNDS = 30
_LEAST_GAIN = 1e-12
"""Relative to the score: below it a gain is rounding."""


@dataclass(frozen=True)
class Mixture:
    """One cost made of two: shares of the limit on bytes and of the limit on seconds."""

    per_byte: float
    per_second: float

    def cost(self, candidate: Candidate) -> float:
        """What a candidate takes."""
        return self.per_byte * candidate.bytes + self.per_second * candidate.seconds


@dataclass(frozen=True)
class Change:
    """Another candidate for one tensor; `score` and `cost` are differences."""

    tensor: int
    candidate: Candidate
    score: float
    bytes: int
    seconds: float


class Mix:
    """A candidate for each tensor, and what they take together; changed in place."""

    def __init__(self, chosen: Sequence[Candidate], limits: Limits) -> None:
        self.limits = limits
        self.chosen = list(chosen)
        self.bytes = sum(entry.bytes for entry in chosen)
        self.seconds = sum(entry.seconds for entry in chosen)

    @property
    def score(self) -> float:
        """What is lost in all."""
        return sum(entry.score for entry in self.chosen)

    def fits(self, *changes: Change) -> bool:
        """Whether the mix keeps the limits once `changes` were made."""
        return self.limits.hold(
            self.bytes + sum(change.bytes for change in changes),
            self.seconds + sum(change.seconds for change in changes),
        )

    def excess_after(self, change: Change) -> float:
        """How far over the limits the mix would be."""
        return self.limits.excess(self.bytes + change.bytes, self.seconds + change.seconds)

    def make(self, change: Change) -> None:
        """Put the candidate in place."""
        self.chosen[change.tensor] = change.candidate
        self.bytes += change.bytes
        self.seconds += change.seconds

    def changes(self, curves: Curves) -> Iterator[Change]:
        """Every other candidate of every tensor."""
        for tensor, curve in enumerate(curves):
            now = self.chosen[tensor]
            for entry in curve:
                if entry is not now:
                    yield Change(
                        tensor,
                        entry,
                        entry.score - now.score,
                        entry.bytes - now.bytes,
                        entry.seconds - now.seconds,
                    )


def repair(mix: Mix, curves: Curves) -> bool:
    """Bring a mix back within its limits by the changes that lose least; False where none can."""
    while not mix.fits():
        excess = mix.limits.excess(mix.bytes, mix.seconds)
        ranked = sorted(
            (
                (change.score / (excess - after), change.tensor, change.bytes, change)
                for change in mix.changes(curves)
                if (after := mix.excess_after(change)) < excess
            ),
            key=lambda item: item[:3],
        )
        if not ranked:
            return False
        _make_while_over(mix, [item[3] for item in ranked])
    return True


def _make_while_over(mix: Mix, ranked: Sequence[Change]) -> None:
    """Make changes in their order, one for each tensor, until the mix fits."""
    touched: set[int] = set()
    for change in ranked:
        excess = mix.limits.excess(mix.bytes, mix.seconds)
        if excess == 0:
            return
        if change.tensor not in touched and mix.excess_after(change) < excess:
            mix.make(change)
            touched.add(change.tensor)


def improve(mix: Mix, curves: Curves, mixture: Mixture, worth: float) -> None:
    """Lower the score of a mix that fits, within its limits.

    Args:
        mix: What is changed.
        curves: The candidates of each tensor.
        mixture: What a change costs.
        worth: Score that a unit of that cost buys elsewhere.
    """
    for _ in range(_ROUNDS):
        _fill(mix, curves)
        pair = _best_exchange(mix, curves, mixture, worth)
        if pair is None:
            return
        for change in pair:
            mix.make(change)


def _fill(mix: Mix, curves: Curves) -> None:
    """Make the single changes that save most, as long as one fits."""
    while True:
        least = _least_gain(mix)
        saving = [
            change for change in mix.changes(curves) if change.score < -least and mix.fits(change)
        ]
        if not saving:
            return
        saving.sort(key=lambda change: (change.score, change.tensor))
        touched: set[int] = set()
        for change in saving:
            if change.tensor not in touched and mix.fits(change):
                mix.make(change)
                touched.add(change.tensor)


def _best_exchange(
    mix: Mix, curves: Curves, mixture: Mixture, worth: float
) -> tuple[Change, Change] | None:
    """The pair, one up and one down, that saves most; None where none saves anything."""
    up: list[tuple[float, int, Change]] = []
    down: list[tuple[float, int, Change]] = []
    for index, change in enumerate(mix.changes(curves)):
        cost = mixture.per_byte * change.bytes + mixture.per_second * change.seconds
        side = up if change.score < 0 else down
        side.append((change.score + worth * cost, index, change))
    best, saved = None, -_least_gain(mix)
    dear = heapq.nsmallest(_WIDTH, up)
    for _, _, lower in heapq.nsmallest(_WIDTH, down):
        for _, _, upper in dear:
            score = upper.score + lower.score
            if score < saved and upper.tensor != lower.tensor and mix.fits(upper, lower):
                best, saved = (upper, lower), score
    return best


def _least_gain(mix: Mix) -> float:
    return _LEAST_GAIN * mix.score
