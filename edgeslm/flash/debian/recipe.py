"""What a Debian for boards is made of, by the name that people give. Pure."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from pathlib import Path

from edgeslm.errors import InvalidOption
from edgeslm.flash.debian import initrd
from edgeslm.flash.debian.configured import SHIPPED, Disk, configuration

SUITES = {"trixie": ("Debian 13", "3.13"), "bookworm": ("Debian 12", "3.11")}
"""By Debian's own name: the name for people, and its Python. The first is the default."""

_VERSION = 1
"""Raised when the same packages and files are put together in another way."""

_STARTS = ("systemd", "systemd-sysv", "dbus", "udev", "kmod", "libpam-systemd", "e2fsprogs")
_REACHED = (
    *("systemd-resolved", "systemd-timesyncd", "iproute2", "iputils-ping", "netbase"),
    *("avahi-daemon", "openssh-server"),
)
_RUNS = ("python3", "libstdc++6", "libgomp1")
_ADMINISTERED = ("passwd", "login", "sudo", "tzdata")
_BOOTS = ("linux-image-arm64", "busybox-static", "systemd-boot-efi")
_GROWS = {"trixie": ("systemd-repart",), "bookworm": ()}
"""What makes the root partition as large as the card; part of another package in Debian 12."""


@dataclass(frozen=True)
class Recipe:
    """All that decides what a base holds, but for the state of Debian's archive.

    Attributes:
        suite: Of `SUITES`.
    """

    suite: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{SUITES[self.suite][0]} ({self.suite})"

    @property
    def packages(self) -> tuple[str, ...]:
        """What is unpacked, with what it needs, beside the essential ones."""
        return (*_STARTS, *_REACHED, *_RUNS, *_ADMINISTERED, *_BOOTS, *_GROWS[self.suite])

    @property
    def unmerged(self) -> bool:
        """Whether its packages still have files in /bin, /sbin and /lib, which are links now."""
        return self.suite == "bookworm"

    @property
    def disk(self) -> Disk:
        """How its file systems are found; the same for every image of a suite."""
        root = uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.suite}.debian.edgeslm")
        return Disk(str(root), f"{root.int & 0xFFFFFFFF:08X}")

    @property
    def key(self) -> str:
        """16 hex digits that are others for another recipe."""
        files = configuration(dict.fromkeys(SHIPPED, b"shadow:*:42:\n"), self.disk)
        parts = [_VERSION, self.suite, self.packages, initrd.INIT, initrd.REACHES_A_DISK]
        text = json.dumps([*parts, *(str(entry) for entry in files.entries)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def recipe_of(base: Path) -> Recipe | None:
    """The recipe that `debian` or `debian:SUITE` stands for; None for anything else, and files.

    Raises:
        InvalidOption: there is no such suite here.
    """
    name, colon, suite = str(base).partition(":")
    if name != "debian" or base.exists():
        return None
    suite = suite if colon else next(iter(SUITES))
    if suite not in SUITES:
        raise InvalidOption(
            f"--base {base}: not a Debian that is known",
            hint=f"Known are {', '.join(f'debian:{known}' for known in SUITES)}.",
        )
    return Recipe(suite)
