"""What every energy meter has in common, and what is said of one that was looked for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from edgeslm.records import Provenance


class Scope(str, Enum):
    """What a meter's joules include."""

    BOARD = "board"
    """Everything behind the power plug, or all that enters the board."""
    PACKAGE = "package"
    """The processor chips, or some supply rails: not everything that the board draws."""
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
        """How often the reading changes, in seconds; 0 if it always does.

        What lies between two readings can be wrong by the energy of one such period.
        """

    def read_joules(self) -> float:
        """Energy counted so far; never decreases.

        Raises:
            MeasurementFailure: the instrument cannot be read any more.
        """


class State(str, Enum):
    """How looking for a meter ended."""

    FOUND = "found"
    ABSENT = "absent"
    """This machine has none."""
    FORBIDDEN = "forbidden"
    """It is there, but this user may not read it."""
    FAILED = "failed"
    """It is there, but what it says makes no sense, or it does not answer."""


@dataclass(frozen=True)
class Finding:
    """One meter that was looked for.

    Attributes:
        name: How to ask for it by name.
        meter: The meter, where `state` is FOUND; else None.
        state: How it ended.
        reason: What was found, or why there is none.
        hint: What to do about it, or None where nothing helps.
    """

    name: str
    meter: Meter | None
    state: State
    reason: str
    hint: str | None = None


def found(meter: Meter, reason: str, *, name: str | None = None) -> Finding:
    """A meter that is ready to be read."""
    return Finding(name or meter.name, meter, State.FOUND, reason)


def absent(name: str, reason: str, hint: str | None = None) -> Finding:
    """There is none."""
    return Finding(name, None, State.ABSENT, reason, hint)


def forbidden(name: str, reason: str, hint: str) -> Finding:
    """There is one, but this user may not read it."""
    return Finding(name, None, State.FORBIDDEN, reason, hint)


def failed(name: str, reason: str, hint: str | None = None) -> Finding:
    """There is one, but it cannot be read."""
    return Finding(name, None, State.FAILED, reason, hint)
