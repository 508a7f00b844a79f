"""What every energy meter has in common, and how energy is taken between two moments."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from edgeslm.records import Provenance


class Scope(str, Enum):
    """What a meter's joules include."""

    BOARD = "board"
    """Everything behind the power plug."""
    PACKAGE = "package"
    """The processor chips: no memory, storage, fans or power supply."""
    GPU = "gpu"
    """The graphics card alone."""


class Meter(Protocol):
    """Something that counts energy. Only the difference of two readings means anything."""

    @property
    def name(self) -> str:
        """A short name, such as "rapl"."""

    @property
    def scope(self) -> Scope:
        """What the joules include."""

    @property
    def provenance(self) -> Provenance:
        """MEASURED for an instrument, ESTIMATED for arithmetic."""

    @property
    def source(self) -> str:
        """What exactly is read."""

    def read_joules(self) -> float:
        """Energy counted so far; never decreases.

        Raises:
            MeasurementFailure: the instrument cannot be read any more.
        """


@dataclass(frozen=True)
class EnergyReading:
    """Energy between two moments, gross: what the machine draws when idle is included."""

    joules: float
    seconds: float
    meter: str
    scope: Scope
    provenance: Provenance
    source: str

    @property
    def watts(self) -> float | None:
        """Mean power, or None where no time passed."""
        return self.joules / self.seconds if self.seconds > 0 else None


def start(
    meter: Meter, *, clock: Callable[[], float] = time.perf_counter
) -> Callable[[], EnergyReading]:
    """Begin now; what is returned gives, each time it is called, the energy since then."""
    first_joules = meter.read_joules()
    first_seconds = clock()

    def stop() -> EnergyReading:
        return EnergyReading(
            joules=meter.read_joules() - first_joules,
            seconds=clock() - first_seconds,
            meter=meter.name,
            scope=meter.scope,
            provenance=meter.provenance,
            source=meter.source,
        )

    return stop
