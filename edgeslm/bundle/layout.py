"""The files of a bundle, whether they lie in a directory or in one tar."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from edgeslm.bundle import names
from edgeslm.bundle.image import (
    Blob,
    Image,
    check_layout,
    read_index,
    read_manifest,
)
from edgeslm.bundle.tar import TarFile, looks_like_tar, read_tar
from edgeslm.errors import InvalidBundle, NotFound, UserError, reading, writing
from edgeslm.gguf.reader import MAX_HEADER_BYTES, Header
from edgeslm.gguf.validation import read_model
from edgeslm.progress import Advance

_PIECE_BYTES = 1 << 20
_FIRST_BYTES = 4 << 20
"""Most headers end before; one of 262,144 tokens takes 12 MiB."""
_MOST_FILES = 3 * names.MOST_LAYERS


class Layout(Protocol):
    """Files by their names, which are relative and have "/" between folders."""

    @property
    def path(self) -> Path:
        """The directory or the tar."""
        ...

    @property
    def shown(self) -> Path:
        """What it is called in messages."""
        ...

    @property
    def files(self) -> Mapping[str, int | None]:
        """The size of each; None for what is no regular file."""
        ...

    def pieces(self, name: str) -> Iterator[bytes]:
        """The bytes of a file that is there, piece by piece."""
        ...


class DirectoryLayout:
    """Files in a directory; links are not followed."""

    def __init__(self, path: Path, *, shown: Path | None = None) -> None:
        self.path = path
        self.shown = shown or path
        self.files = dict(_scan(path, ""))

    def pieces(self, name: str) -> Iterator[bytes]:
        """The bytes of a file that is there, piece by piece."""
        path = self.path / name
        with reading(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            with open(descriptor, "rb") as stream:  # noqa: PTH123  a descriptor has no path
                while piece := stream.read(_PIECE_BYTES):
                    yield piece


class TarLayout:
    """Files in a tar."""

    def __init__(self, path: Path) -> None:
        self.path = self.shown = path
        self._entries: dict[str, TarFile] = read_tar(path)
        self.files = {entry.name: entry.size for entry in self._entries.values()}

    def pieces(self, name: str) -> Iterator[bytes]:
        """The bytes of a file that is there, piece by piece."""
        entry = self._entries[name]
        with reading(self.path), self.path.open("rb") as stream:
            stream.seek(entry.offset)
            left = entry.size
            while left and (piece := stream.read(min(_PIECE_BYTES, left))):
                left -= len(piece)
                yield piece


def is_layout(path: Path) -> bool:
    """Whether a directory is meant to be a bundle."""
    with reading(path):
        return any((path / name).exists() for name in (names.LAYOUT_NAME, names.INDEX_NAME))


def open_layout(path: Path) -> Layout:
    """The files of a bundle.

    Raises:
        NotFound: nothing is there.
        InvalidBundle: it is no bundle.
    """
    with reading(path):
        if path.is_dir():
            return DirectoryLayout(path)
        if not path.exists():
            raise NotFound(f"{path}: no such file or directory", hint="Check the path.")
        if not path.is_file():
            raise InvalidBundle(f"{path}: neither a directory nor a tar", hint=_MAKE)
    if not looks_like_tar(path):
        raise InvalidBundle(f"{path}: not a bundle: neither a directory nor a tar", hint=_MAKE)
    return TarLayout(path)


_MAKE = "Make one: edgeslm pack MODEL -o DIRECTORY."


def read_image(layout: Layout) -> Image:
    """What a bundle's manifest says, its hash checked; the files it names are not looked at.

    Raises:
        InvalidBundle: something that leads to the manifest is missing, malformed or changed.
    """
    where = f"{layout.shown}/"
    if names.LAYOUT_NAME not in layout.files:
        raise InvalidBundle(f"{layout.shown}: not a bundle: no {names.LAYOUT_NAME}", hint=_MAKE)
    check_layout(read_small(layout, names.LAYOUT_NAME), where + names.LAYOUT_NAME)
    blob = read_index(read_small(layout, names.INDEX_NAME), where + names.INDEX_NAME)
    return read_manifest(read_blob(layout, blob), blob, f"{where}{blob.name}")


def read_small(layout: Layout, name: str) -> bytes:
    """The bytes of a small file.

    Raises:
        InvalidBundle: it is missing, no regular file, or not small.
    """
    size = layout.files.get(name)
    if size is None:
        raise InvalidBundle(
            f"{layout.shown}: {name} is missing, or not a regular file", hint=names.DAMAGED
        )
    if size > names.MOST_JSON_BYTES:
        raise InvalidBundle(
            f"{layout.shown}: {name} is too large: {size} bytes", hint=names.DAMAGED
        )
    return b"".join(layout.pieces(name))


def read_blob(layout: Layout, blob: Blob) -> bytes:
    """The bytes of a small blob, once its size and hash are found right.

    Raises:
        InvalidBundle: they are not.
    """
    check_size(layout, blob)
    data = read_small(layout, blob.name)
    if hashlib.sha256(data).hexdigest() != blob.sha256:
        raise InvalidBundle(
            f"{layout.shown}/{blob.name}: changed: its hash is another", hint=names.DAMAGED
        )
    return data


def check_size(layout: Layout, blob: Blob) -> None:
    """Return if a blob is there and as large as it should be.

    Raises:
        InvalidBundle: it is not.
    """
    size = layout.files.get(blob.name)
    if size is None:
        raise InvalidBundle(
            f"{layout.shown}: {blob.name} is missing, or not a regular file", hint=names.DAMAGED
        )
    if size != blob.size:
        raise InvalidBundle(
            f"{layout.shown}/{blob.name}: {size} bytes, the manifest says {blob.size}",
            hint=names.DAMAGED,
        )


def check_files(layout: Layout, image: Image) -> None:
    """Return if all that the manifest names is there in its size, and nothing else.

    Raises:
        InvalidBundle: a file is missing, extra, too short or too long; the message names it.
    """
    for blob in image.blobs.values():
        check_size(layout, blob)
    for name in sorted(set(layout.files) - expected_files(image)):
        raise InvalidBundle(
            f"{layout.shown}: {name} is not in the manifest", hint="Remove it, or pack again."
        )
    if layout.files.get(names.SIGNATURE_NAME, 0) is None:
        raise InvalidBundle(
            f"{layout.shown}: {names.SIGNATURE_NAME} is not a regular file", hint=names.DAMAGED
        )


def expected_files(image: Image) -> set[str]:
    """All that may lie in a bundle; the signature need not."""
    return {names.LAYOUT_NAME, names.INDEX_NAME, names.SIGNATURE_NAME, *image.blobs}


def hashed(layout: Layout, blob: Blob, advance: Advance) -> Iterator[bytes]:
    """The bytes of a blob; at its end they are known to be the right ones.

    Raises:
        InvalidBundle: they were not.
    """
    digest = hashlib.sha256()
    for piece in layout.pieces(blob.name):
        digest.update(piece)
        advance(len(piece))
        yield piece
    if digest.hexdigest() != blob.sha256:
        raise InvalidBundle(
            f"{layout.shown}/{blob.name}: changed: its hash is another", hint=names.DAMAGED
        )


def read_model_header(layout: Layout, image: Image) -> Header:
    """The header of the model in a bundle, found sound.

    Raises:
        UserError: it is no model that llama.cpp can run.
    """
    blob = image.model.blob
    if isinstance(layout, DirectoryLayout):
        return read_model(layout.path / blob.name)
    count = _FIRST_BYTES
    while True:
        whole = count >= min(blob.size, MAX_HEADER_BYTES)
        with _sparse(layout, blob, count) as path:
            try:
                header = read_model(path)
            except UserError:
                if whole:
                    raise
            else:  # nothing of it was read from the hole
                if whole or header.data_offset <= count:
                    return header
        count *= 4


@contextmanager
def _sparse(layout: Layout, blob: Blob, count: int) -> Iterator[Path]:
    """A file whose first `count` bytes are a blob's; a hole makes it as long."""
    with ExitStack() as stack:
        with writing(Path("a temporary file")):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            path = Path(folder) / names.MODEL_NAME
            with path.open("wb") as stream:
                for piece in layout.pieces(blob.name):
                    stream.write(piece[: count - stream.tell()])
                    if stream.tell() >= count:
                        break
                stream.truncate(blob.size)
        yield path


def _scan(path: Path, folder: str) -> Iterator[tuple[str, int | None]]:
    """Name and size of every file below a directory, two folders deep; links have no size."""
    with reading(path), os.scandir(path / folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
        if len(found) > _MOST_FILES:
            raise InvalidBundle(f"{path}: more than {_MOST_FILES} files", hint=names.DAMAGED)
        for entry in found:
            name = f"{folder}{entry.name}"
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) and name in ("blobs", names.BLOBS):
                yield from _scan(path, f"{name}/")
            else:
                yield name, status.st_size if stat.S_ISREG(status.st_mode) else None
