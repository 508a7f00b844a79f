"""Resident memory of this process, from the operating system's own counters."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def reset_peak() -> None:
    """Start a new peak, where the system can (Linux); elsewhere it counts from the start."""
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return


def rss_bytes() -> int:
    """What is resident now."""
    return int(psutil.Process().memory_info().rss)


def peak_rss_bytes() -> int:
    """Most that was resident since `reset_peak`, or since the process began."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def resident_file_bytes(path: Path) -> int | None:
    """Pages of a mapped file that are resident in this process; None where nobody tells."""
    try:
        maps = psutil.Process().memory_maps(grouped=True)
    except (AttributeError, psutil.Error, NotImplementedError):
        return None
    wanted = str(path.resolve())
    return sum(int(entry.rss) for entry in maps if entry.path == wanted)
