"""Files, folders and links that are put somewhere: what, with which rights and whose."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgeslm.errors import InvalidOption, Unsupported, reading
from edgeslm.files import sha256

_MOST_NAME_BYTES = 255


def _is_plain(text: str) -> bool:
    """Whether it is text, on one line: programs that fill images take a command from each."""
    return not any(
        ord(sign) < 0x20 or sign == "\x7f" or "\ud800" <= sign <= "\udfff" for sign in text
    )


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str

    def __post_init__(self) -> None:
        if not self.target or not _is_plain(self.target):
            raise InvalidOption(
                f"not where a link on a device can lead: {self.target!r}", hint="Remove the link."
            )


@dataclass(frozen=True)
class Entry:
    """One of them.

    Attributes:
        path: Relative to the root of the system, with "/" between folders.
        content: Bytes, the file that has them, where a link leads; None for a folder.
        mode: Permission bits.
        uid, gid: Whose it is.
    """

    path: str
    content: bytes | Path | Link | None
    mode: int = 0o644
    uid: int = 0
    gid: int = 0

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        fine = parts and "/".join(parts) == self.path and ".." not in parts
        if not fine or not _is_plain(self.path) or set(self.path) & set('"\\'):
            raise InvalidOption(f"not a path for a device: {self.path!r}", hint="Rename the file.")
        if any(len(part.encode()) > _MOST_NAME_BYTES for part in parts):
            raise InvalidOption(f"too long a name for a device: {self.path}", hint="Rename it.")

    @property
    def size(self) -> int:
        """Bytes of a file; 0 for folders and links."""
        if isinstance(self.content, bytes):
            return len(self.content)
        return self.content.stat().st_size if isinstance(self.content, Path) else 0

    @property
    def is_file(self) -> bool:
        """Whether it is neither a folder nor a link."""
        return isinstance(self.content, (bytes, Path))

    def sha256(self) -> str:
        """Of a file's bytes, in hex."""
        if isinstance(self.content, bytes):
            return hashlib.sha256(self.content).hexdigest()
        if not isinstance(self.content, Path):
            raise ValueError(f"{self.path} is no file")
        return sha256(self.content)


@dataclass(frozen=True)
class Tree:
    """Entries in an order in which each folder comes before what is in it."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Tree:
        """Sorted, and with the folders that nobody named.

        Raises:
            InvalidOption: two entries have one path, or a file is taken for a folder.
        """
        named: dict[str, Entry] = {}
        for entry in entries:
            if entry.path in named and entry != named[entry.path]:
                raise InvalidOption(f"twice on the device: {entry.path}", hint="Rename one.")
            named[entry.path] = entry
        for path in list(named):
            for folder in map(str, PurePosixPath(path).parents):
                if folder != ".":
                    above = named.setdefault(folder, Entry(folder, None, 0o755))
                    if above.content is not None:
                        raise InvalidOption(
                            f"both a file and a folder on the device: {folder}", hint="Rename one."
                        )
        return cls(tuple(named[path] for path in sorted(named, key=lambda path: path.split("/"))))

    def __add__(self, other: Tree) -> Tree:
        return Tree.of([*self.entries, *other.entries])

    @property
    def files(self) -> tuple[Entry, ...]:
        """Those with content."""
        return tuple(entry for entry in self.entries if entry.is_file)

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(entry.size for entry in self.entries)


def tree_of(folder: Path, place: str) -> Tree:
    """What lies in a folder of this machine, all of it root's, under `place`.

    Programs stay programs; nobody but root may write.

    Raises:
        EdgeslmError: it cannot be read, or holds what is neither file, folder nor link.
    """
    entries = [Entry(place, None, 0o755)] if place else []
    return Tree.of([*entries, *_scan(folder, place)])


def _scan(folder: Path, place: str) -> Iterator[Entry]:
    with reading(folder):
        found = sorted(os.scandir(folder), key=lambda item: item.name)
    for item in found:
        path, here = f"{place}/{item.name}".lstrip("/"), Path(item.path)
        mode = here.lstat().st_mode
        if stat.S_ISLNK(mode):
            yield Entry(path, Link(str(here.readlink())), 0o777)
        elif stat.S_ISDIR(mode):
            yield Entry(path, None, 0o755)
            yield from _scan(here, path)
        elif stat.S_ISREG(mode):
            yield Entry(path, here, 0o755 if mode & 0o100 else 0o644)
        else:
            raise Unsupported(f"{here}: neither a file, a folder nor a link", hint="Remove it.")
