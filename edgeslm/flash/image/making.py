"""An image of a system with a model, its runtime and its service in it, from one without."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeslm import progress
from edgeslm.bundle.runtimes import Runtime
from edgeslm.errors import Failure, InvalidImage, OutputFailure, Unsupported, reading, writing
from edgeslm.files import atomic_path, scratch_folder
from edgeslm.flash import programs
from edgeslm.flash.carried import Carried, Load
from edgeslm.flash.image import ext4, fat
from edgeslm.flash.image.ext4 import Ext4
from edgeslm.flash.image.fat import Fat, is_fat
from edgeslm.flash.image.first_boot import first_boot_files
from edgeslm.flash.image.partitions import SECTOR, Table, grown, read_table
from edgeslm.flash.image.settings import Settings
from edgeslm.flash.image.sparse import COMPRESSED, move_region, unpack, unpacked_bytes
from edgeslm.flash.image.system import CMDLINE, FirstBoot, System, look, missing_libraries
from edgeslm.flash.plan import Plan, Report, Step, at_rate
from edgeslm.flash.tree import Tree
from edgeslm.flash.wheels.install import OLDEST_PYTHON
from edgeslm.flash.wheels.tags import Device, dotted, numbers
from edgeslm.units import format_bytes

_ALIGN = 8 << 20
"""Image sizes and partition starts of Raspberry Pi OS are multiples of it (pi-gen)."""
_SPARE_BYTES = 16 << 20
_MORE = 1.02
"""For extents, folders and the tables of new block groups."""
_UNPACKED, _PLAIN, _ADDED, _CHECKED = 90, 500, 70, 300
"""Megabytes per second of .xz, of a plain copy, of debugfs, of reading back; guesses."""
_SOURCE = "guessed for a laptop, not measured; a slower disk takes longer"


@dataclass(frozen=True)
class Facts:
    """What a plan is made from.

    Attributes:
        base_bytes: Of the base as it is.
        unpacked_bytes: Of the base unpacked; None where only unpacking tells.
        compressed: Whether it has to be unpacked.
        base_disk_bytes: What the disk has of it: less where there are holes.
        added_bytes: What is added, at most.
        beside_bytes: What is unpacked beside the image meanwhile, at most.
    """

    base_bytes: int
    unpacked_bytes: int | None
    compressed: bool
    base_disk_bytes: int
    added_bytes: int
    beside_bytes: int

    @property
    def image_bytes(self) -> int | None:
        """Of the image, about; None where only unpacking tells."""
        if self.unpacked_bytes is None:
            return None
        return _aligned(self.unpacked_bytes + _with_tables(self.added_bytes))

    @property
    def room_bytes(self) -> int:
        """What the disk has to have room for while the image is made.

        The base unpacked takes more than packed, but less than it says: its zeros take nothing.
        """
        return self.base_disk_bytes + self.more_bytes

    @property
    def more_bytes(self) -> int:
        """The same, once the base is copied."""
        return self.added_bytes + self.beside_bytes


@dataclass(frozen=True)
class Made:
    """What was made, beyond a report.

    Attributes:
        report: What was done.
        system: What the base held.
        bytes: The image's size.
    """

    report: Report
    system: System
    bytes: int


def facts(base: Path, load: Load) -> Facts:
    """What is known beforehand.

    Raises:
        EdgeslmError: the base cannot be read.
    """
    known = unpacked_bytes(base)
    with reading(base):
        found = base.stat()
    return Facts(
        base_bytes=found.st_size,
        unpacked_bytes=known,
        compressed=base.suffix in COMPRESSED,
        base_disk_bytes=found.st_blocks * 512,
        added_bytes=load.bytes,
        beside_bytes=0 if load.brought.unpacked else load.brought.most_bytes,
    )


def plan_image(
    destination: str, carried: Carried, base: str, known: Facts, settings: Settings
) -> Plan:
    """What making an image does. Pure."""
    size = known.unpacked_bytes
    unpack_rate = _UNPACKED if known.compressed else _PLAIN
    steps = [
        Step(
            f"{'unpack' if known.compressed else 'copy'} {base}",
            size or 0,
            at_rate(size, unpack_rate, _SOURCE),
        ),
        Step("grow its root partition by what is added"),
        Step(
            "add the model, the runtime that suits the system in it, and the service",
            known.added_bytes,
            at_rate(known.added_bytes, _ADDED, _SOURCE),
        ),
    ]
    if settings.any:
        steps.append(Step("write what the board is told at its first start"))
    steps.append(
        Step(
            "check both file systems and read every added file back",
            0,
            at_rate(known.added_bytes, _CHECKED, _SOURCE),
        )
    )
    gets = known.image_bytes
    notes = [
        f"Making it takes more than {format_bytes(known.room_bytes)} of room"
        + ("." if gets is None else f"; the image gets about {format_bytes(gets)}."),
        "Nothing needs a network or a compiler when the board starts.",
        *([] if settings.any else ["The board asks for a user on its screen at its first start."]),
    ]
    return Plan(destination, str(carried.named), carried.digest, tuple(steps), tuple(notes))


def make_image(plan: Plan, base: Path, output: Path, load: Load, settings: Settings) -> Made:
    """Write the image; it appears under its name when all of it was checked.

    Raises:
        NotFound: a program is not installed; the hint names the package.
        InvalidImage, Unsupported: the base is damaged, or not a system that can be used.
        OutputFailure: it could not be written.
        Failure: something does not read back as it was written.
    """
    began = time.monotonic()
    programs.ensure_installed([*ext4.PROGRAMS, *fat.PROGRAMS])
    known = facts(base, load)
    _ensure_room(output, known.room_bytes)
    with atomic_path(output) as image, scratch_folder(output) as scratch:
        if settings.secret:
            image.chmod(0o600)
        with progress.bar(f"copying {base.name}", base.stat().st_size, unit="bytes") as advance:
            unpack(base, image, advance)
        _ensure_room(output, known.more_bytes)
        work = _Work(image)
        work.root.repair()
        system = look(work.root, work.boot)
        runtime = _choose(load, system)
        _ensure_runs(work.root, system, runtime)
        files = first_boot_files(settings, system, work.cmdline())
        tree = load.tree(runtime, scratch)
        work.fill(tree, files)
        _forget(image)
        verified = work.verify(tree, files)
        size = image.stat().st_size
        written = tree.bytes + sum(map(len, files.values()))
    took = time.monotonic() - began
    address = settings.hostname and f"http://{settings.hostname}.local:{load.served.port}"
    where = address or f"port {load.served.port} of the board"
    notes = (_about(load, runtime), f"After the first start the model answers at {where}.")
    return Made(Report(plan, written, verified, took, address, notes), system, size)


def _about(load: Load, runtime: Runtime) -> str:
    """What a person has to know who has several boards."""
    for_ = "for any board" if not runtime.features else f"needs {' '.join(runtime.features)}"
    known = load.carried.features(runtime.architecture) is not None
    board = load.carried.board
    why = f", as {board.name} has" if known and board is not None and runtime.features else ""
    return f"Its runtime is {runtime.march}, Python {runtime.python}: {for_}{why}."


def _choose(load: Load, system: System) -> Runtime:
    """The runtime for the system in the image, and the board that the bundle was packed for."""
    if system.python is None:
        raise InvalidImage(
            f"{system.name} in the image has no Python", hint="Use an image with python3 in it."
        )
    python = numbers(system.python)
    if python < OLDEST_PYTHON:
        raise Unsupported(
            f"{system.name} in the image has Python {system.python}, too old a one",
            hint=f"Use a newer image: the runtime needs Python {dotted(OLDEST_PYTHON)}.",
        )
    glibc = None if system.glibc is None else numbers(system.glibc)
    features = load.carried.features(system.machine)
    return load.brought.choose(Device(system.machine, python, glibc, features))


def _ensure_runs(root: Ext4, system: System, runtime: Runtime) -> None:
    missing = missing_libraries(root, system.machine, runtime.libraries)
    if missing:
        raise Unsupported(
            f"{system.name} in the image lacks {', '.join(missing)}, which the runtime needs",
            hint="Use an image that has it: Raspberry Pi OS has.",
        )


def _ensure_room(output: Path, needed: int) -> None:
    """Refuse what cannot fit onto the disk."""
    with writing(output):
        free = shutil.disk_usage(output.resolve().parent).free
    if free < needed:
        raise OutputFailure(
            f"cannot write {output}: it takes more than {format_bytes(needed)}, "
            f"{format_bytes(free)} are free",
            hint="Free some space or choose another disk, by TMPDIR for what is only made to be "
            "written on.",
        )


def _forget(image: Path) -> None:
    """Have the disk hold the image and the memory forget it, so that it is read back for real."""
    with image.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class _Work:
    """An unpacked image while it is filled.

    Raises:
        InvalidImage: its last partition is no ext4.
    """

    def __init__(self, image: Path) -> None:
        self._image = image
        self.size = image.stat().st_size
        if self.size % SECTOR:
            raise InvalidImage("the image does not end with a sector", hint="Fetch it again.")
        self.table = read_table(self._read, self.size)
        self.root = Ext4(image, self.table.last.start)
        self.root.superblock()
        self.boot = self._boot(self.table)

    def cmdline(self) -> str | None:
        """What the kernel is told, by the boot partition."""
        content = None if self.boot is None else self.boot.read(CMDLINE)
        return None if content is None else content.decode("utf-8", "replace")

    def fill(self, tree: Tree, files: Mapping[str, bytes]) -> None:
        """Grow the image, and put everything into it."""
        self._grow(_needed_bytes(tree, self.root.superblock().block_bytes))
        if self.root.superblock().free_inodes < len(tree.entries):
            raise InvalidImage(
                "the root file system of the image has no room for so many files",
                hint="Use another image.",
            )
        self.root.add(tree)
        for name, content in files.items():
            if self.boot is not None:
                self.boot.write(name, content)

    def verify(self, tree: Tree, files: Mapping[str, bytes]) -> int:
        """Read back and compare all that was put in, and check both file systems."""
        if read_table(self._read, self._image.stat().st_size) != self.table:
            raise Failure("the partition table reads back differently", hint=_DISK)
        self.root.check()
        if self.boot is not None:
            self.boot.check()
        for name, content in files.items():
            if self.boot is None or self.boot.read(name) != content:
                raise Failure(f"{name} on the boot partition reads back differently", hint=_DISK)
        with progress.bar("reading back", tree.bytes, unit="bytes") as advance:
            return self.root.verify(tree, advance) + sum(map(len, files.values()))

    def _grow(self, more: int) -> None:
        """A larger partition, and in it the file system, which is resized in a file of its own."""
        new_size = _aligned(self.size + more)
        old = self.table.last
        self.table, patches = grown(self._read, self.size, new_size)
        block = self.root.superblock().block_bytes
        with scratch_folder(self._image) as folder, writing(self._image):
            alone = folder / "root"
            alone.touch()
            os.truncate(self._image, old.start + old.size)  # behind it nothing is kept
            move_region(self._image, old.start, alone)
            Ext4(alone).resize(self.table.last.size // block * block)
            move_region(alone, 0, self._image, old.start)
        with writing(self._image), self._image.open("r+b") as file:
            file.truncate(new_size)
            for patch in patches:
                file.seek(patch.offset)
                file.write(patch.data)
        self.size = new_size

    def _boot(self, table: Table) -> Fat | None:
        for part in table.partitions[:-1]:
            if part.may_be_fat and is_fat(self._read(part.start, SECTOR)):
                return Fat(self._image, part.start, part.size)
        return None

    def _read(self, offset: int, count: int) -> bytes:
        with self._image.open("rb") as file:
            file.seek(offset)
            return file.read(count)


def _needed_bytes(tree: Tree, block: int) -> int:
    blocks = sum(-(-entry.size // block) for entry in tree.entries)
    folders = len(tree.entries) - len(tree.files)
    return _with_tables((blocks + folders) * block)


def _with_tables(size: int) -> int:
    return int(size * _MORE) + _SPARE_BYTES


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


_DISK = "The disk that the image lies on may be failing; try another one."


def imager_format(settings: Settings, system: System) -> FirstBoot:
    """How Raspberry Pi Imager may still change settings: not where they are in the image."""
    unknown_there = system.first_boot is FirstBoot.OWN
    return FirstBoot.NONE if settings.any or unknown_there else system.first_boot
