"""Resident memory of this process, from the operating system's own counters."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_ROOT = Path("/")
_PAGE = resource.getpagesize()


@dataclass(frozen=True)
class Shares:
    """Resident bytes of this process by who else has them.

    Attributes:
        pss_bytes: Pages that several processes have, divided by their number.
        private_bytes: Pages that nobody else has.
    """

    pss_bytes: int
    private_bytes: int


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


def shares(root: Path = _ROOT) -> Shares | None:
    """Of this process, from smaps_rollup (Linux since 4.14); None where nobody tells."""
    fields = _fields(root / "proc/self/smaps_rollup")
    if "Pss" not in fields:
        return None
    private = fields.get("Private_Clean", 0) + fields.get("Private_Dirty", 0)
    return Shares(fields["Pss"] * 1024, private * 1024)


def major_faults() -> int:
    """How often this process has waited for a page from a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def read_bytes(root: Path = _ROOT) -> int | None:
    """What a disk had to read for this process; None where nobody tells."""
    return _fields(root / "proc/self/io").get("read_bytes")


def swapped_in_bytes(root: Path = _ROOT) -> int | None:
    """What came back from swap, of all processes, since the machine was switched on."""
    pages = _fields(root / "proc/vmstat").get("pswpin")
    return None if pages is None else pages * _PAGE


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number, with or without a colon."""
    fields = {}
    with suppress(OSError):
        for line in path.read_text(encoding="ascii", errors="replace").splitlines():
            parts = line.replace(":", " ").split()
            if len(parts) > 1 and parts[1].isdecimal():
                fields[parts[0]] = int(parts[1])
    return fields
