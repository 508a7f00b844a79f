"""Where meters are looked for: files, programs, libraries, plugins of one machine.

Everything comes from here, so that a recorded tree and recorded programs give the same findings
as the board they were recorded on.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

PLUGIN_GROUP = "edgeslm.meters"
_COMMAND_SECONDS = 5


def _installed_plugins() -> Iterable[EntryPoint]:
    return entry_points(group=PLUGIN_GROUP)


@dataclass(frozen=True)
class Surroundings:
    """A machine, or a recorded one.

    Attributes:
        root: Where its files lie.
        search_path: Folders of its programs, like PATH; None for this process's own.
        system: The operating system, as `platform.system()` names it.
        is_root: Whether the user may read everything.
        environment: Environment variables.
        nvml: The file name of NVIDIA's management library.
        plugins: Gives the installed meters of others.
    """

    root: Path = Path("/")
    search_path: str | None = None
    system: str = field(default_factory=platform.system)
    is_root: bool = field(default_factory=lambda: hasattr(os, "geteuid") and os.geteuid() == 0)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    nvml: str = "libnvidia-ml.so.1"
    plugins: Callable[[], Iterable[EntryPoint]] = _installed_plugins

    @property
    def sysfs(self) -> Path:
        """Where the kernel shows its devices."""
        return self.root / "sys"

    def program(self, name: str) -> str | None:
        """The full path of a program, or None where it is not installed."""
        return shutil.which(name, path=self.search_path)


def run(*command: str) -> str:
    """What a program prints.

    Raises:
        PermissionError: it may not be started.
        OSError: it fails, or takes too long; the message has its own last words.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            timeout=_COMMAND_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{command[0]} did not end within {_COMMAND_SECONDS} seconds") from error
    if done.returncode:
        words = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        last = f": {words[-1]}" if words else ""
        raise OSError(f"{command[0]} ended with code {done.returncode}{last}")
    return done.stdout.decode("utf-8", "replace")


def read_text(path: Path) -> str:
    """A small file without the white space around it, empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def read_integer(path: Path) -> int:
    """A file of the kernel that holds one whole number.

    Raises:
        OSError: it cannot be read; a switched-off sensor gives ENODATA.
        ValueError: it holds something else.
    """
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    if not text.removeprefix("-").isdecimal() or not text.isascii() or len(text) > 20:
        raise ValueError(f"{path} holds no number: {text[:40]!r}")
    return int(text)


def permission_hint(path: Path) -> str:
    """How to let everybody read a file of the kernel until the next boot."""
    return f"Run as root, or allow it until the next boot: sudo chmod a+r {path}"
