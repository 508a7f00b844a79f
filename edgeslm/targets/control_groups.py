"""The control groups that this process is in, and all above them: each may limit it.

A service manager or a container gives a process a share of the machine by putting it into such a
group. Both versions are read, from below `root`, so that a recorded tree gives the same answer as
the machine it was recorded on. Source: cgroups(7).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgeslm.files import small_text
from edgeslm.targets.mounts import mounts

_MOUNTED = Path("sys/fs/cgroup")
"""Where a system that does not say has them."""


@dataclass(frozen=True)
class Group:
    """A control group: the folder of its files, and 1 or 2, whose names those have."""

    folder: Path
    version: int


def control_groups(controller: str, root: Path = Path("/")) -> tuple[Group, ...]:
    """Groups of this process in which `controller` may set limits, from its own upwards.

    Args:
        controller: As the kernel names it: "memory", "cpu".
        root: Where the system's files lie.
    """
    found = tuple(_said(controller, root))
    return found or tuple(_usual(controller, root))


def _said(controller: str, root: Path) -> Iterator[Group]:
    """By what /proc says; a line reads: number, controllers, path, with colons between."""
    for line in small_text(root / "proc/self/cgroup").splitlines():
        _number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        version = 1 if controllers else 2
        for mounted, top in _mounts(controller, version, root):
            for folder in _upwards(mounted, _below(path, top)):
                yield Group(folder, version)


def _usual(controller: str, root: Path) -> Iterator[Group]:
    """The top of what is mounted where it usually is."""
    for folder, version in ((_MOUNTED, 2), (_MOUNTED / controller, 1)):
        if (root / folder).is_dir():
            yield Group(root / folder, version)


def _upwards(mounted: Path, below: PurePosixPath) -> Iterator[Path]:
    """The folders from a group up to the mount; those that are not there are left out."""
    for part in (below, *below.parents):
        folder = mounted / part
        if folder.is_dir():
            yield folder


def _mounts(controller: str, version: int, root: Path) -> Iterator[tuple[Path, str]]:
    """Where control groups are mounted, and which group is on top there."""
    for mount in mounts(root):
        if version == 2:
            wanted = mount.kind == "cgroup2"
        else:
            wanted = mount.kind == "cgroup" and controller in mount.options.split(",")
        if wanted:
            yield root / mount.place.lstrip("/"), mount.top


def _below(path: str, top: str) -> PurePosixPath:
    """A group's folder as seen from a mount that shows `top` and what lies below it."""
    group = PurePosixPath(path)
    if ".." in group.parts or not group.is_relative_to(top):
        return PurePosixPath()  # the mount shows this process's own group, or nothing of it
    return group.relative_to(top)
