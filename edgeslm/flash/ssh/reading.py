"""Which files of a board are no longer what their names say, and others put in their places.

Standard library only. Its text is handed to the board's own python3, as the agent's is:

    python3 -I -S -c TEXT read FOLDER...        the damaged ones, as JSON
    python3 -I -S -c TEXT mend FOLDER FILE...   each becomes the one of that name in the folder

A card that wears out keeps names and sizes, and gives other bytes, or none.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PIECE_BYTES = 1 << 20
_HASH = re.compile("[0-9a-f]{64}")


def damaged(folders: list[str]) -> Iterator[str]:
    """The files in some folders that have a hash for a name, and not that hash; each is read."""
    read: dict[tuple[int, int], bool] = {}
    for path in _named(folders):
        try:
            status = path.stat()
            file = (status.st_dev, status.st_ino)  # the same one may have several names
            if file not in read:
                read[file] = _is(path, path.name)
            right = read[file]
        except OSError:
            right = False
        if not right:
            yield str(path)


def _named(folders: list[str]) -> Iterator[Path]:
    for folder in folders:
        with suppress(OSError):
            for name in sorted(os.listdir(folder)):  # noqa: PTH208  names only: nothing is looked at
                path = Path(folder, name)
                if _HASH.fullmatch(name) and not path.is_symlink():
                    yield path


def _is(path: Path, digest: str) -> bool:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            found.update(piece)
    return found.hexdigest() == digest


def mend(folder: str, paths: list[str]) -> None:
    """Put a file that is right in the place of each that is not, at once."""
    for path in map(Path, paths):
        new = path.with_name(f"{path.name}.edgeslm-new")
        with suppress(FileNotFoundError):
            new.unlink()
        try:
            os.link(Path(folder, path.name), new)
        except OSError:  # it lies on another disk, or this one has no links
            shutil.copyfile(Path(folder, path.name), new)
        os.sync()
        new.replace(path)


def main(words: list[str]) -> None:
    """Do what the words say."""
    if words[0] == "mend":
        mend(words[1], words[2:])
    else:
        print(json.dumps(list(damaged(words[1:]))))


if __name__ == "__main__":
    main(sys.argv[1:])
