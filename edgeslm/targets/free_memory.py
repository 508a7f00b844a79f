"""How much memory this process may take, as the system and its control groups say.

The kernel's own estimate (`MemAvailable`) is of the whole machine. A container, or a service with
a limit, has less: the least that any control group above it leaves. Both versions of control
groups are read, from below `root`, so that a recorded tree gives the same answer as the machine
it was recorded on.

What this process has already is part of what it may have: its own memory, and those pages of
files that another group has paid for. Pages of files are free as far as this goes: the kernel
drops them to make room. So a model whose
weights are mapped does not count before it is loaded. It must count as needed, all the same:
every token reads it all, and a model that does not fit is read from the disk for every token.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from edgeslm.files import small_text
from edgeslm.targets.control_groups import Group, control_groups

_KIB = 1024
_UNLIMITED = 1 << 60
"""Version 1 writes a limit of no meaning, close to 2**63, where there is none."""


@dataclass(frozen=True)
class FreeMemory:
    """Bytes this process may have resident, those it has already included, and what limits it."""

    bytes: int
    limit: str


@dataclass(frozen=True)
class _Version:
    """Names of a control group's files; and in `memory.stat`, of its file pages, and the mapped."""

    limits: tuple[str, ...]
    usage: str
    file_pages: tuple[str, ...]
    mapped: str


_VERSIONS = {
    1: _Version(
        ("memory.limit_in_bytes",),
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
        "total_mapped_file",
    ),
    2: _Version(
        ("memory.max", "memory.high"),
        "memory.current",
        ("inactive_file", "active_file"),
        "file_mapped",
    ),
}


def free_memory(root: Path = Path("/")) -> FreeMemory:
    """What the machine whose files lie under `root` leaves to this process."""
    own, files = _resident(root)
    machine = _machine(root) + own
    groups = (_left(group, files) for group in control_groups("memory", root))
    least = min((left for left in groups if left is not None), default=None)
    if least is not None and own + least < machine:
        return FreeMemory(own + max(least, 0), "the limit of its control group")
    return FreeMemory(machine, "what is free on this machine")


def _machine(root: Path) -> int:
    fields = _fields(root / "proc/meminfo")
    if "MemAvailable" in fields:
        return fields["MemAvailable"] * _KIB
    return int(psutil.virtual_memory().available)


def _resident(root: Path) -> tuple[int, int]:
    """What this process has resident, and is part of any plan: its own memory, pages of files."""
    fields = _fields(root / "proc/self/status")
    files = fields.get("RssFile", 0)
    return fields.get("RssAnon", fields.get("VmRSS", 0)) * _KIB, files * _KIB


def _left(group: Group, files: int) -> int | None:
    """Bytes that this process may take beyond its own memory; None where the group has no limit.

    Of its `files` bytes of mapped files, what the group has not paid for is left to it as well.
    """
    folder, version = group.folder, _VERSIONS[group.version]
    limits = [_number(folder / name) for name in version.limits]
    known = [limit for limit in limits if limit is not None and limit < _UNLIMITED]
    usage = _number(folder / version.usage)
    if not known or usage is None:
        return None
    pages = _fields(folder / "memory.stat")
    paid_for_elsewhere = max(0, files - pages.get(version.mapped, 0))
    dropped = sum(pages.get(name, 0) for name in version.file_pages)
    return min(known) - usage + dropped + paid_for_elsewhere


def _number(path: Path) -> int | None:
    text = small_text(path)
    return int(text) if text.isdecimal() else None


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number, with or without a colon."""
    fields = {}
    for line in small_text(path).splitlines():
        parts = line.replace(":", " ").split()
        if len(parts) > 1 and parts[1].isdecimal():
            fields[parts[0]] = int(parts[1])
    return fields
