"""A device's versions of a bundle: brought in whole, switched in one step, and taken back.

    versions/<first 32 hex digits of the digest>/   complete bundles, each usable as it is
    incoming/<the same>/                            what is being received; never used
    state.json                                      which version is current, and which was before

A version is built in `incoming`, compared byte for byte with what its manifest says, synced, and
renamed into `versions`; so whatever is there is complete, whenever the power goes. The same blob in
two versions is one file with two names, where the file system can do that. A version that is added
once more is read; if it was damaged, it is received anew, and gets those files one by one. One
command at a time changes a store; who only reads needs no lock, since everything that is read
appears in one step.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from edgeslm.bundle.store_files import (
    REMOVED,
    exchange,
    holds,
    link_or_copy,
    links_work,
    own_bytes,
    remove,
    telling_of_room,
    write_whole,
)
from edgeslm.bundle.store_state import (
    NAME_DIGITS,
    STATE_NAME,
    VERSIONS,
    Added,
    Collected,
    Refusal,
    State,
    Version,
    current_version,
    read_state,
    write_state,
)
from edgeslm.bundle.trust import check_data_signed, check_signed, trusted_keys
from edgeslm.bundle.verification import verify_bundle
from edgeslm.errors import (
    Failure,
    InvalidBundle,
    NotFound,
    OutputFailure,
    Unhealthy,
    UserError,
    reading,
    writing,
)
from edgeslm.files import exclusive
from edgeslm.progress import Advance
from edgeslm.units import format_bytes

INCOMING = "incoming"
_SMALL = (names.LAYOUT_NAME, names.INDEX_NAME, names.SIGNATURE_NAME)
_SPARE_BYTES = 1 << 20
_FILE_BYTES = 4096
"""What a file's name and its last block may take beyond its bytes."""

Gate = Callable[[Path], "str | None"]
"""Looks at a version's folder; says in a sentence what is wrong with it, or None."""


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
        if text is None:
            return current_version(self.root).name
        names_ = self._names()
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
        return next(self._places(blob), None)

    def _places(self, blob: Blob) -> Iterator[Path]:
        found = set()
        for name in self._names():
            path = self.folder(name) / blob.name
            with suppress(OSError):
                status = path.stat(follow_symlinks=False)
                if status.st_size == blob.size and status.st_ino not in found:
                    found.add(status.st_ino)
                    yield path

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
            with telling_of_room():
                yield

    def add(self, bundle: Path, *, again: bool = False) -> Added:
        """Bring a bundle in. It is complete when this returns, and not yet current.

        Where it had been there, it is read, and mended if it was damaged since.

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
            there = self.folder(name).is_dir()
            written = shared = 0
            if not self.settle(name):
                written = self._receive_all(layout, image, name)
                shared = sum(blob.size for blob in image.blobs.values()) - written
            if there and names.SIGNATURE_NAME in layout.files:
                self.renew_signature(name, read_small(layout, names.SIGNATURE_NAME))
        return Added(name, new=not there, written_bytes=written, shared_bytes=shared)

    def settle(self, version: str) -> bool:
        """Whether a version is there, and every byte of it as it was brought in.

        If so, nothing has to be received for it any more, and what was is removed.
        """
        folder, rest = self.folder(version), self.root / INCOMING / version
        try:
            if not folder.is_dir() or _digest_of(folder)[:NAME_DIGITS] != version:
                return False
        except (UserError, Failure):  # damaged, or the disk no longer gives it
            return False
        if rest.is_dir():
            with writing(rest):
                remove(rest)
        return True

    def _receive_all(self, layout: Layout, image: Image, name: str) -> int:
        """Make a bundle a version, or mend the one that it was; how many bytes that wrote."""
        blobs = image.blobs.values()
        mending = self.folder(name).is_dir()  # what it has may be no good
        had = [blob for blob in blobs if (self._right if mending else self.find_blob)(blob)]
        missing = [blob for blob in blobs if blob not in had]
        folder = self.receive(name, {blob.name: blob.size for blob in missing}, had)
        with progress.bar("adding", sum(blob.size for blob in missing), unit="bytes") as told:
            written = sum(self._bring(layout, blob, folder, told) for blob in blobs)
        for each in _SMALL:
            if each in layout.files:
                with writing(folder):
                    durable.write_synced(folder / each, read_small(layout, each))
        self.admit(folder)
        return written

    def activate(self, version: str, gate: Gate | None = None, *, again: bool = False) -> State:
        """Make a version the current one, if it passes its check; else the old one stays.

        Args:
            version: The beginning of its name.
            gate: The check.
            again: Try it even if it did not pass before.

        Raises:
            Unhealthy: it did not pass, which is remembered.
            UserError: it did not pass before, or is not there.
        """
        with self.locked():
            version = self.find(version)
            self.refuse_refused(version, again=again)
            folder = self.folder(version)
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
            freed = own_bytes([*incoming, *map(self.folder, old)])
            for path in incoming:
                remove(path)
            for name in old:
                # no longer a version before it is no longer complete
                durable.rename(self.folder(name), self.root / INCOMING / f"{name}{REMOVED}")
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

    def receive(
        self, version: str, missing: Mapping[str, int], shared: Sequence[Blob] = ()
    ) -> Path:
        """The folder to receive a version in, once there is room for it.

        Args:
            version: Its name.
            missing: Sizes of the files that will be written there, by name.
            shared: Blobs that some version has; they are written too where files have one name.

        Raises:
            OutputFailure: there is not enough room; nothing was written.
        """
        folder = self.root / INCOMING / version
        source = next(filter(None, map(self.find_blob, shared)), None)
        with writing(self.root):
            if source is not None and not links_work(source, self.root / INCOMING):
                missing = {**missing, **{blob.name: blob.size for blob in shared}}
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

    def share(self, blob: Blob, target: Path) -> int | None:
        """Have a blob that some version has appear in another.

        Returns:
            How many bytes that wrote; None if no version has it unchanged.
        """
        source = self._right(blob)
        if source is None:
            return None
        with writing(target):
            if durable.size(target) is not None:
                durable.unlink(target)
            return link_or_copy(source, target)

    def _right(self, blob: Blob) -> Path | None:
        """A file of exactly these bytes in some version; None for none."""
        return next((path for path in self._places(blob) if holds(path, blob)), None)

    def admit(self, folder: Path) -> None:
        """Make what was received a version, once it is found to be what its manifest says.

        A version of that name that is there is damaged: it gets the files.

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
            if self.folder(folder.name).is_dir():
                self._mend(folder, image)
            else:
                durable.rename(folder, self.folder(folder.name))
                durable.sync_folder(self.root / VERSIONS)
            durable.sync_folder(self.root / INCOMING)

    def _mend(self, folder: Path, image: Image) -> None:
        """Give a version the files of what was received; its signature is another matter."""
        version = self.folder(folder.name)
        durable.make_folder_synced(version / names.BLOBS)
        for name in sorted(set(DirectoryLayout(folder).files) - {names.SIGNATURE_NAME}):
            elsewhere = [self.folder(each) / name for each in self._names()]
            exchange(folder / name, version / name, elsewhere)
        durable.sync_tree(version)
        self._tidy(version, image)
        remove(folder)

    def _names(self) -> list[str]:
        place = self.root / VERSIONS
        with reading(place):
            return sorted(path.name for path in place.iterdir()) if place.is_dir() else []

    def _tidy(self, folder: Path, image: Image) -> None:
        """Remove what earlier, interrupted attempts left beside a bundle's own files."""
        with writing(folder):
            for name in sorted(set(DirectoryLayout(folder).files) - expected_files(image)):
                durable.unlink(folder / name)

    def _bring(self, layout: Layout, blob: Blob, folder: Path, advance: Advance) -> int:
        """Have a blob appear in a folder; how many bytes that wrote."""
        target = folder / blob.name
        if durable.size(target) == blob.size:
            return 0  # complete, or it would not have its name; read again before it is admitted
        written = self.share(blob, target)
        if written is not None:
            return written
        with writing(target):
            write_whole(target, hashed(layout, blob, advance))
        return blob.size

    def renew_signature(self, version: str, data: bytes) -> None:
        """Take over the signature of a bundle that is there, where it has another or none.

        Where nobody's keys are known here, one that is there stays: it may be the better one.

        Raises:
            Untrusted: nobody this machine trusts signed that.
        """
        folder, keys = self.folder(version), trusted_keys()
        target = folder / names.SIGNATURE_NAME
        with writing(target):
            if target.exists() and target.read_bytes() == data:
                return
            if keys is not None:
                check_data_signed(data, read_image(DirectoryLayout(folder)), keys, str(target))
            elif target.exists():
                progress.note("its signature stays: there is no key here to check another with")
                return
            new = self.root / INCOMING / f"{version}.sig"
            durable.write_synced(new, data)
            durable.rename(new, target)
            durable.sync_folder(folder)

    def _remove_remains(self) -> None:
        """Remove the rest of versions whose removal was interrupted."""
        for path in sorted((self.root / INCOMING).glob(f"*{REMOVED}")):
            remove(path)


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


def _digest_of(folder: Path) -> str:
    """Of a bundle, in hex, once every byte of it is found right."""
    return str(verify_bundle(folder).contents.digest)
