"""What the store does to a disk, one operation at a time, so that its order can be watched.

After a power cut a disk holds what was synced: a file's bytes once the file was, a name once the
folder was that holds it. All else may be there, be there in part, or not. Each function does one
thing and syncs nothing by itself, unless its name says so. `observed` shows every operation before
it is done; the tests end the process there, or lose what was not synced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from edgeslm import files

if TYPE_CHECKING:
    from typing_extensions import Self


class Kind(Enum):
    """What is done."""

    CREATE = "create"
    WRITE = "write"
    TRUNCATE = "truncate"
    SYNC = "sync"
    RENAME = "rename"
    LINK = "link"
    UNLINK = "unlink"
    MAKE_FOLDER = "make folder"
    REMOVE_FOLDER = "remove folder"
    SYNC_FOLDER = "sync folder"


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        kind: What is done.
        path: To what.
        target: The new name, of a rename or a link.
        offset: Where bytes are written, or a file is cut off.
        data: The bytes.
    """

    kind: Kind
    path: Path
    target: Path | None = None
    offset: int = 0
    data: bytes = b""


Observer = Callable[[Operation], None]
_observers: list[Observer] = []


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Tell `observer` of each operation, before it is done, while the block runs."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def _tell(kind: Kind, path: Path, target: Path | None = None) -> None:
    for observer in _observers:
        observer(Operation(kind, path, target))


class Output:
    """A file that is written from some place on; a new one if there is none.

    Args:
        path: The file.
        keep: How many bytes of what is there stay.
    """

    def __init__(self, path: Path, *, keep: int = 0) -> None:
        self.path = path
        self._offset = keep
        if not path.exists():
            _tell(Kind.CREATE, path)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if os.fstat(self._descriptor).st_size > keep:
            for observer in _observers:
                observer(Operation(Kind.TRUNCATE, path, offset=keep))
            os.ftruncate(self._descriptor, keep)
        os.lseek(self._descriptor, keep, os.SEEK_SET)

    def write(self, data: bytes) -> None:
        """Write all of it."""
        for observer in _observers:
            observer(Operation(Kind.WRITE, self.path, offset=self._offset, data=bytes(data)))
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self._offset += len(data)

    def sync(self) -> None:
        """Have the disk hold the bytes that were written."""
        _tell(Kind.SYNC, self.path)
        os.fsync(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)


def write_synced(path: Path, data: bytes) -> None:
    """A file of these bytes, which the disk holds; its name is the folder's matter."""
    with Output(path) as output:
        output.write(data)
        output.sync()


def replace_synced(path: Path, data: bytes) -> None:
    """Have `path` hold these bytes; after a power cut it holds them, or what it held before."""
    new = path.with_name(f"{path.name}.new")
    write_synced(new, data)
    rename(new, path)
    sync_folder(path.parent)


def rename(path: Path, target: Path) -> None:
    """Give a file or a folder another name; a file that has it is replaced."""
    _tell(Kind.RENAME, path, target)
    path.rename(target)


def link(path: Path, target: Path) -> None:
    """Give a file one more name."""
    _tell(Kind.LINK, path, target)
    os.link(path, target)


def unlink(path: Path) -> None:
    """Take a file's name away."""
    _tell(Kind.UNLINK, path)
    path.unlink()


def size(path: Path) -> int | None:
    """Bytes of a file, or of a link itself; None where there is none."""
    try:
        return path.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return None


def make_folder(path: Path) -> None:
    """Make a folder, and those above it; those that are there stay."""
    if path.is_dir():
        return
    make_folder(path.parent)
    _tell(Kind.MAKE_FOLDER, path)
    path.mkdir(exist_ok=True)


def make_folder_synced(path: Path) -> None:
    """The same, and the disk holds their names."""
    if path.is_dir():
        return
    make_folder_synced(path.parent)
    make_folder(path)
    sync_folder(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a folder and all that is in it; links are removed, not followed."""
    with os.scandir(path) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(path / entry.name)
        else:
            unlink(path / entry.name)
    _tell(Kind.REMOVE_FOLDER, path)
    path.rmdir()


def sync_folder(path: Path) -> None:
    """Have the disk hold which names a folder holds."""
    _tell(Kind.SYNC_FOLDER, path)
    files.sync(path)


def sync_tree(path: Path) -> None:
    """The same for a folder and those below it, these first."""
    with os.scandir(path) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    for name in folders:
        sync_tree(path / name)
    sync_folder(path)
