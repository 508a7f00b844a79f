"""The programs of e2fsprogs, mtools and others, which work on images without being root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgeslm.errors import Failure, NotFound

PACKAGES = {
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "resize2fs": "e2fsprogs",
    "mcopy": "mtools",
    "mdir": "mtools",
    "mtype": "mtools",
    "fsck.vfat": "dosfstools",
    "mkfs.vfat": "dosfstools",
    "mke2fs": "e2fsprogs",
    "sfdisk": "fdisk",
    "depmod": "kmod",
    "mmdebstrap": "mmdebstrap",
    "fakeroot": "fakeroot",
    "sh": "dash",
    "dumpe2fs": "e2fsprogs",
}
"""What is used, and in which package of Debian it lies."""

_PLACES = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/opt/homebrew/opt/e2fsprogs/sbin")
"""Where they lie though a user's PATH may lack it."""


def find(program: str) -> str:
    """Its full path.

    Raises:
        NotFound: it is not installed; the hint names the package.
    """
    found = _which(program)
    if found is None:
        package = PACKAGES[program]
        raise NotFound(
            f"{program} is not installed",
            hint=f"Install it: sudo apt install {package} (macOS: brew install {package}).",
        )
    return found


def _which(program: str) -> str | None:
    places = os.pathsep.join([os.environ.get("PATH", ""), *_PLACES])
    return shutil.which(program, path=places)


def lacks(program: str) -> bool:
    """Whether it is not installed."""
    return _which(program) is None


def ensure_installed(programs: Iterable[str]) -> None:
    """Return if all are there: to be asked before long work.

    Raises:
        NotFound: one is not installed; the hint names the packages of all that are missing.
    """
    missing = [program for program in programs if lacks(program)]
    if missing:
        packages = " ".join(sorted({PACKAGES[program] for program in missing}))
        raise NotFound(
            f"not installed: {', '.join(missing)}",
            hint=f"Install them: sudo apt install {packages} (macOS: brew install {packages}).",
        )


def environment() -> dict[str, str]:
    """Ours, in English, and with mtools content with disks that have no whole tracks."""
    return os.environ | {"LC_ALL": "C.UTF-8", "MTOOLS_SKIP_CHECK": "1", "MTOOLSRC": os.devnull}


def run(
    command: Sequence[str],
    *,
    folder: Path | None = None,
    stdin: bytes = b"",
    fine: Iterable[int] = (0,),
) -> tuple[bytes, bytes]:
    """What a program printed to stdout and to stderr.

    Args:
        command: Its name and its arguments.
        folder: Where it works.
        stdin: What it reads.
        fine: The exit codes that mean success.

    Raises:
        NotFound: it is not installed.
        Failure: it failed; with its last line.
    """
    done = subprocess.run(
        [find(command[0]), *command[1:]],
        input=stdin,
        capture_output=True,
        cwd=folder,
        env=environment(),
        check=False,
    )
    if done.returncode not in set(fine):
        said = (done.stderr + done.stdout).decode("utf-8", "replace").strip().splitlines()
        last = said[-1] if said else f"exit code {done.returncode}"
        raise Failure(f"{command[0]} failed: {last}", hint="The image may be damaged.")
    return done.stdout, done.stderr
