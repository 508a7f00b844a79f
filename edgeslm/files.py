"""Files that are either complete or not there at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeslm.errors import OutputFailure, reading, writing

_PIECE_BYTES = 1 << 20


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path` that becomes `path` when the block succeeds.

    Until then whatever stood at `path` stays as it was; if the block raises, or is
    interrupted, the temporary file is removed. The block translates its own `OSError`s.

    Raises:
        OutputFailure: `path` cannot be written, known before the block starts.
    """
    with writing(path):
        target = _resolved(path)
        _check_target(path, target)
        temporary = target.with_name(f".edgeslm-{secrets.token_hex(8)}.tmp")
        temporary.touch(exist_ok=False)
    try:
        yield temporary
        with writing(path):
            _sync(temporary)
            temporary.replace(target)
            _sync(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except RuntimeError as error:  # before Python 3.13 a loop of links is no OSError
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error


def _check_target(path: Path, target: Path) -> None:
    if target.is_dir():
        raise OutputFailure(
            f"cannot write {path}: it is a directory", hint="Name a file inside it."
        )
    if target.exists() and not target.is_file():
        raise OutputFailure(
            f"cannot write {path}: it is not a regular file", hint="Name an ordinary file."
        )
    if not target.parent.is_dir():
        raise OutputFailure(
            f"cannot write {path}: there is no folder {path.parent}",
            hint=f"Create it first: mkdir -p {path.parent}",
        )


def _sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or which names a folder holds."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Hex digest of a file's content, read in pieces.

    Raises:
        EdgeslmError: it cannot be read.
    """
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def cache_folder(name: str) -> Path | None:
    """Folder for things that can be made again, or None where the user has no home.

    `$EDGESLM_CACHE`, else `$XDG_CACHE_HOME/edgeslm`, else `~/.cache/edgeslm`; not created here.
    """
    for variable, below in (("EDGESLM_CACHE", ""), ("XDG_CACHE_HOME", "edgeslm")):
        if os.environ.get(variable):
            return Path(os.environ[variable]) / below / name
    try:
        return Path.home() / ".cache" / "edgeslm" / name
    except RuntimeError:
        return None
