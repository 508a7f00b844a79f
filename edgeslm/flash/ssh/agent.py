"""What runs on a board while it is flashed. Standard library only.

Its text is handed to the board's own python3 (`python3 -I -S -c TEXT ACTION JSON`), so nothing of
it stays there. Whatever changes the board waits for the lock that another flash holds, also one
whose other end is gone. A file gets its name when its hash was found right and the disk holds it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    Given = dict[str, Any]
    Digest = hashlib._Hash

CUT_SHORT, DAMAGED, NO_SPACE, IN_USE, NO_PROGRAM = 65, 66, 28, 75, 127
BEGINNING = "-- edgeslm --"
_PIECE_BYTES = 1 << 20
_MOST_TEXT_BYTES = 1 << 16
_SPARE_BYTES = 4 << 20
_PATIENCE_SECONDS = 300
_RUNS = ("initializing", "starting", "running", "degraded", "maintenance")
_VERSION = re.compile("[0-9a-f]{32}")
_BLOB = re.compile("[0-9a-f]{64}")
_RUNTIME = re.compile("[0-9a-f]{16}")
_ANY = re.compile(r"[^.].*", re.DOTALL)
_KEY = re.compile(r"[^.].*\.(pub|pem)", re.DOTALL)


class _Stop(Exception):
    """What ends an action, with the exit status."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


def look(given: Given) -> None:
    """The board as it is; nothing is changed, and nothing is waited for.

    Args:
        given: `rights` (root, sudo or none), and `prefix` or None.
    """
    alone = given["rights"] == "none"
    usual = Path.home() / ".local/share/edgeslm" if alone else Path("/")
    root = Path(given["prefix"] or usual)
    home, opt, keys = (
        *(root / "var/lib/edgeslm", root / "opt/edgeslm"),
        root / "etc/edgeslm/trusted_keys",
    )
    scope = ["--user"] if alone else []
    unit = root / "etc/systemd" / ("user" if alone else "system") / "edgeslm.service"
    versions = home / "store/versions"
    _say(
        {
            **_service(scope),
            "root": str(root),
            "free_bytes": _free_bytes(root),
            "versions": _names(versions, _VERSION),
            "signatures": {
                name: _hash(versions / name / "model.sig") or ""
                for name in _names(versions, _VERSION)
            },
            "state": _text(home / "store/state.json"),
            "stored": _blobs_of(versions),
            "received": _sizes(home / "received/blobs", _BLOB),
            "left_over": bool(_names(home / "received", _ANY)),
            "runtimes": _names(opt / "runtimes", _RUNTIME),
            "runtime": _target(opt / "current"),
            "unit": _text(unit),
            "served": _text(opt / "served.json"),
            "going_back_to": _text(opt / "going-back-to"),
            "before": _text(opt / "before.json"),
            "closed": _closed(root),
            "made_account": (root / "etc/sysusers.d/edgeslm.conf").is_file(),
            "keys": {name: _hash(keys / name) or "" for name in _names(keys, _KEY)},
            "account": _has_account(),
        }
    )


def _has_account() -> bool:
    import pwd

    with suppress(KeyError):
        return bool(pwd.getpwnam("edgeslm"))
    return False


def _service(scope: list[str]) -> dict[str, bool]:
    return {
        "systemd": _systemctl([*scope, "is-system-running"]) in _RUNS,
        "enabled": _systemctl([*scope, "is-enabled", "edgeslm.service"]) == "enabled",
        "active": _systemctl([*scope, "is-active", "edgeslm.service"]) == "active",
    }


def _systemctl(words: list[str], timeout: float = 20) -> str:
    try:
        return subprocess.run(
            ["systemctl", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=_environment(),
            timeout=timeout,
            check=False,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _environment() -> dict[str, str]:
    """Ours, and where the user's own systemd is reached if nobody said."""
    own = Path(f"/run/user/{os.getuid()}")
    told = {} if "XDG_RUNTIME_DIR" in os.environ else {"XDG_RUNTIME_DIR": str(own)}
    return {**os.environ, **(told if own.is_dir() else {})}


def _free_bytes(path: Path) -> int:
    while not path.is_dir():
        path = path.parent
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _closed(path: Path) -> str | None:
    """The folder on the way to a path, itself included, that others may not enter."""
    there = filter(Path.is_dir, (path, *path.parents))
    return next((str(each) for each in there if not each.stat().st_mode & 0o001), None)


def _names(folder: Path, wanted: re.Pattern[str]) -> list[str]:
    with suppress(OSError):
        return sorted(each.name for each in folder.iterdir() if wanted.fullmatch(each.name))
    return []


def _sizes(folder: Path, wanted: re.Pattern[str]) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in _names(folder, wanted)}


def _blobs_of(versions: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for version in _names(versions, _VERSION):
        found.update(_sizes(versions / version / "blobs/sha256", _BLOB))
    return found


def _target(link: Path) -> str | None:
    with suppress(OSError):
        return os.path.basename(os.readlink(link))  # noqa: PTH115, PTH119  Path drops a last "/"
    return None


def _text(path: Path) -> str | None:
    with suppress(OSError), path.open("rb") as file:
        return file.read(_MOST_TEXT_BYTES).decode("utf-8", "replace")
    return None


def _hash(path: Path) -> str | None:
    with suppress(OSError), path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
        return digest.hexdigest()
    return None


def receive(given: Given) -> None:
    """A file from standard input, from where an interrupted one ended.

    Args:
        given: `path`, `bytes`, `sha256` of the file, and `lock`.
    """
    with _Alone(given["lock"]):
        final, size = Path(given["path"]), given["bytes"]
        if final.is_file() and final.stat().st_size == size:
            _say({"have": size})
            return
        _folders(final.parent)
        part = final.with_name(f"{final.name}.part")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(part, flags, 0o644), "r+b") as file:  # noqa: PTH123  a descriptor
            digest = hashlib.sha256()
            have = _keep(file, size, digest)
            if size - have + _SPARE_BYTES > (free := _free_bytes(final.parent)):
                raise _Stop(NO_SPACE, str(free))
            _say({"have": have})
            _take(file, size - have, digest)
            if digest.hexdigest() != given["sha256"]:
                part.unlink()
                raise _Stop(DAMAGED, "its hash is another")
            file.flush()
            os.fsync(file.fileno())
        part.rename(final)
        _sync(final.parent)


def _keep(file: BinaryIO, size: int, digest: Digest) -> int:
    """How much is there that can be the beginning."""
    if os.fstat(file.fileno()).st_size > size:
        file.truncate(0)
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
    return file.tell()


def _take(file: BinaryIO, count: int, digest: Digest) -> None:
    while count:
        piece = os.read(0, min(count, _PIECE_BYTES))
        if not piece:
            raise _Stop(CUT_SHORT, "the connection ended")
        file.write(piece)
        digest.update(piece)
        count -= len(piece)


def place(given: Given) -> None:
    """A bundle's folder, of blobs that were received or that another version has.

    Args:
        given: `to`, the folder; `blobs`, hashes; `files`, hashes by names; `received` and
            `versions`, folders to take them from; `copied`, whether what cannot have one more name
            is copied or left out; `lock`.
    """
    with _Alone(given["lock"]):
        folder, versions = Path(given["to"]), Path(given["versions"])
        _remove(folder)
        _folders(folder / "blobs/sha256")
        sources = [Path(given["received"])]
        sources += [versions / name / "blobs/sha256" for name in _names(versions, _VERSION)]
        for name in given["blobs"]:
            _link(name, sources, folder / "blobs/sha256" / name, copied=given["copied"])
        for name, digest in given["files"].items():
            _link(digest, sources, folder / name, copied=given["copied"])


def _link(name: str, sources: list[Path], target: Path, *, copied: bool) -> None:
    found = next((source / name for source in sources if (source / name).is_file()), None)
    if found is None:
        raise _Stop(CUT_SHORT, f"{name} is not there")
    try:
        os.link(found, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        if copied:
            shutil.copyfile(found, target)


def write(given: Given) -> None:
    """Small texts, each there as a whole or as it was.

    Args:
        given: `files`, the texts by their paths; `lock`.
    """
    with _Alone(given["lock"]):
        for name, text in given["files"].items():
            path = Path(name)
            _folders(path.parent)
            new = path.with_name(f"{path.name}.edgeslm-new")
            with new.open("wb") as stream:
                stream.write(text.encode())
                stream.flush()
                os.fsync(stream.fileno())
            new.chmod(0o644)
            new.rename(path)
            _sync(path.parent)


def run(given: Given) -> None:
    """A program.

    Args:
        given: `command`; `environment`, added to ours; `held`, whether the lock goes on until the
            program has ended, also if this process has not lived so long; `paused`, words by which
            systemctl stops the service meanwhile, or None; `lock`.
    """
    with _Alone(given["lock"]) as lock, _paused(given["paused"]):
        try:
            done = subprocess.run(
                given["command"],
                stdin=subprocess.DEVNULL,
                env={**_environment(), **given["environment"]},
                pass_fds=(lock.descriptor,) if given["held"] else (),
                check=False,
            )
        except OSError as error:
            raise _Stop(NO_PROGRAM, f"{given['command'][0]}: {error.strerror}") from error
    if done.returncode:
        sys.exit(done.returncode if done.returncode > 0 else 128 - done.returncode)


@contextmanager
def _paused(scope: list[str] | None) -> Iterator[None]:
    """The service has ended while the block runs. It starts again here, since who asked may go."""
    if scope is None:
        yield
        return
    _systemctl([*scope, "stop", "edgeslm.service"], timeout=90)
    try:
        yield
    finally:
        _systemctl([*scope, "start", "edgeslm.service"])


def lead(given: Given) -> None:
    """A link leads elsewhere, at once.

    Args:
        given: `link`, `target`, `lock`.
    """
    with _Alone(given["lock"]):
        link = Path(given["link"])
        new = link.with_name(f"{link.name}.edgeslm-new")
        with suppress(FileNotFoundError):
            new.unlink()
        new.symlink_to(given["target"])
        new.rename(link)
        _sync(link.parent)


def own(given: Given) -> None:
    """The service's home: it may write there, but cannot move away what is root's in it.

    Args:
        given: `home`, `account`; `shared`, folders below each other, each like the home; `kept`,
            one in the last where only root writes, or None; `roots`, what has to be root's; `lock`.
    """
    with _Alone(given["lock"]):
        import pwd

        group = pwd.getpwnam(given["account"]).pw_gid
        folder = home = _ours(given["home"], None, group, 0o1775)
        for name in given["shared"]:
            folder = _ours(name, folder, group, 0o1775)
        if given["kept"] is not None:
            folder = _ours(given["kept"], folder, 0, 0o755)
            for name in os.listdir(folder):  # noqa: PTH208  of a descriptor
                if os.lstat(name, dir_fd=folder).st_uid != 0:
                    os.unlink(name, dir_fd=folder)
        for name in given["roots"]:
            with suppress(FileNotFoundError):
                if os.lstat(name, dir_fd=home).st_uid != 0:
                    raise _Stop(1, f"{given['home']}/{name} is not root's: see whose, and move it")


def _ours(path: str, inside: int | None, group: int, mode: int) -> int:
    """A folder that is root's from now on; not one that a link leads to."""
    with suppress(FileExistsError):
        os.mkdir(path, 0o755, dir_fd=inside)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=inside)
    os.fchown(folder, 0, group)
    os.fchmod(folder, mode)
    return folder


def remove(given: Given) -> None:
    """Files and folders; links are removed, not followed.

    Args:
        given: `paths`; `if_empty`, folders that stay if anything is in them; `lock`.
    """
    with _Alone(given["lock"]):
        for path in given["paths"]:
            _remove(Path(path))
        for folder in given["if_empty"]:
            with suppress(OSError):
                Path(folder).rmdir()


def _remove(path: Path) -> None:
    """Under another name first: what is half removed is not to be used."""
    gone = path.with_name(f"{path.name}.edgeslm-gone")
    shutil.rmtree(gone, ignore_errors=True)
    if path.is_dir() and not path.is_symlink():
        path.rename(gone)
        shutil.rmtree(gone)
    else:
        with suppress(FileNotFoundError):
            path.unlink()


def health(given: Given) -> None:
    """Whether the service answers, asked until it does, has ended for good, or the time is over.

    Args:
        given: `port`, `seconds`; `scope`, words for systemctl.
    """
    until = time.monotonic() + given["seconds"]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    why = ""
    while time.monotonic() < until:
        try:
            with opener.open(f"http://127.0.0.1:{given['port']}/health", timeout=10) as answer:
                _say({"healthy": answer.status == 200, "why": ""})
                return
        except (OSError, ValueError, http.client.HTTPException) as error:
            why = str(error)
        if _systemctl([*given["scope"], "is-active", "edgeslm.service"]) in ("failed", "inactive"):
            why = "it has ended"
            break
        time.sleep(0.25)
    _say({"healthy": False, "why": why})


class _Alone:
    """Nobody else changes the board while the block runs."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.descriptor = -1

    def __enter__(self) -> Self:
        until = time.monotonic() + _PATIENCE_SECONDS
        while not self._taken():
            if time.monotonic() > until:
                raise _Stop(IN_USE, "another flash is at work there")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def _taken(self) -> bool:
        """Whether the lock is ours, and still the one that others would ask for."""
        _folders(self.path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o644)
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), self.path.stat()):
                self.descriptor = descriptor
                return True
        os.close(descriptor)
        return False


def _folders(path: Path) -> None:
    """Make a folder and those above it; the disk holds their names."""
    if not path.is_dir():
        _folders(path.parent)
        path.mkdir(0o755, exist_ok=True)
        _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _say(value: Given) -> None:
    print(json.dumps(value), flush=True)


def main(words: list[str]) -> int:
    """Do what the words say: an action and its JSON, or "-" where that is read; the exit status."""
    os.umask(0o022)
    actions = (look, receive, place, write, run, lead, own, remove, health)
    try:
        given = json.loads(sys.stdin.read() if words[1] == "-" else words[1])
        print(BEGINNING, flush=True)  # a shell may have said something before
        {action.__name__: action for action in actions}[words[0]](given)
    except json.JSONDecodeError:  # the other end has gone while it was sent
        return CUT_SHORT
    except _Stop as stop:
        print(stop, file=sys.stderr)
        return stop.code
    except OSError as error:
        print(f"{error.filename or 'error'}: {error.strerror or error}", file=sys.stderr)
        return NO_SPACE if error.errno in (errno.ENOSPC, errno.EDQUOT) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
