"""Wheels read and written: files by name, and the list of their hashes that every wheel has."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from edgeslm.errors import InvalidBundle, reading, writing

_NO_TIME = (1980, 1, 1, 0, 0, 0)
_FILE, _PROGRAM = 0o100644, 0o100755


def read_wheel(path: Path) -> dict[str, bytes]:
    """The content of each file in it, for wheels that were made here.

    Raises:
        InvalidBundle: it is no zip file.
    """
    try:
        with reading(path), zipfile.ZipFile(path) as archive:
            return {
                info.filename: archive.read(info)
                for info in archive.infolist()
                if not info.is_dir()
            }
    except zipfile.BadZipFile as error:
        raise InvalidBundle(f"{path}: not a wheel: {error}", hint="Make it again.") from error


def write_wheel(path: Path, files: Mapping[str, bytes], info: str) -> None:
    """A wheel of these files, the same bytes for the same ones.

    Args:
        path: Where to.
        files: By name; a RECORD among them is replaced.
        info: The folder for the RECORD: NAME-VERSION.dist-info.
    """
    kept = {name: data for name, data in files.items() if name != f"{info}/RECORD"}
    kept[f"{info}/RECORD"] = _record(kept, info)
    with writing(path), zipfile.ZipFile(path, "w") as archive:
        for name in sorted(kept, key=lambda name: (name.startswith(info), name)):
            entry = zipfile.ZipInfo(name, _NO_TIME)
            entry.external_attr = (_PROGRAM if ".so" in name else _FILE) << 16
            archive.writestr(entry, kept[name], zipfile.ZIP_DEFLATED, 9)


def _record(files: Mapping[str, bytes], info: str) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for name in sorted(files):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest())
        rows.writerow([name, f"sha256={digest.rstrip(b'=').decode()}", len(files[name])])
    rows.writerow([f"{info}/RECORD", "", ""])
    return text.getvalue().encode()
