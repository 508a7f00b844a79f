"""The runtime of a device that does not run yet: where it comes from, and as files.

It lies in the bundle, as `pack --runtime` put it there; or in a folder of wheels that `edgeslm
wheels` made; or in one that was unpacked from these already, opt/edgeslm/runtimes/<id> of a device.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgeslm.bundle.contents import read_runtime_list
from edgeslm.bundle.documents import parse
from edgeslm.bundle.layout import DirectoryLayout, read_image
from edgeslm.bundle.names import BLOBS
from edgeslm.bundle.runtimes import RUNTIME_NAME, Runtime, RuntimeList, read_runtimes
from edgeslm.errors import InvalidBundle, InvalidOption, NotFound, reading
from edgeslm.flash import places
from edgeslm.flash.tree import Entry, Link, Tree, tree_of
from edgeslm.flash.wheels.install import choose, find_wheels, install
from edgeslm.flash.wheels.tags import Device, numbers
from edgeslm.flash.wheels.unpacking import unpacked_bytes
from edgeslm.records import from_json

LAUNCHER, SITE = "bin/edgeslm", "site"
_WHEELS = "Name a folder that edgeslm wheels made: edgeslm wheels --target BOARD -o DIR"


@dataclass(frozen=True)
class Brought:
    """Runtimes that are at hand, for one kind of device each.

    Attributes:
        listed: Which.
        folder: That their wheels lie in, or the files of the only one.
        unpacked: Whether it is the latter.
    """

    listed: RuntimeList
    folder: Path
    unpacked: bool = False

    @cached_property
    def most_bytes(self) -> int:
        """Of the files of the largest one."""
        if self.unpacked:
            return tree_of(self.folder, "x").bytes
        return max(map(self._unpacked_bytes, self.listed.runtimes), default=0)

    def _unpacked_bytes(self, runtime: Runtime) -> int:
        return sum(map(unpacked_bytes, find_wheels(self.listed, runtime, self.folder).values()))

    def choose(self, device: Device) -> Runtime:
        """The one that uses most of a device, of those that it can run.

        Where nobody knows what its processor can do, the one that asks for least.

        Raises:
            Unsupported: there is none for it.
        """
        if device.features is None:
            alike = self.alike(device.architecture, device.python)
            features = min((each.features for each in alike), key=len, default=())
            device = Device(device.architecture, device.python, device.glibc, frozenset(features))
        return choose(self.listed, device)

    def alike(self, architecture: str, python: tuple[int, int] | None = None) -> Sequence[Runtime]:
        """Those for an architecture, and a Python if that is given."""
        wanted = None if python is None else ".".join(map(str, python))
        return [
            each
            for each in self.listed.runtimes
            if each.architecture == architecture and wanted in (None, each.python)
        ]

    def tree(self, runtime: Runtime, scratch: Path, place: str) -> Tree:
        """The files of one of them.

        Args:
            runtime: The one.
            scratch: A folder that it can be unpacked into, and stays as long as the tree is used.
            place: Where they will lie.

        Raises:
            EdgeslmError: a wheel is damaged, or something cannot be read or written.
        """
        if self.unpacked:
            return tree_of(self.folder, place)
        done = install(self.listed, runtime, self.folder, scratch, durable=False)
        return tree_of(done.path, place)

    def current_tree(self, runtime: Runtime, scratch: Path) -> Tree:
        """The same, as the current one of a device."""
        files = self.tree(runtime, scratch, f"{places.OPT}/runtimes/{runtime.id}")
        link = Entry(f"{places.OPT}/current", Link(f"runtimes/{runtime.id}"), 0o777)
        return Tree.of([*files.entries, link])


def find_runtimes(bundle: Path, given: Path | None) -> Brought:
    """The runtimes in the folder that was given, else those in the bundle.

    Args:
        bundle: Its directory, verified.
        given: Wheels with their runtime.json, or a runtime that was unpacked; None for neither.

    Raises:
        NotFound: nothing was given, and the bundle has none.
        InvalidOption, InvalidBundle: what was given is no runtime.
    """
    if given is None:
        return Brought(_listed_in(bundle), bundle / BLOBS)
    listed = given / RUNTIME_NAME
    if not listed.is_file():
        raise InvalidOption(
            f"{given}: no runtime for a device: {RUNTIME_NAME} is missing", hint=_WHEELS
        )
    with reading(listed):
        data = listed.read_bytes()
    if not (given / SITE).is_dir():
        return Brought(read_runtimes(data, str(listed)), given)
    if not (given / LAUNCHER).is_file():
        raise InvalidOption(f"{given}: no runtime for a device: no {LAUNCHER}", hint=_WHEELS)
    try:
        runtime = from_json(Runtime, parse(data, str(listed)))
        if not re.fullmatch("[0-9a-f]{16}", runtime.id):
            raise ValueError(f"not the name of a runtime: {runtime.id[:80]!r}")
        numbers(runtime.glibc)
    except ValueError as error:
        raise InvalidBundle(f"{listed}: {error}", hint=_WHEELS) from error
    return Brought(RuntimeList("", "", (), (runtime,)), given, unpacked=True)


def _listed_in(bundle: Path) -> RuntimeList:
    layout = DirectoryLayout(bundle)
    found = read_runtime_list(layout, read_image(layout))
    if found is None:
        raise NotFound(
            f"{bundle}: brings no runtime for a device",
            hint="Make one with: edgeslm wheels, and pack with --runtime.",
        )
    return found
