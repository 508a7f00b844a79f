"""Pages of files that the kernel keeps in memory: how many of one file, and none of it.

A control group pays for the pages of a file that it reads first. What is in memory already was paid
for by somebody else, and would be there without counting. Pages that another process has mapped
stay, whoever asks; a copy of the file has none of those.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edgeslm.errors import MeasurementFailure, OutputFailure, reading, writing
from edgeslm.files import cache_folder, scratch_folder

_NOTHING_MUCH = 0.01
"""Of a file: so much in memory changes nothing."""


class Cold(NamedTuple):
    """A file with no page in memory, and whether it is a copy."""

    path: Path
    copied: bool


def cached_bytes(path: Path) -> int:
    """How much of a file is in memory, whoever had it read.

    The kernel tells only those who may write to the file; to others everything seems to be there.

    Raises:
        EdgeslmError: it cannot be read.
    """
    with reading(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return 0
        pages = -(-size // mmap.PAGESIZE)
        vector = (ctypes.c_ubyte * pages)()
        protection = mmap.PROT_READ | mmap.PROT_WRITE  # ctypes takes no read-only buffer
        with mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=protection) as mapped:
            start = ctypes.c_ubyte.from_buffer(mapped)
            address = ctypes.c_void_p(ctypes.addressof(start))
            status = ctypes.CDLL(None, use_errno=True).mincore(
                address, ctypes.c_size_t(size), vector
            )
            del start
        if status != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return sum(flag & 1 for flag in vector) * mmap.PAGESIZE


def drop(path: Path) -> bool:
    """Have the kernel forget a file's pages; whether hardly any is left."""
    with reading(path), path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return cached_bytes(path) <= max(_NOTHING_MUCH * path.stat().st_size, mmap.PAGESIZE)


@contextmanager
def cold(path: Path) -> Iterator[Cold]:
    """A file of the same content that has no page in memory; a copy goes when the block ends.

    Raises:
        MeasurementFailure: there is none to be had.
        EdgeslmError: the file cannot be read, or the copy not written.
    """
    if drop(path):
        yield Cold(path, copied=False)
        return
    with _copied(path) as copy:
        yield Cold(copy, copied=True)


@contextmanager
def _copied(path: Path) -> Iterator[Path]:
    with scratch_folder(_place(path)) as folder:
        copy = folder / path.name
        with writing(copy):
            shutil.copyfile(path, copy)
        if not drop(copy):
            raise MeasurementFailure(
                f"{copy.parent}: files there stay in memory, so a limit would not see the model",
                hint="Name a folder on a disk in EDGESLM_CACHE.",
            )
        yield copy


def _place(path: Path) -> Path:
    """What the copy is put beside: something in our cache folder, or else the file itself."""
    folder = cache_folder("limited")
    if folder is None:
        return path
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except OutputFailure:
        return path
    return folder / path.name
