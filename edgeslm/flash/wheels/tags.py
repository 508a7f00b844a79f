"""What a wheel's file name says, and whether it is for a device. Standard library only."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from edgeslm.errors import InvalidBundle
from edgeslm.processor import architecture, features

_NAME = re.compile(
    r"(?P<name>\w[\w.]*)-(?P<version>\w[\w.!+]*)(-(?P<build>\d[\w.]*))?"
    r"-(?P<python>[\w.]+)-(?P<abi>[\w.]+)-(?P<platform>[\w.]+)\.whl",
    re.ASCII,
)
_OLD_GLIBC = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


@dataclass(frozen=True)
class WheelName:
    """The parts of a wheel's file name; each kind of tag may have several values."""

    name: str
    version: str
    build: str | None
    pythons: tuple[str, ...]
    abis: tuple[str, ...]
    platforms: tuple[str, ...]


@dataclass(frozen=True)
class Device:
    """What has to suit wheels; None where it is not known, and then not compared."""

    architecture: str
    python: tuple[int, int]
    glibc: tuple[int, int] | None = None
    features: frozenset[str] | None = None


def parse_name(file_name: str) -> WheelName:
    """The parts of NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM.whl.

    Raises:
        InvalidBundle: it is no such name.
    """
    found = _NAME.fullmatch(file_name)
    if found is None:
        raise InvalidBundle(f"not the name of a wheel: {file_name[:300]!r}", hint="Fetch it again.")
    tags = (tuple(found[kind].split(".")) for kind in ("python", "abi", "platform"))
    return WheelName(found["name"], found["version"], found["build"], *tags)


def glibc_of(platform_tag: str) -> tuple[int, int] | None:
    """The oldest C library that a manylinux tag is for; None for other tags."""
    for old, version in _OLD_GLIBC.items():
        if platform_tag.startswith(f"{old}_"):
            return version
    found = re.match(r"manylinux_(\d+)_(\d+)_", platform_tag)
    return (int(found[1]), int(found[2])) if found else None


def misfit(wheel: WheelName, device: Device) -> str | None:
    """Why a wheel is not for a device, or None where it is."""
    if not any(_python_fits(p, a, device.python) for p in wheel.pythons for a in wheel.abis):
        wanted = f"{'.'.join(wheel.pythons)}-{'.'.join(wheel.abis)}"
        return f"it is for {wanted}, not for Python {dotted(device.python)}"
    if not any(_platform_fits(tag, device) for tag in wheel.platforms):
        glibc = "" if device.glibc is None else f" with glibc {dotted(device.glibc)}"
        return f"it is for {'.'.join(wheel.platforms)}, not for {device.architecture}{glibc}"
    return None


def _python_fits(tag: str, abi: str, python: tuple[int, int]) -> bool:
    major, minor = python
    if abi == "none":
        return tag in (f"py{major}", f"cp{major}{minor}", f"py{major}{minor}")
    if abi == "abi3":
        found = re.fullmatch(rf"cp{major}(\d+)", tag)
        return found is not None and int(found[1]) <= minor
    return tag == abi == f"cp{major}{minor}"


def _platform_fits(tag: str, device: Device) -> bool:
    if tag == "any" or tag == f"linux_{device.architecture}":
        return True
    glibc = glibc_of(tag)
    if glibc is None or not tag.endswith(f"_{device.architecture}"):
        return False
    return device.glibc is None or glibc <= device.glibc


def this_device() -> Device:
    """The machine that this runs on."""
    glibc = None
    with suppress(ValueError, OSError, AttributeError):
        words = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        found = re.fullmatch(r"(\d+)\.(\d+).*", words[-1]) if words else None
        glibc = (int(found[1]), int(found[2])) if found else None
    return Device(architecture(), sys.version_info[:2], glibc, frozenset(features()) or None)


def dotted(version: Sequence[int]) -> str:
    """A version as text: 3.11."""
    return ".".join(map(str, version))


def numbers(version: str) -> tuple[int, int]:
    """The first two numbers of a version such as 3.11.

    Raises:
        ValueError: it has not so many.
    """
    first, second, *_ = map(int, version.split("."))
    return first, second
