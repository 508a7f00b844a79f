"""Debian's packages, fetched and unpacked without running anything in them, and sorted."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from edgeslm.errors import Failure, reading, writing
from edgeslm.flash import programs
from edgeslm.flash.debian.recipe import Recipe

KERNEL_PLACE = "boot/vmlinuz-"
_LOADER = "/systemd-bootaa64.efi"
_BUSYBOX = ("usr/bin/busybox", "bin/busybox")
_BLOCK, _INODE = 4096, 512


@dataclass
class Sorted:
    """What has to be had from the packages before a root file system is made of them.

    Attributes:
        version: The kernel's.
        busybox: The program.
        shipped: Some files, by their paths.
        root_bytes: What all the rest takes in a file system.
    """

    version: str = ""
    busybox: bytes = b""
    shipped: dict[str, bytes] = field(default_factory=dict)
    root_bytes: int = 0


def unpack(recipe: Recipe, target: Path) -> None:
    """Write a tar of all packages of a recipe, with what they need.

    Raises:
        Failure: they cannot be had, with what mmdebstrap says.
    """
    words = [
        *("mmdebstrap", "--quiet", "--arch=arm64", "--variant=extract", "--skip=check/qemu"),
        *("--format=tar", "--include=?essential", f"--include={','.join(recipe.packages)}"),
        *(recipe.suite, str(target)),
    ]
    done = subprocess.run(
        [programs.find(words[0]), *words[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=programs.environment(),
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").splitlines()
        wrong = [line for line in said if line.startswith(("E: ", "Err:"))] or said or ["?"]
        raise Failure(
            f"mmdebstrap failed: {wrong[0]}",
            hint="It needs a network, and the package debian-archive-keyring.",
        )


def sort(packages: Path, esp: Path, modules: Path, shipped: Collection[str]) -> Sorted:
    """Put what a boot partition needs into `esp`, and the kernel's modules below `modules`.

    Args:
        packages: What `unpack` wrote.
        esp: A folder: kernel, boot loader and device trees, as they will lie on the partition.
        modules: A folder that becomes `lib/modules`.
        shipped: Paths of files whose bytes are wanted.

    Raises:
        Failure: something is not in the packages.
        EdgeslmError: the tar cannot be read, or nothing written.
    """
    found = Sorted()
    with reading(packages), tarfile.open(packages) as tar:
        for member in tar:
            path = member.name.removeprefix("./")
            place = _place(path, esp, modules)
            if place is None or modules in place.parents:
                found.root_bytes += _INODE + -(-member.size // _BLOCK) * _BLOCK
            content = tar.extractfile(member) if member.isreg() else None
            if content is None:
                continue
            if path in shipped:
                found.shipped[path] = content.read()
            elif path in _BUSYBOX:
                found.busybox = content.read()
            elif path.startswith(KERNEL_PLACE):
                found.version = path.removeprefix(KERNEL_PLACE)
            if place is not None:
                put(place, content)
    lacking = [name for name in shipped if name not in found.shipped]
    lacking += [] if found.busybox else ["busybox"]
    lacking += [] if found.version else ["a kernel"]
    if lacking:
        raise Failure(
            f"Debian's packages lack {', '.join(lacking)}", hint="Use another release of Debian."
        )
    return found


def _place(path: str, esp: Path, modules: Path) -> Path | None:
    if path.startswith(KERNEL_PLACE):
        return esp / "vmlinuz"
    if path.endswith(_LOADER):
        return esp / "EFI" / "BOOT" / "BOOTAA64.EFI"
    _, image, rest = path.partition("lib/linux-image-")
    if image and path.endswith(".dtb"):
        return esp / "dtb" / rest.partition("/")[2]  # where U-Boot looks for them
    _, folder, rest = path.partition("lib/modules/")
    return modules / rest if folder else None


def put(path: Path, content: IO[bytes]) -> None:
    """Write a file, with the folders above it."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            shutil.copyfileobj(content, file)
