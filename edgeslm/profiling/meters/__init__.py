"""Energy meters: what this machine can measure, and why not more."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from edgeslm.profiling.meters import estimated, rapl
from edgeslm.profiling.meters.base import Meter
from edgeslm.targets.target import Target

__all__ = ["FoundMeter", "Meter", "find_meter"]


class FoundMeter(NamedTuple):
    """A meter, or None, and a line for each one that was looked at."""

    meter: Meter | None
    reasons: tuple[str, ...]


def find_meter(target: Target | None = None, *, sysfs: Path = Path("/sys")) -> FoundMeter:
    """The best meter there is: one that measures, else one that estimates, else None.

    Args:
        target: What this machine is; its watts under load serve where nothing can be measured.
        sysfs: Where sysfs is mounted, or a recorded copy of it.
    """
    meter, reason = rapl.find(sysfs)
    if meter is not None:
        return FoundMeter(meter, (reason,))
    fallback, fallback_reason = estimated.find(target)
    return FoundMeter(fallback, (reason, fallback_reason))
