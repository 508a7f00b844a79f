"""Energy meters: what this machine can measure, and why not more."""

from __future__ import annotations

from typing import NamedTuple

from edgeslm.errors import InvalidOption, MeasurementFailure
from edgeslm.profiling.meters import (
    battery,
    estimated,
    hwmon,
    nvml,
    plugin,
    plugs,
    pmic,
    powermetrics,
    rails,
    rapl,
)
from edgeslm.profiling.meters.base import Finding, Meter, Scope, State
from edgeslm.profiling.meters.surroundings import Surroundings
from edgeslm.records import Provenance
from edgeslm.targets.target import Target

__all__ = [
    "NO_METER",
    "Finding",
    "FoundMeter",
    "Meter",
    "Scope",
    "State",
    "asked_for",
    "best",
    "find_meter",
    "look",
    "wanted_meter",
]

NO_METER = "none"
VARIABLE = "EDGESLM_METER"


class FoundMeter(NamedTuple):
    """A meter, or None, and lines about those that were looked at."""

    meter: Meter | None
    reasons: tuple[str, ...]


def look(
    target: Target | None = None, *, wanted: str | None = None, here: Surroundings | None = None
) -> tuple[Finding, ...]:
    """Every meter there could be, the target's estimate last.

    Args:
        target: What this machine is; its watts under load serve where nothing can be measured.
        wanted: The address of a plug, which is then among them. Without it, that in EDGESLM_METER.
        here: The machine; default: this one.

    Raises:
        InvalidOption: `wanted` looks like an address, and is none.
    """
    here = here or Surroundings()
    wanted = wanted_meter(wanted, here)
    return (*_look(wanted, here), nvml.find(here.nvml), estimated.find(target))


def _look(wanted: str | None, here: Surroundings) -> tuple[Finding, ...]:
    """All but graphics cards and the estimate, the better ones of equal rank first."""
    return (
        *((plugs.find(wanted),) if wanted is not None and "://" in wanted else ()),
        *plugin.find(here),
        *hwmon.find(here.sysfs),
        rails.find(here.sysfs),
        *rapl.find(here.sysfs),
        pmic.find(here),
        battery.find(here.sysfs),
        powermetrics.find(here),
    )


def wanted_meter(wanted: str | None, here: Surroundings | None = None) -> str | None:
    """What the user asked for: as said, or in the environment; None if nothing."""
    if wanted is not None:
        return wanted.strip() or None
    return (here or Surroundings()).environment.get(VARIABLE, "").strip() or None


def find_meter(
    target: Target | None = None, *, wanted: str | None = None, here: Surroundings | None = None
) -> FoundMeter:
    """The meter to use: the one asked for, else the best there is, else None.

    What measures comes before what estimates, the whole board before a part of it, the target's
    watts last. One of several sensors of which nobody knows what they measure is used only if it
    was asked for, and so is a graphics card's meter: asking it would wake a sleeping card.

    Args:
        target: What this machine is.
        wanted: The address of a plug, a name that `look` gives, or "none"; without it, what is in
            EDGESLM_METER.
        here: The machine; default: this one.

    Raises:
        InvalidOption: no meter has that name.
        MeasurementFailure: the meter asked for cannot be read.
    """
    here = here or Surroundings()
    wanted = wanted_meter(wanted, here)
    if wanted == NO_METER:
        return FoundMeter(None, ("none: as asked for",))
    cards = (nvml.find(here.nvml),) if wanted == nvml.NAME else ()
    findings = (*_look(wanted, here), *cards, estimated.find(target))
    chosen = asked_for(wanted, findings) if wanted is not None else best(findings)
    if wanted is not None and chosen is not None and chosen.meter is None:
        raise MeasurementFailure(
            f"the meter {chosen.name} cannot be used: {chosen.reason}",
            hint=chosen.hint or "See what there is: edgeslm doctor",
        )
    return FoundMeter(chosen.meter if chosen else None, _reasons(findings, chosen))


def asked_for(wanted: str, findings: tuple[Finding, ...]) -> Finding:
    """What was found of the meter with that name or address, usable or not.

    Raises:
        InvalidOption: no meter is called so.
    """
    if "://" in wanted:
        return findings[0]
    named = [finding for finding in findings if finding.name == wanted]
    if not named:
        names = ", ".join(dict.fromkeys(finding.name for finding in findings))
        raise InvalidOption(
            f"no meter is called {wanted!r}",
            hint=f"There are {names}; or an address, like shelly://192.168.1.40.",
        )
    return named[0]


def best(findings: tuple[Finding, ...]) -> Finding | None:
    """The first of the best rank; the order of `look` decides among equals."""
    usable = [finding for finding in findings if _is_certain(finding)]
    return min(usable, key=_rank, default=None)


def _is_certain(finding: Finding) -> bool:
    """Whether it measures what the model runs on."""
    return (
        finding.meter is not None
        and finding.meter.scope is not Scope.GPU
        and not finding.name.startswith(f"{hwmon.NAME}:")
    )


def _rank(finding: Finding) -> tuple[bool, bool, bool]:
    meter = finding.meter
    return (
        finding.name == estimated.EstimatedMeter.name,
        meter is None or meter.provenance is not Provenance.MEASURED,
        meter is None or meter.scope is not Scope.BOARD,
    )


def _reasons(findings: tuple[Finding, ...], chosen: Finding | None) -> tuple[str, ...]:
    """The chosen one, then why not others; those that are not here share a line."""
    lines = [f"{chosen.name}: {chosen.reason}"] if chosen else []
    for finding in findings:
        if finding is chosen or finding.state is State.ABSENT:
            continue
        if finding.state is State.FOUND:
            lines.append(f"{finding.name}: there too, not used: {finding.reason}")
        else:
            lines.append(f"{finding.name}: {finding.reason}")
    missing = [finding.name for finding in findings if finding.state is State.ABSENT]
    if missing:
        lines.append(f"not here: {', '.join(missing)} (edgeslm doctor says more)")
    return tuple(lines)
