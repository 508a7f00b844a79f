"""Which system an image holds: what it is told at its first start, and in which way."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from edgeslm.errors import InvalidImage, Unsupported
from edgeslm.flash.image.ext4 import Ext4
from edgeslm.flash.image.fat import Fat

CMDLINE = "cmdline.txt"
IMAGER_CUSTOM = "usr/lib/raspberrypi-sys-mods/imager_custom"
"""Of the package raspberrypi-sys-mods: sets single things, and is what firstrun.sh calls."""

OWN_FIRST_BOOT = "usr/lib/edgeslm/first-boot"
"""In images made from Debian's packages: they run a script of the boot partition once."""

_CLOUD_INIT = "usr/bin/cloud-init"
_USER_DATA = "user-data"
_PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
_PROGRAM = "usr/bin/dpkg"
"""Any program that every Debian has: its header says for which processors it is."""
_MACHINES = {183: "aarch64", 62: "x86_64", 40: "armv7l", 243: "riscv64"}
_BOOT_MOUNTS = ("/boot", "/boot/firmware", "/boot/efi")
_MOST_BYTES = 1 << 20
_MOST_LIBRARY_BYTES = 32 << 20
_LIBC = "libc.so.6"


class FirstBoot(str, Enum):
    """How a system takes its first settings; the values are rpi-imager's names, but for OWN."""

    SYSTEMD = "systemd"
    """firstrun.sh on the boot partition, named in cmdline.txt: Bookworm, and the first Trixie."""
    CLOUD_INIT = "cloudinit-rpi"
    """user-data, network-config and meta-data on the boot partition: Trixie."""
    OWN = "own"
    """firstrun.sh on the boot partition, run by a service of the image: made by edgeslm."""
    NONE = "none"
    """No way that is known."""


@dataclass(frozen=True)
class System:
    """What was found.

    Attributes:
        name: For people, as in "Debian GNU/Linux 12 (bookworm)".
        version: VERSION_CODENAME of os-release, as in "bookworm"; empty where there is none.
        machine: As `uname -m` would say.
        python: The version of its own Python, as in "3.11"; None where it has none.
        boot: Where the boot partition is mounted, as in "/boot/firmware"; None where it is not.
        first_boot: How it takes its first settings.
        glibc: The version of its C library, as in "2.36"; None where nobody knows.
    """

    name: str
    version: str
    machine: str
    python: str | None
    boot: str | None
    first_boot: FirstBoot
    glibc: str | None = None


def look(root: Ext4, boot: Fat | None) -> System:
    """What the file systems of an image hold.

    Raises:
        InvalidImage: it is no Debian.
        Unsupported: it is for processors that edgeslm does not run on.
    """
    release = os_release(_text(root, "usr/lib/os-release") or _text(root, "etc/os-release"))
    if not release:
        raise InvalidImage(
            "the last partition of the image holds no Linux system (no os-release)",
            hint="Use an image such as that of Raspberry Pi OS.",
        )
    machine = _machine(root)
    if machine not in ("aarch64", "x86_64"):
        raise Unsupported(
            f"the image is for {machine}, which edgeslm has no runtime for",
            hint="Use a 64-bit image (arm64).",
        )
    pythons = root.find([f"usr/bin/python{version}" for version in _PYTHONS])
    python = max(pythons, key=lambda path: _PYTHONS.index(path[14:]), default=None)
    return System(
        name=release.get("PRETTY_NAME") or release.get("ID", "Linux"),
        version=release.get("VERSION_CODENAME", ""),
        machine=machine,
        python=None if python is None else python[14:],
        boot=None if boot is None else boot_mount(_text(root, "etc/fstab")),
        first_boot=_first_boot(root, boot),
        glibc=_glibc(root, machine),
    )


def missing_libraries(root: Ext4, machine: str, names: Sequence[str]) -> list[str]:
    """Those of the libraries that are not where Debian has them."""
    there = root.find([place for name in names for place in _places(machine, name)])
    return [name for name in names if not there.keys() & set(_places(machine, name))]


def _places(machine: str, library: str) -> list[str]:
    return [f"{folder}/{machine}-linux-gnu/{library}" for folder in ("usr/lib", "lib")]


def _glibc(root: Ext4, machine: str) -> str | None:
    """The version in its C library's banner, or in the name of the file that it is a link to."""
    places = _places(machine, _LIBC)
    for place, found in root.find(places).items():
        text = (found.link or "").encode()
        if found.kind == "regular" and found.size <= _MOST_LIBRARY_BYTES:
            text = root.read(place) or b""
        if version := re.search(rb"(?:release version |libc-)(\d{1,3}\.\d{1,3})", text):
            return version[1].decode()
    return None


def os_release(text: str) -> dict[str, str]:
    """The assignments of an os-release file (see os-release(5)). Pure."""
    values = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and name.isidentifier():
            try:
                values[name] = "".join(shlex.split(value))
            except ValueError:
                continue
    return values


def boot_mount(fstab: str) -> str | None:
    """Where an fstab mounts the FAT partition that the board starts from. Pure."""
    for line in fstab.splitlines():
        fields = line.split("#", 1)[0].split()
        if len(fields) >= 3 and fields[2] == "vfat" and fields[1] in _BOOT_MOUNTS:
            return fields[1]
    return None


def _first_boot(root: Ext4, boot: Fat | None) -> FirstBoot:
    if boot is None:
        return FirstBoot.NONE
    there, names = root.find([OWN_FIRST_BOOT, _CLOUD_INIT, IMAGER_CUSTOM]), boot.names()
    if OWN_FIRST_BOOT in there:
        return FirstBoot.OWN
    if _CLOUD_INIT in there and _USER_DATA in names:
        return FirstBoot.CLOUD_INIT
    if IMAGER_CUSTOM in there and CMDLINE in names:
        return FirstBoot.SYSTEMD
    return FirstBoot.NONE


def _text(root: Ext4, path: str) -> str:
    found = root.find([path]).get(path)
    if found is None or found.size > _MOST_BYTES:
        return ""
    return (root.read(path) or b"").decode("utf-8", "replace")


def _machine(root: Ext4) -> str:
    header = (root.read(_PROGRAM) or b"")[:20]
    if len(header) < 20 or header[:4] != b"\x7fELF":
        raise InvalidImage(
            f"the image has no /{_PROGRAM}: it is no Debian system",
            hint="Use an image such as that of Raspberry Pi OS.",
        )
    number = int.from_bytes(header[18:20], "little")
    return _MACHINES.get(number, f"an unknown processor ({number})")
