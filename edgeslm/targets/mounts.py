"""What a machine has mounted where.

A line reads: id, parent, device, top, mount point, options, optional fields, "-", type, source,
super options. Source: proc_pid_mountinfo(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeslm.files import small_text

_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """A line of it.

    Attributes:
        device: The kernel's numbers of the disk, as in "8:1".
        top: Which folder of the file system is seen there.
        place: Where.
        kind: The file system's name in the kernel, as in "vfat".
        source: What is mounted, as in "/dev/sda1".
        options: Of the file system, with commas between.
    """

    device: str
    top: str
    place: str
    kind: str
    source: str
    options: str


def mounts(root: Path = Path("/")) -> tuple[Mount, ...]:
    """What this process sees, in the order in which it was mounted; nothing where nobody says.

    Args:
        root: Where the system's files lie.
    """
    return tuple(parse_mounts(small_text(root / "proc/self/mountinfo")))


def parse_mounts(text: str) -> Iterator[Mount]:
    """The same from the text of mountinfo; lines of another form are left out. Pure."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        places, kinds = before.split(), after.split()
        if len(places) >= 5 and kinds:
            kind, source, options, *_ = [*kinds, "", ""]
            top, place = map(_unescaped, places[3:5])
            yield Mount(places[2], top, place, kind, _unescaped(source), options)


def _unescaped(text: str) -> str:
    r"""Blanks are \040 there, for example."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)
