"""No instrument: the watts a board is known to draw under load, times the time that passed.

It cannot tell one model from another at equal speed, nor an idle moment from a busy one; use
it only while the board computes, and never beside measured joules without its label.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edgeslm.profiling.meters.base import Scope
from edgeslm.records import Provenance
from edgeslm.targets.target import Target


class EstimatedMeter:
    """Constant power over time."""

    name = "estimated"
    scope = Scope.BOARD
    provenance = Provenance.ESTIMATED
    period_seconds = 0.0

    def __init__(
        self, watts: float, source: str, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._watts = watts
        self._clock = clock
        self.source = f"{watts:g} W x seconds ({source})"

    def read_joules(self) -> float:
        """Power times the clock's reading."""
        return self._watts * self._clock()


def find(target: Target | None) -> tuple[EstimatedMeter | None, str]:
    """A meter from the target's watts under load, and why (not)."""
    if target is None:
        return None, "estimated: no target given, so no watts to estimate with"
    watts = target.power.load_watts
    if watts.value is None:
        return None, f"estimated: the file of {target.id} has no power.load_watts"
    meter = EstimatedMeter(watts.value, f"{target.id}: {watts.source}")
    return meter, f"estimated: {meter.source}"
