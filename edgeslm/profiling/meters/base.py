"""What every energy meter has in common."""

from __future__ import annotations

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

    @property
    def period_seconds(self) -> float:
        """How often the reading changes; 0 for arithmetic, which changes with the clock."""

    def read_joules(self) -> float:
        """Energy counted so far; never decreases.

        Raises:
            MeasurementFailure: the instrument cannot be read any more.
        """
