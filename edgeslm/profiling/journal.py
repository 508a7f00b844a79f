"""The file of a bench: one JSON document a line, added to and never rewritten.

Each line is on the disk before the next cell begins. A process that is killed while it writes
leaves half a line at most, which is cut off when the file is opened again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeslm.errors import Busy, UserError, reading, writing
from edgeslm.profiling.results import LINE_START, documents
from edgeslm.records import FAILURE_SCHEMA, MEASUREMENT_SCHEMA

_TAIL_BYTES = 1 << 16


class Journal:
    """An open one; see `open_journal`.

    Attributes:
        done: Keys of cells that were measured.
        failed: Keys of cells that were tried in vain, and not measured since.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self.done, self.failed = read_keys(path)

    def add(self, document: Mapping[str, Any]) -> None:
        """Write one line and have the disk keep it.

        Raises:
            OutputFailure: it cannot be written; nothing of it stays.
        """
        line = json.dumps(document, allow_nan=False) + "\n"
        data = line.encode("ascii")
        with writing(self._path):
            size = os.fstat(self._descriptor).st_size
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
                os.fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, size)
                raise


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """The journal at `path`, for this process alone; a new one if there is none.

    Raises:
        Busy: another process has it.
        UserError: the file holds something else.
        OutputFailure: it cannot be written.
    """
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        with writing(path):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(
                    f"{path}: another bench writes to it",
                    hint="Wait for its end, or choose another file with -o.",
                ) from error
            _repair(descriptor)
        yield Journal(path, descriptor)
    finally:
        os.close(descriptor)


def _repair(descriptor: int) -> None:
    """End the last line, or cut it off where it is half-written."""
    size = os.fstat(descriptor).st_size
    start_of_file = os.pread(descriptor, len(LINE_START), 0)
    if not LINE_START.encode().startswith(start_of_file):
        return  # not ours to change
    tail, start = b"", size
    while start > 0 and b"\n" not in tail:
        start = max(0, start - _TAIL_BYTES)
        tail = os.pread(descriptor, size - start, start)
    last = tail[tail.rfind(b"\n") + 1 :]
    if not last:
        return
    if _is_json(last):
        os.write(descriptor, b"\n")
    else:
        os.ftruncate(descriptor, size - len(last))
    os.fsync(descriptor)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def read_keys(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """The keys of cells that were measured, and of those that failed; none if there is no file.

    Raises:
        UserError: the file holds something else.
    """
    done: set[str] = set()
    failed: set[str] = set()
    for row in _rows(path):
        schema = row.get("schema") if isinstance(row, Mapping) else None
        if schema not in (MEASUREMENT_SCHEMA, FAILURE_SCHEMA):
            raise _no_journal(path)
        key = _key(row)
        if key is not None:
            (done if schema == MEASUREMENT_SCHEMA else failed).add(key)
    return frozenset(done), frozenset(failed - done)


def _rows(path: Path) -> tuple[Any, ...]:
    """Its lines; a document over several lines is none, since nothing can be added to it."""
    if not path.exists() or not path.stat().st_size:
        return ()
    rows = documents(path)[0]
    with reading(path), path.open("rb") as file:
        if file.read(len(LINE_START)) != LINE_START.encode():
            raise _no_journal(path)
    return rows


def _no_journal(path: Path) -> UserError:
    return UserError(
        f"{path}: not a file of edgeslm bench",
        hint="Name another one with -o; nothing was changed in this one.",
    )


def _key(row: Mapping[str, Any]) -> str | None:
    """Of the row's cell; None for what `profile` wrote."""
    cell = row.get("cell")
    key = cell.get("key") if isinstance(cell, Mapping) else None
    return key if isinstance(key, str) else None
