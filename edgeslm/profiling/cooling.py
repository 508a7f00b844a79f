"""Waiting between two measurements until a machine is as it was before the first."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from edgeslm.profiling.tuning import cores_of_others
from edgeslm.runtime.machine import Sensors

_WARMER_CELSIUS = 3.0
_BUSIER_CORES = 0.1
_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Reading:
    """How warm a machine is, and how many cores' time it spends; None where it does not tell."""

    celsius: float | None
    busy_cores: float | None


def read_here() -> Reading:
    """Of this machine; it takes half a second."""
    sensors = Sensors()
    return Reading(sensors.heat().celsius, cores_of_others(sensors))


def is_rested(now: Reading, before: Reading) -> bool:
    """Whether a machine is hardly warmer or busier than before; what is unknown does not count."""
    return not (
        _above(now.celsius, before.celsius, _WARMER_CELSIUS)
        or _above(now.busy_cores, before.busy_cores, _BUSIER_CORES)
    )


def cool_down(
    read: Callable[[], Reading],
    before: Reading,
    most_seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Wait until it is rested, or for `most_seconds`; how many seconds that took."""
    began = clock()
    while most_seconds > 0 and not is_rested(read(), before):
        left = began + most_seconds - clock()
        if left <= 0:
            break
        sleep(min(_PAUSE_SECONDS, left))
    return clock() - began


def _above(now: float | None, before: float | None, margin: float) -> bool:
    return now is not None and before is not None and now > before + margin
