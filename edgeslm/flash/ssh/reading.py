"""Which files of a board are no longer what their names say. Standard library only.

Its text is handed to the board's own python3, as the agent's is: `python3 -I -S -c TEXT FOLDER...`.
A card that wears out keeps names and sizes, and gives other bytes, or none.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_PIECE_BYTES = 1 << 20
_HASH = re.compile("[0-9a-f]{64}")


def damaged(folders: list[str]) -> Iterator[str]:
    """The files in some folders that have a hash for a name, and not that hash; each is read."""
    read: dict[tuple[int, int], bool] = {}
    for folder in map(Path, folders):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if _HASH.fullmatch(path.name) and path.is_file():
                status = path.stat()
                file = (status.st_dev, status.st_ino)  # the same one may have several names
                if file not in read:
                    read[file] = _is(path, path.name)
                if not read[file]:
                    yield str(path)


def _is(path: Path, digest: str) -> bool:
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                found.update(piece)
    except OSError:
        return False
    return found.hexdigest() == digest


if __name__ == "__main__":
    print(json.dumps(list(damaged(sys.argv[1:]))))
