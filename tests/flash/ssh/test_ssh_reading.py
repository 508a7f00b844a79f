"""Which files of a board are damaged: run as it is run there, and called."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeslm.flash.ssh import reading


def put(folder: Path, data: bytes, *, changed: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / hashlib.sha256(data).hexdigest()
    path.write_bytes(data[::-1] if changed else data)
    return path


def test_what_is_not_what_its_name_says(tmp_path: Path) -> None:
    good, bad = put(tmp_path / "a", b"good"), put(tmp_path / "a", b"bad bytes", changed=True)
    (tmp_path / "a/other").write_bytes(b"whatever")
    (tmp_path / "a" / ("0" * 64)).symlink_to(good)
    (tmp_path / "b").mkdir()
    linked = tmp_path / "b" / bad.name
    os.link(bad, linked)
    os.link(good, tmp_path / "b" / good.name)
    folders = [str(tmp_path / name) for name in ("a", "b", "not there")]
    assert list(reading.damaged(folders)) == [str(bad), str(linked)]


def test_one_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a", b"good")
    (tmp_path / "b").mkdir()
    os.link(path, tmp_path / "b" / path.name)
    read = []
    monkeypatch.setattr(reading, "_is", lambda path, digest: not read.append(path))
    assert list(reading.damaged([str(tmp_path / "a"), str(tmp_path / "b")])) == []
    assert read == [path]


def test_a_file_that_the_disk_no_longer_gives_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "a", b"good")

    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fails)
        assert list(reading.damaged([str(tmp_path / "a")])) == [str(path)]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", fails)
        patch.setattr(Path, "is_symlink", lambda _: False)
        assert list(reading.damaged([str(tmp_path / "a")])) == [str(path)]


@pytest.mark.parametrize("links", [True, False])
def test_what_is_right_takes_the_place(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = put(tmp_path / "received", b"bad bytes")
    bad = [put(tmp_path / name, b"bad bytes", changed=True) for name in ("a", "b")]
    (tmp_path / "a" / f"{good.name}.edgeslm-new").write_bytes(b"of an interrupted one")

    def fails(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    if not links:
        monkeypatch.setattr(os, "link", fails)
    reading.main(["mend", str(good.parent), *map(str, bad)])
    for path in bad:
        assert path.read_bytes() == b"bad bytes"
        assert path.samefile(good) is links
        assert list(path.parent.iterdir()) == [path]


def test_its_text_runs_in_a_bare_python(tmp_path: Path) -> None:
    bad = put(tmp_path / "a", b"bad bytes", changed=True)
    text = Path(reading.__file__).read_text(encoding="utf-8")
    command = [sys.executable, "-I", "-S", "-c", text, "read", str(tmp_path / "a")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [str(bad)]
