"""A device's versions of a bundle: brought in whole, switched in one step, and taken back.

    versions/<first 32 hex digits of the digest>/   complete bundles, each usable as it is
    incoming/<the same>/                            what is being received; never used
    state.json                                      which version is current, and which was before

A version is built in `incoming`, compared byte for byte with what its manifest says, synced, and
renamed into `versions`; so whatever is there is complete, whenever the power goes. The same blob in
two versions is one file with two names, where the file system can do that. One command at a time
changes a store; who only reads needs no lock, since everything that is read appears in one step.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgeslm import progress
from edgeslm.bundle import durable, names
from edgeslm.bundle.image import Blob, Image
from edgeslm.bundle.layout import (
    DirectoryLayout,
    Layout,
    check_files,
    expected_files,
    hashed,
    open_layout,
    read_image,
    read_small,
)
from edgeslm.bundle.store_state import (
    NAME_DIGITS,
    STATE_NAME,
    Refusal,
    State,
    read_state,
    write_state,
)
from edgeslm.bundle.trust import check_signed, trusted_keys
from edgeslm.bundle.verification import verify_bundle
from edgeslm.errors import (
    InvalidBundle,
    NotFound,
    OutputFailure,
    Unhealthy,
    UserError,
    reading,
    writing,
)
from edgeslm.files import exclusive, sha256
from edgeslm.progress import Advance
from edgeslm.units import format_bytes

VERSIONS, INCOMING = "versions", "incoming"
_SMALL = (names.LAYOUT_NAME, names.INDEX_NAME, names.SIGNATURE_NAME)
_SPARE_BYTES = 1 << 20
_FILE_BYTES = 4096
"""What a file's name and its last block may take beyond its bytes."""
_REMOVED = ".removed"

Gate = Callable[[Path], "str | None"]
"""Looks at a version's folder; says in a sentence what is wrong with it, or None."""


@dataclass(frozen=True)
class Version:
    """A bundle in the store.

    Attributes:
        name: The first 32 hex digits of its digest.
        digest: Of its manifest, with its prefix.
        bytes: Of all its files, those included that another version has too.
        current, previous: Whether it is.
    """

    name: str
    digest: str
    bytes: int
    current: bool
    previous: bool


@dataclass(frozen=True)
class Added:
    """A version that is in the store now.

    Attributes:
        version: Its name.
        new: False where it had been there.
        written_bytes: How many were written.
        shared_bytes: How many are those of files that other versions have too.
    """

    version: str
    new: bool
    written_bytes: int = 0
    shared_bytes: int = 0


@dataclass(frozen=True)
class Collected:
    """What was removed.

    Attributes:
        versions: Names of versions.
        incoming: How many were being received.
        freed_bytes: Of files that no other version has.
    """

    versions: tuple[str, ...]
    incoming: int
    freed_bytes: int


@dataclass(frozen=True)
class Store:
    """The store in a folder, which the first version that is added makes."""

    root: Path

    @property
    def state(self) -> State:
        """What is current now."""
        return read_state(self.root)

    def folder(self, version: str) -> Path:
        """Where a version lies."""
        return self.root / VERSIONS / version

    def versions(self) -> tuple[Version, ...]:
        """All complete ones, by name.

        Raises:
            InvalidBundle: one of them is not what a version has to be.
        """
        state = self.state
        found = []
        for name in self._names():
            layout = DirectoryLayout(self.folder(name))
            sizes = (size or 0 for size in layout.files.values())
            digest = read_image(layout).manifest.digest
            current, previous = name == state.current, name == state.previous
            found.append(Version(name, digest, sum(sizes), current, previous))
        return tuple(found)

    def find(self, text: str | None) -> str:
        """The version that a user means: by a beginning of its digest; None for the current one.

        Raises:
            NotFound: there is none.
            UserError: it is not clear which.
        """
        names_ = self._names()
        if text is None:
            current = self.state.current
            if current is None or current not in names_:
                raise NotFound(
                    f"{self.root}: no version is current",
                    hint="Add one: edgeslm store add BUNDLE --activate",
                )
            return current
        wanted = text.removeprefix("sha256:")
        found = [name for name in names_ if name.startswith(wanted[:NAME_DIGITS])] if wanted else []
        if len(found) > 1:
            raise UserError(f"{text}: several versions begin so", hint="Give more digits.")
        if not found:
            raise NotFound(
                f"{self.root}: no version {text}", hint="See them with: edgeslm store list"
            )
        return found[0]

    def find_blob(self, blob: Blob) -> Path | None:
        """A file of these bytes in some version, by its name and size; None for none."""
        for name in self._names():
            path = self.folder(name) / blob.name
            with suppress(OSError):
                if path.stat(follow_symlinks=False).st_size == blob.size:
                    return path
        return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all others from changing the store while the block runs; it is made if need be.

        What a killed process had done and not yet synced is synced first, so that no later step
        is built on what may still be lost.

        Raises:
            OutputFailure: nothing can be written there.
        """
        with writing(self.root):
            durable.make_folder_synced(self.root)
        with exclusive(self.root, lambda: progress.note("waiting for another command")):
            with writing(self.root):
                for folder in (VERSIONS, INCOMING):
                    durable.make_folder(self.root / folder)
                    durable.sync_folder(self.root / folder)
                durable.sync_folder(self.root)
                self._remove_remains()
            yield

    def add(self, bundle: Path, *, again: bool = False) -> Added:
        """Bring a bundle in. It is complete when this returns, and not yet current.

        Args:
            bundle: A directory, or a tar.
            again: Take it even if it did not pass its check before.

        Raises:
            UserError: it is damaged, or not accepted here; nothing was added.
            OutputFailure: it cannot be written, or there is not enough room.
        """
        layout = open_layout(bundle)
        image = read_image(layout)
        check_files(layout, image)
        refuse_unsigned_layout(layout, image)
        name = image.manifest.sha256[:NAME_DIGITS]
        with self.locked():
            self.refuse_refused(name, again=again)
            if self.folder(name).is_dir():
                self._renew_signature(layout, name)
                return Added(name, new=False)
            had = {blob.name for blob in image.blobs.values() if self.find_blob(blob)}
            missing = [blob for blob in image.blobs.values() if blob.name not in had]
            folder = self.receive(name, {blob.name: blob.size for blob in missing})
            with progress.bar("adding", sum(blob.size for blob in missing), unit="bytes") as told:
                for blob in image.blobs.values():
                    self._bring(layout, blob, folder, told)
            for each in _SMALL:
                if each in layout.files:
                    with writing(folder):
                        durable.write_synced(folder / each, read_small(layout, each))
            self.admit(folder)
        total = sum(blob.size for blob in image.blobs.values())
        written = sum(blob.size for blob in missing)
        return Added(name, new=True, written_bytes=written, shared_bytes=total - written)

    def activate(self, version: str, gate: Gate | None = None, *, again: bool = False) -> State:
        """Make a version the current one, if it passes its check; else the old one stays.

        Args:
            version: Its name.
            gate: The check.
            again: Try it even if it did not pass before.

        Raises:
            Unhealthy: it did not pass, which is remembered.
            UserError: it did not pass before, or is not there.
        """
        with self.locked():
            self.refuse_refused(version, again=again)
            folder = self.folder(self.find(version))
            problem = None if gate is None else gate(folder)
            state = self.state
            with writing(self.root / STATE_NAME):
                if problem is not None:
                    write_state(self.root, state.refusing(version, problem))
                    raise Unhealthy(
                        f"{version}: did not pass its check, and {_kept(state)}: {problem}",
                        hint="Add a better one; to try this one once more: --again",
                    )
                state = state.switched(version)
                write_state(self.root, state)
        return state

    def rollback(self) -> State:
        """Make the previous version current again, and the current one the previous one.

        Raises:
            NotFound: there is no previous one.
        """
        with self.locked():
            state = self.state
            if state.previous is None or not self.folder(state.previous).is_dir():
                raise NotFound(
                    f"{self.root}: there is no version before the current one",
                    hint="See what there is: edgeslm store list",
                )
            state = State(state.previous, state.current, state.refused)
            with writing(self.root / STATE_NAME):
                write_state(self.root, state)
        return state

    def collect(self) -> Collected:
        """Remove the versions that are neither current nor previous, and what was being received.

        Who has a file of them open keeps it until it is closed; its bytes are free after that.
        """
        with self.locked(), writing(self.root):
            state = self.state
            old = [name for name in self._names() if name not in (state.current, state.previous)]
            incoming = sorted(path for path in (self.root / INCOMING).iterdir())
            freed = sum(map(_own_bytes, [*incoming, *map(self.folder, old)]))
            for path in incoming:
                _remove(path)
            for name in old:
                # no longer a version before it is no longer complete
                durable.rename(self.folder(name), self.root / INCOMING / f"{name}{_REMOVED}")
            if old:
                durable.sync_folder(self.root / VERSIONS)
                durable.sync_folder(self.root / INCOMING)
            self._remove_remains()
        return Collected(tuple(old), len(incoming), freed)

    def refuse_refused(self, version: str, *, again: bool) -> None:
        """Return if nothing is held against a version.

        Raises:
            UserError: it did not pass its check before.
        """
        refusal: Refusal | None = self.state.refusal(version)
        if refusal is not None and not again:
            raise UserError(
                f"{version}: it did not pass its check before: {refusal.reason}",
                hint="To try it once more: --again",
            )

    def receive(self, version: str, missing: Mapping[str, int]) -> Path:
        """The folder to receive a version in, once there is room for it.

        Args:
            version: Its name.
            missing: Sizes of the files that will be written there, by name.

        Raises:
            OutputFailure: there is not enough room; nothing was written.
        """
        folder = self.root / INCOMING / version
        with writing(self.root):
            have = {
                name: durable.size(folder / name) or durable.size(folder / f"{name}.part") or 0
                for name in missing
            }
            wanted = sum(max(size - have[name], 0) + _FILE_BYTES for name, size in missing.items())
            free = shutil.disk_usage(self.root).free
            if wanted + _SPARE_BYTES > free:
                raise OutputFailure(
                    f"{self.root}: {format_bytes(wanted + _SPARE_BYTES)} are needed, "
                    f"{format_bytes(free)} are free",
                    hint="Make room; old versions go with: edgeslm store collect",
                )
            durable.make_folder(folder / names.BLOBS)
        return folder

    def share(self, blob: Blob, target: Path) -> bool:
        """Have a blob that some version has appear in another; False if none has it unchanged."""
        source = self.find_blob(blob)
        if source is None or sha256(source) != blob.sha256:
            return False
        with writing(target):
            if durable.size(target) == blob.size:
                return True
            with suppress(FileNotFoundError):
                durable.unlink(target)
            try:
                durable.link(source, target)
            except FileExistsError:
                raise
            except OSError:  # a file system without them, or with too many of one
                _copy(source, target)
        return True

    def admit(self, folder: Path) -> None:
        """Make what was received a version, once it is found to be what its manifest says.

        Raises:
            UserError: it is not; it is removed, so that the next time begins anew.
        """
        try:
            image = read_image(DirectoryLayout(folder))
            self._tidy(folder, image)
            verify_bundle(folder)
            layout = DirectoryLayout(folder)
            if image.manifest.sha256[:NAME_DIGITS] != folder.name:
                raise InvalidBundle(
                    f"{folder}: its digest is {image.manifest.digest}", hint=names.DAMAGED
                )
            refuse_unsigned_layout(layout, image)
        except UserError:
            with writing(folder):
                durable.remove_tree(folder)
            raise
        with writing(self.root):
            durable.sync_tree(folder)
            durable.rename(folder, self.folder(folder.name))
            durable.sync_folder(self.root / VERSIONS)
            durable.sync_folder(self.root / INCOMING)

    def _names(self) -> list[str]:
        place = self.root / VERSIONS
        with reading(place):
            return sorted(path.name for path in place.iterdir()) if place.is_dir() else []

    def _tidy(self, folder: Path, image: Image) -> None:
        """Remove what earlier, interrupted attempts left beside a bundle's own files."""
        with writing(folder):
            for name in sorted(set(DirectoryLayout(folder).files) - expected_files(image)):
                durable.unlink(folder / name)

    def _bring(self, layout: Layout, blob: Blob, folder: Path, advance: Advance) -> None:
        target = folder / blob.name
        if durable.size(target) == blob.size or self.share(blob, target):
            return  # complete, or it would not have its name; read again before it is admitted
        part = folder / f"{blob.name}.part"
        with writing(target):
            with durable.Output(part) as output:
                for piece in hashed(layout, blob, advance):
                    output.write(piece)
                output.sync()
            durable.rename(part, target)

    def _renew_signature(self, layout: Layout, version: str) -> None:
        """Take over the signature of a bundle that is there, where it has another or none."""
        if names.SIGNATURE_NAME not in layout.files:
            return
        data = read_small(layout, names.SIGNATURE_NAME)
        target = self.folder(version) / names.SIGNATURE_NAME
        with writing(target):
            if target.exists() and target.read_bytes() == data:
                return
            new = self.root / INCOMING / f"{version}.sig"
            durable.write_synced(new, data)
            durable.rename(new, target)
            durable.sync_folder(target.parent)

    def _remove_remains(self) -> None:
        """Remove the rest of versions whose removal was interrupted."""
        for path in sorted((self.root / INCOMING).glob(f"*{_REMOVED}")):
            durable.remove_tree(path)


def is_store(path: Path) -> bool:
    """Whether a folder is a store."""
    with reading(path):
        return (path / STATE_NAME).is_file() or (path / VERSIONS).is_dir()


def current_version(path: Path) -> Path:
    """The folder of a store's current version.

    Raises:
        NotFound: none is current.
    """
    store = Store(path)
    return store.folder(store.find(None))


def refuse_unsigned_layout(layout: Layout, image: Image) -> None:
    """Return if this machine accepts a bundle, by its signature; hashes are for others to check.

    Raises:
        Untrusted: it accepts signed bundles only, and nobody it trusts signed this one.
    """
    keys = trusted_keys()
    if keys is not None:
        check_signed(layout, image, keys)


def _kept(state: State) -> str:
    return "nothing is current" if state.current is None else f"{state.current} stays"


def _copy(source: Path, target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    with durable.Output(part) as output, source.open("rb") as stream:
        while piece := stream.read(1 << 20):
            output.write(piece)
        output.sync()
    durable.rename(part, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        durable.remove_tree(path)
    else:
        durable.unlink(path)


def _own_bytes(path: Path) -> int:
    """Of the files below a path that have no name elsewhere."""
    found = [path] if not path.is_dir() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in found if each.stat().st_nlink == 1)
