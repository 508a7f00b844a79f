"""Files that are either complete or not there at all; and whole texts."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from edgeslm.errors import EdgeslmError, OutputFailure, UserError, reading, writing
from edgeslm.signals import signals_deferred

_PIECE_BYTES = 1 << 20
_SAMPLES, _SAMPLE_BYTES = 64, 16 << 10
HASHES, LOADABLE = NOTES = "hashes", "loadable"
"""Folders of notes: of a file's hash, and that llama.cpp opens it."""
_PREFIX, _SUFFIX = ".edgeslm-", ".tmp"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path` that becomes `path` when the block succeeds.

    Until then whatever stood at `path` stays as it was; if the block raises, or is
    interrupted, the temporary file is removed. The block translates its own `OSError`s.

    Raises:
        OutputFailure: `path` cannot be written, known before the block starts.
    """
    with closing(_Claim()) as claim:
        with writing(path):
            target = _resolved(path)
            _check_target(path, target)
            temporary = claim.make(target.parent, _empty_file)
        yield temporary
        with writing(path):
            sync(temporary)
            temporary.replace(target)
            sync(target.parent)


def read_text(path: Path) -> str:
    """The whole text of a file.

    Raises:
        EdgeslmError: it cannot be read, or is not UTF-8.
    """
    with reading(path):
        data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not a text in UTF-8 (byte {error.start})",
            hint="Name a plain text file, saved as UTF-8.",
        ) from error


def small_text(path: Path) -> str:
    """A small file of /proc or /sys, without the blanks around it; empty where none can be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def ensure_writable(path: Path) -> None:
    """Return if a file can appear at `path`: to be asked before long work.

    Raises:
        OutputFailure: it cannot.
    """
    with signals_deferred(), closing(_Claim()) as claim, writing(path):
        target = _resolved(path)
        _check_target(path, target)
        claim.make(target.parent, _empty_file)


@contextmanager
def exclusive(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Create `folder` and keep other processes that ask for it waiting while the block runs.

    Args:
        folder: What is to be had alone.
        waiting: Called if another process has it.

    Raises:
        OutputFailure: it cannot be created.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _lock(descriptor) is False:  # None: a disk without locks
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def scratch_folder(beside: Path, *, mode: int = 0o700) -> Iterator[Path]:
    """Yield an empty folder next to `beside`, on the same disk; it goes when the block ends.

    Args:
        beside: What it is put beside; that need not exist.
        mode: Its permission bits, less the umask: nobody else looks into what is not finished.

    Raises:
        OutputFailure: nothing can be written there.
    """
    with closing(_Claim()) as claim:
        with writing(beside):
            folder = claim.make(_resolved(beside).parent, lambda new: new.mkdir(mode))
        yield folder


class _Claim:
    """Something temporary; its path is noted before it is made, so that `close` always finds it.

    Others see by a lock that it is in use: that ends with this process, however the process ends.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._descriptor: int | None = None

    def make(self, folder: Path, create: Callable[[Path], None]) -> Path:
        """Make it in `folder`, after removing what killed processes left there; its path."""
        _sweep(folder)
        while True:
            self._path = folder / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
            create(self._path)
            with suppress(FileNotFoundError):  # swept before it was locked
                self._descriptor = os.open(self._path, os.O_RDONLY)
                if _lock(self._descriptor) is not False and os.fstat(self._descriptor).st_nlink:
                    return self._path
                self._unlock()

    def close(self) -> None:
        """Remove it, unless it has another name by now, or was never made."""
        try:
            self._remove()
        except BaseException:  # an interruption comes after it, not in its middle
            self._remove()
            raise
        finally:
            self._unlock()

    def _remove(self) -> None:
        if self._path is not None:
            with suppress(OSError):  # a disk that takes nothing: the next write removes it
                _remove(self._path)

    def _unlock(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _empty_file(path: Path) -> None:
    path.touch(exist_ok=False)


def _sweep(folder: Path) -> None:
    """Remove the temporary files and folders of processes that are no more."""
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError):  # gone meanwhile, or somebody else's; never a pipe's other end
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                if _lock(descriptor):
                    _remove(path)
            finally:
                os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lock(descriptor: int) -> bool | None:
    """Whether nobody else holds a file or folder; None where the disk knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


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


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or which names a folder holds."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Hex digest of a file's content, read in pieces.

    Args:
        path: The file.
        advance: Told how many bytes were read.

    Raises:
        EdgeslmError: it cannot be read.
    """
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            if advance is not None:
                advance(len(piece))
    return digest.hexdigest()


def sampled_sha256(path: Path) -> str:
    """Hex digest of a file's size and of pieces from all over it: 1 MB at most is read.

    It tells models apart wherever they lie, but proves nothing: what differs may lie between.

    Raises:
        EdgeslmError: it cannot be read.
    """
    with reading(path), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256(f"{size}\n".encode())
        for number in range(_SAMPLES):
            file.seek(number * max(size - _SAMPLE_BYTES, 0) // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def identity(path: Path) -> str:
    """A name for a file as it is now: another file, or the same one changed, has another.

    The time of the last change (ctime) is in it, since a copy over the file can bring all the rest
    along. Whoever brings a disk brings all of it, so there the name proves nothing.

    Raises:
        EdgeslmError: it cannot be read.
    """
    with reading(path):
        return _identity(path.stat())


def _identity(status: os.stat_result) -> str:
    when = (status.st_mtime_ns, status.st_ctime_ns)
    return "-".join(map(str, (status.st_dev, status.st_ino, status.st_size, *when)))


def note_of(path: Path, kind: str, about: str = "") -> Path | None:
    """Where what is known of a file as it is now is kept; None where the user has no home.

    Args:
        path: The file.
        kind: What is known: the name of a folder of notes.
        about: Tells several notes of a kind apart: empty, or ".more".

    Raises:
        EdgeslmError: it cannot be read.
    """
    folder = cache_folder(kind)
    return folder / (identity(path) + about) if folder else None


@contextmanager
def keeping_notes(path: Path) -> Iterator[None]:
    """Keep what is known of a file while the block gives it another name, or takes one away.

    That changes the time of its last change, and so its identity, but nothing in it. Of use where
    the same user runs both: notes are in the own cache folder.

    Raises:
        EdgeslmError: it cannot be read.
    """
    with reading(path):
        descriptor = os.open(path, os.O_RDONLY)
    try:
        before = os.fstat(descriptor)
        yield
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
        _rename_notes(_identity(before), _identity(after))


def _rename_notes(before: str, after: str) -> None:
    for folder in filter(None, map(cache_folder, NOTES)):
        with suppress(OSError):  # no such folder, or somebody else's
            for note in folder.iterdir():
                if note.name.partition(".")[0] == before:
                    note.rename(folder / f"{after}{note.name.removeprefix(before)}")


def remembered_sha256(path: Path) -> str:
    """The same as `sha256`, remembered for as long as the file is not touched.

    Raises:
        EdgeslmError: it cannot be read.
    """
    note = note_of(path, HASHES)
    if note is not None:
        with suppress(OSError, UnicodeDecodeError):
            known = note.read_text(encoding="ascii")
            if re.fullmatch("[0-9a-f]{64}", known):
                return known
    digest = sha256(path)
    if note is not None:
        with suppress(OSError, EdgeslmError):  # it only costs the next start a little time
            note.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(note) as temporary:
                temporary.write_text(digest, encoding="ascii")
    return digest


def cache_folder(name: str) -> Path | None:
    """Folder for things that can be made again, or None where the user has no home.

    `$EDGESLM_CACHE`, else `$XDG_CACHE_HOME/edgeslm`, else `~/.cache/edgeslm`; not created here.
    """
    return _own_folder("CACHE", ".cache", name)


def state_folder(name: str) -> Path | None:
    """Folder for what people did, such as conversations, or None where the user has no home.

    `$EDGESLM_STATE`, else `$XDG_STATE_HOME/edgeslm`, else `~/.local/state/edgeslm`; not created
    here.
    """
    return _own_folder("STATE", ".local/state", name)


def config_folder(name: str) -> Path | None:
    """Folder for what people decided, such as whom to trust, or None where the user has no home.

    `$EDGESLM_CONFIG`, else `$XDG_CONFIG_HOME/edgeslm`, else `~/.config/edgeslm`; not created here.
    """
    return _own_folder("CONFIG", ".config", name)


def _own_folder(kind: str, at_home: str, name: str) -> Path | None:
    for variable, below in ((f"EDGESLM_{kind}", ""), (f"XDG_{kind}_HOME", "edgeslm")):
        if os.environ.get(variable):
            return Path(os.environ[variable]) / below / name
    try:
        return Path.home() / at_home / "edgeslm" / name
    except RuntimeError:
        return None
