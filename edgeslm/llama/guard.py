"""The first load of an unknown file happens in a child process.

`edgeslm.gguf` refuses what it knows llama.cpp to choke on. What it does not know ends the
process: a failed assertion, a division by zero. So a file this machine has not loaded
before is first opened, and asked for one token, in a child; if the child dies, its last
words become an error. Files that passed are remembered by identity (device, inode, size, times
of modification and change) and llama.cpp build, so the price is paid once, and again when the
file is touched, as when it gets one more name outside `files.keeping_notes`; the pages the child
read stay in the page cache for the load that follows.

The child copies no weights, so it does not try the kernels that want a copy. Those for AMX, which
some compilers get wrong, are tried in a second child where they are built in.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from edgeslm.errors import NativeFailure
from edgeslm.files import LOADABLE, note_of
from edgeslm.llama import native

_PROBE = "edgeslm.llama.probe"
_DAMAGED = "The file is damaged or made for another version; fetch or convert it again."
_HINTS = {
    int(signal.SIGKILL): "Memory ran out: take a smaller type or model, or close other programs.",
    int(signal.SIGILL): "llama-cpp-python was built for another processor: reinstall it here.",
}
_AMX = "AMX_INT8"
_PATIENCE_SECONDS = 60
_SLOWEST_STORAGE_BYTES_PER_SECOND = 5_000_000


def ensure_loadable(path: Path) -> None:
    """Return if `path` loads and computes in a child process, now or at an earlier time.

    Raises:
        NativeFailure: the child died or reported an error.
    """
    mark = _mark(path)
    with suppress(OSError):  # somebody else's folder
        if mark is not None and mark.exists():
            return
    child = _try(path)
    if child.returncode != 0:
        raise NativeFailure(_last_words(path, child), hint=_HINTS.get(-child.returncode, _DAMAGED))
    _ensure_sound_kernels(path)
    _remember(mark)


def _ensure_sound_kernels(path: Path) -> None:
    """Return unless a file that has passed without them meets kernels that a compiler got wrong.

    Raises:
        NativeFailure: it does; the hint says how to compile llama.cpp.
    """
    build = native.build_info()
    if _AMX in build.features and _try(path, "--repack").returncode == -signal.SIGSEGV:
        raise NativeFailure(
            "llama.cpp's kernels for AMX fault, as GCC before 12.4 and 13.3 compiles them",
            hint="Compile it without: CFLAGS=-U__AMX_INT8__ CXXFLAGS=-U__AMX_INT8__ pip install "
            f"--force-reinstall --no-deps --no-cache-dir llama-cpp-python=={build.binding}",
        )


def _try(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Load `path` in a child process.

    Args:
        path: The model.
        options: For the probe.

    Raises:
        NativeFailure: the child does not come to an end.
    """
    patience = _PATIENCE_SECONDS + path.stat().st_size / _SLOWEST_STORAGE_BYTES_PER_SECOND
    try:
        return subprocess.run(
            [*native.child_command(_PROBE), os.fspath(path), *options],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
            env=native.child_environment(),
            timeout=patience,
        )
    except subprocess.TimeoutExpired as error:
        raise NativeFailure(
            f"{path}: llama.cpp did not finish loading it in {patience:.0f} seconds",
            hint="The file is damaged, or this machine is overloaded: try again when it is idle.",
        ) from error


def _mark(path: Path) -> Path | None:
    """Where the mark of a file that passed lies; None without a usable cache folder."""
    build = native.build_info()
    text = json.dumps([build.binding, build.features])
    return note_of(path, LOADABLE, f".{hashlib.sha256(text.encode()).hexdigest()[:32]}")


def _remember(mark: Path | None) -> None:
    if mark is None:
        return
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:
        return  # a read-only or full cache only costs the next start a little time


def _last_words(path: Path, child: subprocess.CompletedProcess[str]) -> str:
    """One sentence from what the child left on stderr and how it ended."""
    lines = [line.strip() for line in child.stderr.splitlines() if line.strip()]
    if child.returncode > 0 and lines:
        return lines[-1]
    ending = (
        f"exit code {child.returncode}"
        if child.returncode > 0
        else signal.Signals(-child.returncode).name
    )
    words = next((line for line in lines if "GGML_ASSERT" in line or "what():" in line), None)
    return f"{path}: llama.cpp crashes on it ({words or ending})"
