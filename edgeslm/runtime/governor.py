"""How many threads to use on this machine.

Decoding is bound by memory bandwidth and every thread waits for the slowest, so neither a
second thread per core nor the small cores of a big.LITTLE board help.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import psutil

_SYSFS_CPU = Path("/sys/devices/system/cpu")
_OF_PROCESSOR = re.compile("cpu|soc|core|k10|package|acpitz", re.IGNORECASE)
"""In the names of sensors; others sit in disks and radios."""
_FAST = 0.8
"""Cores this near the fastest count as fast: clusters of one kind may differ a little."""


def default_threads(sysfs: Path = _SYSFS_CPU) -> int:
    """Fast cores this process may use, each counted once."""
    allowed = _allowed_cores()
    capacities = {core: _capacity(sysfs, core) for core in allowed}
    known = [capacity for capacity in capacities.values() if capacity is not None]
    least = _FAST * max(known, default=0)
    fast = [core for core in allowed if (capacities[core] or 0) >= least]
    physical = psutil.cpu_count(logical=False) or len(fast)
    return max(1, min(len(fast), physical))


def _allowed_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _capacity(sysfs: Path, core: int) -> int | None:
    """Relative speed of a core as the kernel states it on ARM, 1024 for the fastest."""
    try:
        return int((sysfs / f"cpu{core}" / "cpu_capacity").read_text())
    except (OSError, ValueError):
        return None


def machine_figures() -> dict[str, float]:
    """What this process takes of the machine, and how warm that is, where it can be read."""
    figures = {"resident_bytes": float(psutil.Process().memory_info().rss)}
    temperature = _temperature()
    if temperature is not None:
        figures["temperature_celsius"] = temperature
    return figures


def _temperature() -> float | None:
    """The highest of the processor's sensors."""
    read = getattr(psutil, "sensors_temperatures", None)
    found = (read() if read else {}).items()
    return max(
        (each.current for name, sensors in found if _OF_PROCESSOR.search(name) for each in sensors),
        default=None,
    )
