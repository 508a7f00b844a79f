"""What a flash will do, before anything is done: a value, which is shown and then carried out."""

from __future__ import annotations

from dataclasses import dataclass

from edgeslm.records import Figure, Provenance
from edgeslm.units import format_bytes, format_seconds

_UNKNOWN = Figure(None, Provenance.ESTIMATED, "nobody knows")


@dataclass(frozen=True)
class Step:
    """One thing that is done.

    Attributes:
        what: In words, for people.
        bytes: How many are written or sent; 0 where that means nothing.
        seconds: How long it is expected to take; its value is None where nobody knows.
    """

    what: str
    bytes: int = 0
    seconds: Figure = _UNKNOWN


@dataclass(frozen=True)
class Plan:
    """All of it, in order.

    Attributes:
        destination: As the user named it.
        bundle: What is carried; its path as the user named it.
        digest: The bundle's, "sha256:" and 64 hex digits; empty where an image is written as it is.
        steps: What is done, in order.
        notes: What the user should know beforehand, a sentence each.
    """

    destination: str
    bundle: str
    digest: str
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of all steps."""
        return sum(step.bytes for step in self.steps)


@dataclass(frozen=True)
class Report:
    """What was done.

    Attributes:
        plan: What had been planned.
        written_bytes: How many were written or sent; less than planned where an interrupted one
            went on, or the destination had some already.
        verified_bytes: How many were read back and compared.
        seconds: It took so long.
        address: Where the model can be asked, or will be after the first start; None for nowhere.
        notes: What the user should do now, a sentence each.
    """

    plan: Plan
    written_bytes: int
    verified_bytes: int
    seconds: float
    address: str | None = None
    notes: tuple[str, ...] = ()


def at_rate(count: int | None, megabytes_per_second: float, source: str) -> Figure:
    """The seconds that so many bytes are expected to take, by what somebody published.

    Nobody knows them where nobody knows how many bytes that are.
    """
    if count is None:
        return _UNKNOWN
    return Figure(count / (megabytes_per_second * 1e6), Provenance.ESTIMATED, source)


def on_card(count: int | None) -> Figure:
    """The seconds that a card takes for so many bytes, at most."""
    return at_rate(count, 10, "SD Association: class 10 and U1 cards write 10 MB/s at least")


def describe(plan: Plan) -> list[str]:
    """The plan in lines of text."""
    named = f"{plan.bundle} ({plan.digest})" if plan.digest else plan.bundle
    lines = [f"{named} to {plan.destination}"]
    for number, step in enumerate(plan.steps, 1):
        more = [format_bytes(step.bytes)] if step.bytes else []
        if step.seconds.value is not None:
            more.append(f"about {format_seconds(step.seconds.value)}: {step.seconds.source}")
        lines.append(f"{number:3}. {step.what}" + (f" ({', '.join(more)})" if more else ""))
    return [*lines, *plan.notes]
