"""A FAT file system in a region of an image: read, written and checked, without a mount."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgeslm.errors import Failure, InvalidImage
from edgeslm.flash import programs
from edgeslm.flash.image.sparse import copy_region

PROGRAMS = ("mcopy", "mdir", "mtype", "fsck.vfat")


class Fat:
    """The file system of `size` bytes at `offset` into an image; only its top folder is used."""

    def __init__(self, image: Path, offset: int, size: int) -> None:
        self._image, self._offset, self._size = image, offset, size
        self._name = f"{image.name}@@{offset}"

    def names(self) -> frozenset[str]:
        """What lies in its top folder, without folders."""
        out, _ = self._run(["mdir", "-b", "-i", self._name, "::"])
        lines = out.decode("utf-8", "replace").splitlines()
        return frozenset(line.removeprefix("::/") for line in lines if not line.endswith("/"))

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None where there is none."""
        if name not in self.names():
            return None
        return self._run(["mtype", "-i", self._name, f"::/{name}"])[0]

    def write(self, name: str, content: bytes) -> None:
        """Put a file there; one that had the name is replaced.

        Raises:
            Failure: it could not be written, for instance because it is full.
        """
        self._run(["mcopy", "-o", "-i", self._name, "-", f"::/{name}"], stdin=content)

    def check(self) -> None:
        """Check all of it and change nothing.

        Raises:
            InvalidImage: it is damaged.
        """
        with tempfile.TemporaryDirectory(dir=self._image.parent) as folder:
            region = Path(folder) / "boot"
            region.touch()
            copy_region(self._image, self._offset, self._size, region)
            try:
                programs.run(["fsck.vfat", "-n", str(region)])
            except Failure as error:
                raise InvalidImage(
                    f"the boot file system of the image is damaged: {error.message}",
                    hint="Fetch or make the image again.",
                ) from error

    def _run(self, command: list[str], stdin: bytes = b"") -> tuple[bytes, bytes]:
        return programs.run(command, folder=self._image.parent, stdin=stdin)


def is_fat(first_sector: bytes) -> bool:
    """Whether a file system's first sector is that of FAT. Pure.

    Source: Microsoft, FAT32 File System Specification 1.03, section 3: BS_FilSysType.
    """
    marks = (first_sector[82:90], first_sector[54:62])
    return first_sector[510:512] == b"\x55\xaa" and any(mark[:3] == b"FAT" for mark in marks)
