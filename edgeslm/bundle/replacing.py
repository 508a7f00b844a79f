"""A directory is exchanged for another when that is complete, and only if nothing is lost."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeslm.bundle import directory as earlier
from edgeslm.bundle import durable
from edgeslm.bundle.layout import (
    DirectoryLayout,
    expected_files,
    is_layout,
    open_layout,
    read_image,
)
from edgeslm.errors import InvalidBundle, OutputFailure, writing
from edgeslm.files import scratch_folder

_HINT = "Choose another place, or remove it yourself first."


def ensure_replaceable(directory: Path) -> None:
    """Return if nothing would be lost: no, or an empty, directory, or a bundle and nothing else.

    Raises:
        OutputFailure: something else is there; the message names it.
    """
    with writing(directory):
        if not directory.exists():
            return
        if not directory.is_dir():
            raise OutputFailure(f"cannot write {directory}: it is a file", hint=_HINT)
        found = {path.name for path in directory.iterdir()}
    if not found:
        return
    try:
        if is_layout(directory):
            layout = DirectoryLayout(directory)
            extra = set(layout.files) - expected_files(read_image(layout))
        else:
            extra = found - earlier.expected_files(earlier.read_manifest(directory))
    except InvalidBundle as error:
        raise OutputFailure(
            f"cannot write {directory}: it is there and no bundle", hint=_HINT
        ) from error
    if extra:
        raise OutputFailure(f"cannot write {directory}: it also holds {min(extra)}", hint=_HINT)


def ensure_replaceable_tar(tar: Path) -> None:
    """Return if nothing would be lost: no, or an empty, file, or a bundle.

    Raises:
        OutputFailure: something else is there.
    """
    with writing(tar):
        if not tar.exists() or not tar.stat().st_size:
            return
    try:
        read_image(open_layout(tar))
    except InvalidBundle as error:
        raise OutputFailure(f"cannot write {tar}: it is there and no bundle", hint=_HINT) from error


@contextmanager
def replaced(directory: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `directory` when the block succeeds.

    After a power cut one of both is there whole, if the block had the disk hold the files' bytes.

    Raises:
        OutputFailure: it cannot be written, or something else than a bundle is there.
    """
    with writing(directory):
        target = directory.resolve()
        _settle(target)
        ensure_replaceable(directory)
    with scratch_folder(target, mode=0o777) as folder:  # it becomes the directory
        yield folder
        with writing(directory):
            durable.sync_tree(folder)
            _swap(folder, target)


def _old(target: Path) -> Path:
    """Where a directory waits until its successor is in its place."""
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
    return target.with_name(f".edgeslm-{name}.old")


def _settle(target: Path) -> None:
    """Take back, or complete, an exchange during which the process was killed."""
    old = _old(target)
    if not old.exists():
        return
    if target.exists():
        _drop(old)
    else:
        old.rename(target)


def _swap(folder: Path, target: Path) -> None:
    """Put `folder` in the place of `target`, which goes only once its successor is there."""
    if not target.exists():
        folder.rename(target)
        durable.sync_folder(target.parent)
        return
    old = _old(target)
    target.rename(old)
    try:
        folder.rename(target)
    except BaseException:
        old.rename(target)
        raise
    _drop(old)


def _drop(old: Path) -> None:
    """Remove what has a successor, once the disk holds that one's name."""
    durable.sync_folder(old.parent)
    shutil.rmtree(old, ignore_errors=True)
