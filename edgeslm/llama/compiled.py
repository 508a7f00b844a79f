"""A llama.cpp that its compiler got wrong is not used: it would end the process without a word.

GCC before 12.4 and 13.3 drops what is stored for `ldtilecfg` to read (its bug 114098): on those
processors that have AMX the first multiplication faults then. Who compiled is read from the note
that compilers leave in what they make.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection
from pathlib import Path

from edgeslm.errors import NativeFailure

_TILES = "AMX_INT8"
_GCC = re.compile(rb"GCC: \([^()\0]{0,200}\) (\d+)\.(\d+)\.\d+")
_CLANG = b"clang version "
_MENDED = {11: 5, 12: 4, 13: 3}
"""Of each release series of GCC that has tiles, the first release not known to have the fault; the
last of 11 came after it was mended, but has not been tried."""


def ensure_sound(features: Collection[str], libraries: Path, version: str) -> None:
    """Return unless what lies in a folder is known to fault here.

    Args:
        features: What was compiled in, as llama.cpp names it.
        libraries: Where its libraries are.
        version: The binding's, for the hint.

    Raises:
        NativeFailure: it would; the hint says how to compile it.
    """
    release = _faulty_gcc(libraries) if _TILES in features else None
    if release is not None:
        raise NativeFailure(
            f"llama.cpp was compiled by GCC {release}, which gets its kernels for AMX wrong: "
            "the first token would end the program",
            hint="Compile it without them: CFLAGS=-U__AMX_INT8__ CXXFLAGS=-U__AMX_INT8__ "
            f"pip install --force-reinstall --no-deps --no-cache-dir llama-cpp-python=={version}",
        )


def _faulty_gcc(libraries: Path) -> str | None:
    """The release that compiled the kernels, where all that took part are known to be faulty."""
    for path in sorted(libraries.glob("libggml-cpu*.so*")):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
            if code.find(_CLANG) >= 0:
                return None
            releases = {(int(found[1]), int(found[2])) for found in _GCC.finditer(code)}
        if not releases or any(minor >= _MENDED.get(major, 0) for major, minor in releases):
            return None
        return ".".join(map(str, max(releases)))
    return None
