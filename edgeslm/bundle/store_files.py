"""What a store does with single files: a second name, a copy, their rightness, their removal."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from edgeslm.bundle import durable
from edgeslm.bundle.image import Blob
from edgeslm.errors import EdgeslmError, Failure, OutputFailure, UserError
from edgeslm.files import keeping_notes, sha256

REMOVED = ".removed"
"""Ends the names of what is being removed, and goes if that was interrupted."""
_PROBED = f"link{REMOVED}"


def holds(path: Path, blob: Blob) -> bool:
    """Whether a file has exactly those bytes; one that the disk no longer gives has not."""
    try:
        return durable.size(path) == blob.size and sha256(path) == blob.sha256
    except (OSError, UserError, Failure):
        return False


def link_or_copy(source: Path, target: Path) -> int:
    """Have a file appear under another name too; what is known of it stays known.

    Returns:
        How many bytes that wrote: none, but on a file system without hard links, or with too many.

    Raises:
        EdgeslmError: it cannot be read.
        OSError: nothing can be written there, or something has that name.
    """
    try:
        with keeping_notes(source):
            durable.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        with source.open("rb") as stream:
            write_whole(target, iter(lambda: stream.read(1 << 20), b""))
        return target.stat().st_size
    return 0


def write_whole(target: Path, pieces: Iterable[bytes]) -> None:
    """A file of these bytes, which has its name only when the disk holds it.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        with durable.Output(part) as output:
            for piece in pieces:
                output.write(piece)
            output.sync()
    except BaseException:
        with suppress(OSError):
            durable.unlink(part)
        raise
    durable.rename(part, target)


def links_work(source: Path, folder: Path) -> bool:
    """Whether a file can have a name in a folder too."""
    probe = folder / _PROBED
    if os.path.lexists(probe):
        durable.unlink(probe)
    try:
        with keeping_notes(source):
            durable.link(source, probe)
            durable.unlink(probe)
    except OSError:
        return False
    return True


def exchange(new: Path, old: Path, elsewhere: Iterable[Path]) -> None:
    """Put a file in the place of one, and in all places where that one has names too.

    Raises:
        OSError: it cannot be written.
    """
    if not old.exists():
        durable.rename(new, old)
        return
    if old.samefile(new):
        return
    spare = new.with_name(f"{new.name}.again")
    same = [path for path in elsewhere if path != old and path.exists() and path.samefile(old)]
    for path in (*same, old):
        if os.path.lexists(spare):
            durable.unlink(spare)
        link_or_copy(new, spare)
        durable.rename(spare, path)
        durable.sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file, or a folder and all that is in it.

    What is known of files that have names elsewhere stays known.
    """
    if path.is_symlink() or not path.is_dir():
        durable.unlink(path)
        return
    for each in sorted(path.rglob("*")):
        if each.is_file() and not each.is_symlink() and each.stat().st_nlink > 1:
            with ExitStack() as stack:
                with suppress(EdgeslmError):  # somebody else's, who may keep it from being read
                    stack.enter_context(keeping_notes(each))
                durable.unlink(each)
    durable.remove_tree(path)


def own_bytes(paths: Iterable[Path]) -> int:
    """Of the files below some paths that have no names elsewhere."""
    names: Counter[tuple[int, int]] = Counter()
    owned = 0
    for path in paths:
        for each in path.rglob("*") if path.is_dir() else (path,):
            if each.is_symlink() or not each.is_file():
                continue
            status = each.stat()
            file = (status.st_dev, status.st_ino)
            names[file] += 1
            owned += status.st_size if names[file] == status.st_nlink else 0
    return owned


@contextmanager
def telling_of_room() -> Iterator[None]:
    """Where the disk is full while the block runs, have the error say what to do in a store."""
    try:
        yield
    except OutputFailure as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Make room; old versions, and what was received so far: edgeslm store collect"
            raise OutputFailure(error.message, hint=hint) from cause
        raise
