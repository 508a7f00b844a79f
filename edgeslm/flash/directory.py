"""A bundle and its runtime as plain files in a folder: of a card or a stick that is mounted.

What is there already with the right bytes is not written again, so that an interrupted one goes
on. Each file gets its name when the disk holds it; the ones that say what is current come last.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeslm import progress
from edgeslm.bundle.runtimes import Runtime
from edgeslm.errors import Failure, NotFound, OutputFailure, Unsupported, reading, writing
from edgeslm.files import atomic_path, sha256, small_text
from edgeslm.flash.carried import Carried
from edgeslm.flash.plan import Plan, Report, Step, on_card
from edgeslm.flash.runtimes import Brought
from edgeslm.flash.tree import Entry, Link, Tree, tree_of
from edgeslm.flash.wheels.install import OLDEST_PYTHON
from edgeslm.flash.wheels.tags import Device, numbers
from edgeslm.progress import Advance
from edgeslm.targets.mounts import parse_mounts
from edgeslm.units import format_bytes

FOLDER = "edgeslm"
"""Everything lies in it, so that nothing else on the card is touched."""
_README, _RUNTIME = "README.txt", "runtime"
_OURS = re.compile(rf"{FOLDER}/(bundle|{_RUNTIME}(-\d+\.\d+)?)/")
_LAST = ("bundle/oci-layout", "bundle/model.sig", "bundle/index.json")
_FAT_NAMES = frozenset({"vfat", "msdos", "umsdos"})
_FAT_MOST_BYTES = (4 << 30) - 1
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Place:
    """What is known of a folder.

    Attributes:
        path: As the user named it.
        free_bytes: What the disk has room for.
        file_system: Its name in the kernel, as in "vfat"; empty where nobody knows.
        there: The sizes of files that lie in it, by their paths below it.
        links: Links that lie in it, by their paths below it.
    """

    path: Path
    free_bytes: int
    file_system: str
    there: dict[str, int]
    links: frozenset[str] = frozenset()


def look(path: Path, root: Path = Path("/")) -> Place:
    """What is known of a folder.

    Raises:
        NotFound: there is none.
    """
    if not path.is_dir():
        raise NotFound(f"{path}: no such folder", hint=f"Mount the card first, or: mkdir {path}")
    with reading(path):
        free = shutil.disk_usage(path).free
        found = {str(file.relative_to(path)): file for file in _below(path / FOLDER)}
        links = frozenset(name for name, file in found.items() if file.is_symlink())
        there = {
            name: file.stat().st_size
            for name, file in found.items()
            if name not in links and file.is_file()
        }
    mounts = small_text(root / "proc" / "self" / "mountinfo")
    return Place(path, free, file_system_of(path.resolve(), mounts), there, links)


def _below(folder: Path) -> Iterator[Path]:
    """A folder, if there is one, and all in it; links are not followed, the folder neither."""
    if os.path.lexists(folder):
        yield folder
    if folder.is_dir() and not folder.is_symlink():
        for item in os.scandir(folder):
            yield from _below(Path(item.path))


def file_system_of(path: Path, mountinfo: str) -> str:
    """The name of the file system that a folder lies on; empty where it is not said. Pure."""
    best, found = -1, ""
    for mount in parse_mounts(mountinfo):
        place = Path(mount.place)
        if len(place.parts) >= best and (path == place or place in path.parents):
            best, found = len(place.parts), mount.kind
    return found


def tree_for(carried: Carried, brought: Brought | None, scratch: Path) -> Tree:
    """What is put there. Nobody knows which Python will be there, so there is a runtime for each.

    Args:
        carried: The bundle.
        brought: The runtimes there are; None for none.
        scratch: A folder for them, which stays as long as the tree is used.

    Raises:
        Unsupported: there is none for the board that the bundle was packed for, or it has links.
    """
    entries = [*tree_of(carried.folder, f"{FOLDER}/bundle").entries]
    folders = {}
    if brought is not None:
        chosen = _choose(carried, brought)
        for runtime in chosen:
            name = _RUNTIME if len(chosen) == 1 else f"{_RUNTIME}-{runtime.python}"
            entries += brought.tree(runtime, scratch / name, f"{FOLDER}/{name}").entries
            folders[runtime.python] = name
    readme = _readme(folders)
    return Tree.of([*_without_links(entries), Entry(f"{FOLDER}/{_README}", readme.encode())])


def _choose(carried: Carried, brought: Brought) -> list[Runtime]:
    """For each Python the runtime that suits the board, or the only kind of board there is."""
    architectures = {each.architecture for each in brought.listed.runtimes}
    if carried.board is not None:
        architectures = {carried.board.architecture}
    if len(architectures) != 1:
        raise Unsupported(
            f"{carried.named}: does not say for which board it is, and the runtimes are for "
            f"{', '.join(sorted(architectures)) or 'none'}",
            hint="Pack it for one: edgeslm pack MODEL -o BUNDLE --target BOARD --runtime DIR",
        )
    (architecture,) = architectures
    features = carried.features(architecture)
    pythons = sorted({numbers(each.python) for each in brought.alike(architecture)})
    return [
        brought.choose(Device(architecture, python, None, features))
        for python in pythons or [OLDEST_PYTHON]
    ]


def _readme(runtimes: Mapping[str, str]) -> str:
    """How to start it; `runtimes` are folders by the Python that they are for."""
    if not runtimes:
        return "Start it in this folder, with edgeslm:\n    edgeslm serve bundle\n"
    return "".join(
        f"Start it in this folder, with Python {python}:\n"
        f"    PYTHONPATH={place}/site python{python} -s -m edgeslm serve bundle\n"
        for python, place in runtimes.items()
    )


def _without_links(entries: Iterable[Entry]) -> Iterator[Entry]:
    for entry in entries:
        if isinstance(entry.content, Link):
            raise Unsupported(
                f"the runtime has a link, {entry.path}, and cards often know none",
                hint="Replace it with what it leads to.",
            )
        yield entry


def plan_directory(carried: Carried, place: Place, tree: Tree) -> Plan:
    """What is written. Pure, from what was looked at.

    Raises:
        OutputFailure: it does not fit, one file is larger than the file system can hold, or a
            link stands where something would be written, and leads elsewhere.
    """
    for entry in tree.entries:
        if entry.path in place.links:
            raise OutputFailure(
                f"{place.path / entry.path} is a link, and what is written there would lie "
                "somewhere else",
                hint="Remove it, or name the folder that it leads to.",
            )
    missing = [entry for entry in tree.files if place.there.get(entry.path) != entry.size]
    count = sum(entry.size for entry in missing)
    _ensure_fits(place, missing, count)
    how_many = f"write {len(missing)} of {len(tree.files)} files"
    steps = (
        Step(how_many, count, on_card(count)),
        Step("read all of them back and compare", 0, on_card(tree.bytes)),
    )
    note = f"Everything goes into {place.path / FOLDER}; what else lies on the disk is not touched."
    return Plan(str(place.path), str(carried.named), carried.digest, steps, (note,))


def _ensure_fits(place: Place, missing: list[Entry], count: int) -> None:
    if place.file_system in _FAT_NAMES:
        for entry in missing:
            if entry.size > _FAT_MOST_BYTES:
                raise OutputFailure(
                    f"{place.path} is formatted with FAT, which holds no file over 4 GiB, and "
                    f"{entry.path} has {format_bytes(entry.size)}",
                    hint="Format it with exFAT or ext4, or pack a smaller model (--size 3.9G).",
                )
    if count > place.free_bytes:
        raise OutputFailure(
            f"{place.path} has no room: {format_bytes(place.free_bytes)} free, "
            f"{format_bytes(count)} needed",
            hint="Free some space, or use a larger one.",
        )


def write_directory(plan: Plan, place: Place, tree: Tree) -> Report:
    """Write what is missing, and compare all of it with what the disk holds.

    Raises:
        OutputFailure: it could not be written.
        Failure: it reads back differently.
    """
    began = time.monotonic()
    written = 0
    with progress.bar(f"writing {place.path}", tree.bytes, unit="bytes") as advance:
        for entry in _in_order(tree):
            written += _put(place.path, entry, advance)
    _remove_others(place, tree)
    with progress.bar("reading back", tree.bytes, unit="bytes") as advance:
        for entry in tree.files:
            if _digest(place.path / entry.path, advance) != entry.sha256():
                raise Failure(
                    f"{place.path / entry.path} reads back differently",
                    hint="Use another card; this one, or its reader, is failing.",
                )
    notes = (f"How to start it: {place.path / FOLDER / _README}",)
    return Report(plan, written, tree.bytes, time.monotonic() - began, None, notes)


def _in_order(tree: Tree) -> list[Entry]:
    """Folders, files, and last the few small files that lead to all others."""
    last = {f"{FOLDER}/{name}": number for number, name in enumerate(_LAST, 1)}
    return sorted(tree.entries, key=lambda entry: last.get(entry.path, 0))


def _put(root: Path, entry: Entry, advance: Advance) -> int:
    """Write one entry unless it is there; how many bytes were written."""
    target = root / entry.path
    if not entry.is_file:
        with writing(target):
            target.mkdir(exist_ok=True)
        return 0
    with reading(target):
        same_size = target.is_file() and target.stat().st_size == entry.size
    if same_size and sha256(target) == entry.sha256():
        advance(entry.size)
        return 0
    with atomic_path(target) as temporary, writing(target), temporary.open("wb") as file:
        for piece in _pieces(entry):
            file.write(piece)
            advance(len(piece))
        if entry.mode & 0o100:
            temporary.chmod(entry.mode)
    return entry.size


def _pieces(entry: Entry) -> Iterator[bytes]:
    if isinstance(entry.content, bytes):
        yield entry.content
    elif isinstance(entry.content, Path):
        with reading(entry.content), entry.content.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece


def _remove_others(place: Place, tree: Tree) -> None:
    """Files of an earlier bundle, which nothing leads to any more."""
    ours = {entry.path for entry in tree.entries}
    for name in (*place.there, *place.links):
        if name not in ours and _OURS.match(name):
            with writing(place.path / name):
                (place.path / name).unlink(missing_ok=True)


def _digest(path: Path, advance: Advance) -> str:
    """Of what the disk holds: memory is told to forget the file first."""
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            advance(len(piece))
    return digest.hexdigest()
