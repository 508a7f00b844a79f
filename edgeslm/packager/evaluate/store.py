"""Results that are costly to compute, kept in the cache folder.

Their names are hashes of all they depend on. Each lies in a file of its own that is complete or
not there. When the folder grows too large those used least recently go first; what the running
program has used stays. A file that does not read back is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import writing
from edgeslm.files import atomic_path, cache_folder

MOST_BYTES = 4_000_000_000

Arrays = Mapping[str, NDArray[Any]]


class Store:
    """A folder of results.

    Args:
        folder: Where they lie; None for the cache folder, or a temporary one without that.
        most_bytes: What they may take together.
    """

    def __init__(self, folder: Path | None = None, most_bytes: int = MOST_BYTES) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        folder = folder or cache_folder("evaluate")
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="edgeslm-")
            folder = Path(self._temporary.name)
        self._folder = folder
        self._most_bytes = most_bytes
        self._used: set[Path] = set()

    def holds(self, key: str) -> bool:
        """Whether something was saved under `key`; it counts as used now."""
        return self._use(f"{key}.npz").exists()

    def load(self, key: str) -> Arrays | None:
        """What was saved under `key`, None if that is not there (any more)."""
        path = self._use(f"{key}.npz")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None

    def save(self, key: str, arrays: Arrays) -> None:
        """Keep `arrays`, or raise an OutputFailure."""
        path = self._prepare(f"{key}.npz")
        with atomic_path(path) as temporary, writing(path), temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # no name is an option's
        self._make_room()

    def load_text(self, name: str) -> str | None:
        """The text of a file that was kept."""
        try:
            return self._use(name).read_bytes().decode("utf-8")
        except (OSError, ValueError):
            return None

    def save_text(self, name: str, text: str) -> Path:
        """Keep a text, or raise an OutputFailure; where it lies."""
        path = self._prepare(name)
        with atomic_path(path) as temporary, writing(path):
            temporary.write_bytes(text.encode("utf-8"))
        self._make_room()
        return path

    def _prepare(self, name: str) -> Path:
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        return self._use(name)

    def _use(self, name: str) -> Path:
        path = self._folder / name
        self._used.add(path)
        with suppress(OSError):  # not there, or not ours; reading it will tell
            os.utime(path)
        return path

    def _make_room(self) -> None:
        """Delete what was not used for longest until the rest fits."""
        with writing(self._folder):
            self._delete_oldest()

    def _delete_oldest(self) -> None:
        files = [(path, status) for path in self._folder.iterdir() if (status := _status(path))]
        excess = sum(status.st_size for _, status in files) - self._most_bytes
        for path, status in sorted(files, key=lambda entry: entry[1].st_mtime_ns):
            if excess <= 0:
                return
            if path not in self._used and path.suffix in (".npz", ".txt"):
                path.unlink(missing_ok=True)
                excess -= status.st_size


def key_of(*parts: object) -> str:
    """A name for what depends on `parts`, which are JSON values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None  # another program deleted it meanwhile
