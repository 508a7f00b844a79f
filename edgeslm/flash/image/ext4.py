"""An ext4 file system in a region of an image: checked, grown, filled and read, without a mount.

debugfs, e2fsck and resize2fs of e2fsprogs take "FILE?offset=BYTES" for it. They work in the
image's folder, so that nothing in the folder's own name can be mistaken for that.
"""

from __future__ import annotations

import hashlib
import re
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgeslm.errors import Failure, InvalidImage
from edgeslm.flash import programs
from edgeslm.flash.tree import Entry, Link, Tree
from edgeslm.progress import Advance

PROGRAMS = ("debugfs", "e2fsck", "resize2fs")
_MAGIC, _SUPERBLOCK = 0xEF53, 1024
_PIECE_BYTES = 1 << 20
_SHORT_BYTES = 60
_KINDS = {"directory": 0o040000, "regular": 0o100000, "symlink": 0o120000}
_STAT = re.compile(
    r"Type: (\S+)\s+Mode:\s+([0-7]+).*?User:\s*(\d+)\s+Group:\s*(\d+).*?Size: (\d+)", re.DOTALL
)
_LINK = re.compile(r'^Fast link dest: "(.*)"$', re.MULTILINE)


@dataclass(frozen=True)
class Superblock:
    """What a file system says of itself."""

    block_bytes: int
    blocks: int
    free_blocks: int
    free_inodes: int

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.blocks * self.block_bytes


@dataclass(frozen=True)
class Found:
    """What stands at a path: its kind, rights, owner, size, and where a short link leads."""

    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    link: str | None = None


def parse_superblock(data: bytes) -> Superblock | None:
    """The superblock at the start of a file system's bytes; None where there is none. Pure.

    Source: the kernel's fs/ext4/ext4.h, struct ext4_super_block.
    """
    block = data[_SUPERBLOCK : _SUPERBLOCK + 1024]
    if len(block) < 1024 or struct.unpack_from("<H", block, 56)[0] != _MAGIC:
        return None
    inodes_free, blocks, free, shift = (
        struct.unpack_from("<I", block, at)[0] for at in (16, 4, 12, 24)
    )
    if shift > 6:
        return None
    if struct.unpack_from("<I", block, 96)[0] & 0x80:  # 64 bits
        blocks |= struct.unpack_from("<I", block, 0x150)[0] << 32
        free |= struct.unpack_from("<I", block, 0x158)[0] << 32
    return Superblock(1024 << shift, blocks, free, inodes_free)


class Ext4:
    """The file system at `offset` bytes into an image; without one, the file is nothing else."""

    def __init__(self, image: Path, offset: int = 0) -> None:
        self._image, self._offset = image, offset
        self._name = f"{image.name}?offset={offset}"

    def superblock(self) -> Superblock:
        """Sizes and what is free.

        Raises:
            InvalidImage: there is no ext4 file system.
        """
        with self._image.open("rb") as file:
            file.seek(self._offset)
            found = parse_superblock(file.read(_SUPERBLOCK + 1024))
        if found is None:
            raise InvalidImage(
                "the last partition of the image holds no ext4 file system",
                hint="Use an image such as that of Raspberry Pi OS, with its root last.",
            )
        return found

    def repair(self) -> None:
        """Check all of it, and mend what can be mended without asking.

        Raises:
            InvalidImage: it is damaged.
        """
        self._check("-fp", (0, 1))

    def check(self) -> None:
        """Check all of it and change nothing.

        Raises:
            InvalidImage: it is damaged.
        """
        self._check("-fn", (0,))

    def _check(self, how: str, fine: Iterable[int]) -> None:
        try:
            self._run(["e2fsck", how, self._name], fine=fine)
        except Failure as error:
            raise InvalidImage(
                f"the root file system of the image is damaged: {error.message}", hint=_AGAIN
            ) from error

    def resize(self, size: int) -> None:
        """Grow it to `size` bytes; it was checked and not changed since.

        Only where the file is nothing else: resize2fs cuts a file off where the file system would
        end if it began at the file's beginning.
        """
        if self._offset:
            raise ValueError("resize2fs would cut the image off")
        self._run(["resize2fs", self._image.name, f"{size // 1024}K"])

    def find(self, paths: Sequence[str]) -> dict[str, Found]:
        """What stands at paths; those where nothing is are missing in the answer."""
        commands = [f'stat "/{path}"' for path in paths]
        text = self._debugfs(commands, may_miss=True).decode("utf-8", "replace")
        found = {}
        for path, command in zip(paths, commands, strict=True):
            _, _, text = text.partition(f"debugfs: {command}\n")
            said = text.partition("debugfs: stat ")[0]
            match, link = _STAT.search(said), _LINK.search(said)
            if match is not None:
                uid, gid, size = map(int, match.group(3, 4, 5))
                target = link[1] if link else None
                found[path] = Found(match[1], int(match[2], 8), uid, gid, size, target)
        return found

    def read(self, path: str) -> bytes | None:
        """The bytes of a small file; None where there is no such file. Links are not followed."""
        found = self.find([path]).get(path)
        if found is None or found.kind != "regular":
            return None
        taken: list[bytes] = []
        self._cat([(path, found.size)], lambda _, piece: taken.append(piece))
        return b"".join(taken)

    def add(self, tree: Tree) -> None:
        """Put all of a tree there; what stands there already is replaced, but folders stay.

        Raises:
            InvalidImage: a folder stands where a file should be, or the other way round.
            Failure: it could not be written.
        """
        there = self.find([entry.path for entry in tree.entries])
        with tempfile.TemporaryDirectory() as folder:
            commands = []
            for number, entry in enumerate(tree.entries):
                commands += _commands(entry, there.get(entry.path), Path(folder) / str(number))
            self._debugfs(commands, write=True)

    def verify(self, tree: Tree, advance: Advance) -> int:
        """Read all of a tree back and compare it: rights, owners, links, every byte.

        Folders that had been there may have other rights.

        Returns:
            How many bytes of files were compared.

        Raises:
            Failure: something is not as it was written.
        """
        there = self.find([entry.path for entry in tree.entries])
        for entry in tree.entries:
            _compare(entry, there.get(entry.path))
        self._compare_links(tree)
        digests = {entry.path: hashlib.sha256() for entry in tree.files}

        def take(path: str, piece: bytes) -> None:
            digests[path].update(piece)
            advance(len(piece))

        self._cat([(entry.path, entry.size) for entry in tree.files], take)
        for entry in tree.files:
            if digests[entry.path].hexdigest() != entry.sha256():
                raise Failure(f"/{entry.path} reads back differently", hint=_DISK)
        return sum(entry.size for entry in tree.files)

    def _compare_links(self, tree: Tree) -> None:
        """Those that lie in blocks of their own, as files do."""
        targets = {
            entry.path: entry.content.target.encode()
            for entry in tree.entries
            if isinstance(entry.content, Link) and _is_long(entry.content)
        }
        found = dict.fromkeys(targets, b"")

        def take(path: str, piece: bytes) -> None:
            found[path] += piece

        self._cat([(path, len(target)) for path, target in targets.items()], take)
        for path, target in targets.items():
            if found[path] != target:
                raise Failure(f"/{path} reads back differently", hint=_DISK)

    def _cat(self, files: Sequence[tuple[str, int]], take: Callable[[str, bytes], None]) -> None:
        """The bytes of several files, each of a known size, in one run of debugfs."""
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as script:
            script.write("".join(f'cat "/{path}"\n' for path, _ in files))
            script.flush()
            command = [programs.find("debugfs"), "-f", script.name, self._name]
            with subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self._image.parent,
                env=programs.environment(),
            ) as process:
                assert process.stdout is not None  # noqa: S101  it is a pipe
                try:
                    for path, size in files:
                        _take(process.stdout, path, size, take)
                finally:
                    process.kill()

    def _debugfs(
        self, commands: Sequence[str], *, write: bool = False, may_miss: bool = False
    ) -> bytes:
        """What debugfs printed; its exit code says nothing, so whatever it complains of counts."""
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as script:
            script.write("".join(f"{command}\n" for command in commands))
            script.flush()
            how = ["-w"] if write else []
            out, err = self._run(["debugfs", *how, "-f", script.name, self._name])
        said = err.decode("utf-8", "replace").splitlines()
        wrong = [line for line in said if not re.match(r"debugfs \d", line)]
        if may_miss:
            wrong = [line for line in wrong if "File not found" not in line]
        if wrong:
            raise Failure(f"debugfs: {wrong[0]}", hint="The image may be damaged or full.")
        return out

    def _run(self, command: Sequence[str], fine: Iterable[int] = (0,)) -> tuple[bytes, bytes]:
        return programs.run(command, folder=self._image.parent, fine=fine)


_AGAIN = "Fetch or make the image again."
_DISK = "The disk that the image lies on may be failing; try another one."


def _commands(entry: Entry, there: Found | None, spare: Path) -> list[str]:
    """What debugfs is told for one entry; what it reads is `spare`."""
    path = f'"/{entry.path}"'
    if there is not None and (there.kind == "directory") != (entry.content is None):
        raise InvalidImage(f"/{entry.path} of the image is in the way", hint="Use another image.")
    if entry.content is None:
        return [] if there is not None else [f"mkdir {path}", *_rights(entry, "directory")]
    remove = [f"rm {path}"] if there is not None else []
    if isinstance(entry.content, Link):
        target = entry.content.target.replace('"', '""')
        return [*remove, f'symlink {path} "{target}"', *_rights(entry, "symlink")]
    if isinstance(entry.content, bytes):
        spare.write_bytes(entry.content)
    else:  # whatever its name is made of
        spare.symlink_to(entry.content.resolve())
    folder, _, name = f"/{entry.path}".rpartition("/")
    quoted = str(spare).replace('"', '""')
    return [
        *remove,
        f'cd "{folder or "/"}"',
        f'write "{quoted}" "{name}"',
        *_rights(entry, "regular"),
    ]


def _rights(entry: Entry, kind: str) -> list[str]:
    path, mode = f'"/{entry.path}"', _KINDS[kind] | entry.mode
    return [
        f"sif {path} mode 0{mode:o}",
        f"sif {path} uid {entry.uid}",
        f"sif {path} gid {entry.gid}",
    ]


def _compare(entry: Entry, there: Found | None) -> None:
    """Raise if what stands there is not the entry, as far as that can be seen from outside."""
    kind = (
        "symlink"
        if isinstance(entry.content, Link)
        else "regular"
        if entry.is_file
        else "directory"
    )
    if there is None or there.kind != kind:
        raise Failure(f"/{entry.path} is not there after it was written", hint=_DISK)
    if kind == "directory":
        return
    target = entry.content.target if isinstance(entry.content, Link) else None
    size = entry.size if target is None else len(target.encode())
    as_told = (there.mode, there.uid, there.gid, there.size) == (
        entry.mode,
        entry.uid,
        entry.gid,
        size,
    )
    short = isinstance(entry.content, Link) and not _is_long(entry.content)
    if not as_told or (short and there.link != target):
        raise Failure(f"/{entry.path} reads back differently", hint=_DISK)


def _is_long(link: Link) -> bool:
    """Whether its target does not fit into the inode (EXT4_N_BLOCKS * 4 bytes, with its end)."""
    return len(link.target.encode()) >= _SHORT_BYTES


def _take(stream: IO[bytes], path: str, size: int, take: Callable[[str, bytes], None]) -> None:
    if stream.readline() != f'debugfs: cat "/{path}"\n'.encode():
        raise Failure(f"/{path} cannot be read back", hint=_DISK)
    while size:
        piece = stream.read(min(size, _PIECE_BYTES))
        if not piece:
            raise Failure(f"/{path} cannot be read back", hint=_DISK)
        size -= len(piece)
        take(path, piece)
