"""One directory for another: only a bundle, only when complete, whenever the process dies."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest
from test_directory import make_earlier

from edgeslm.bundle import replacing
from edgeslm.bundle.planning import Parts
from edgeslm.bundle.replacing import ensure_replaceable
from edgeslm.bundle.verification import verify_bundle
from edgeslm.bundle.writing import unpack_bundle, write_bundle
from edgeslm.errors import EdgeslmError, OutputFailure
from edgeslm.testing import tiny_gguf


def test_a_bundle_is_replaced(packed: Path, tmp_path: Path) -> None:
    other = tiny_gguf(tmp_path / "other.gguf", layers=1, seed=1)
    contents = write_bundle(packed, Parts(other))
    assert verify_bundle(packed).contents == contents
    (tmp_path / "plain").mkdir()
    assert packed.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".edgeslm")]


def test_so_is_a_packed_directory_of_earlier(tmp_path: Path, model: Path) -> None:
    place = make_earlier(tmp_path / "place", b"GGUF")
    (place / "precious").touch()
    with pytest.raises(OutputFailure, match="precious"):
        ensure_replaceable(place)
    (place / "precious").unlink()
    write_bundle(place, Parts(model))
    verify_bundle(place)


@pytest.mark.parametrize("renames", [1, 2])
def test_an_exchange_that_was_killed_is_settled(
    tmp_path: Path, model: Path, packed: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """After the first of two renames the old bundle comes back, after the second it goes."""
    count = 0
    rename = Path.rename

    def dying(path: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count > renames:
            raise SystemExit
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        patch.setattr(replacing.shutil, "rmtree", lambda *_, **__: None)
        with contextlib.suppress(SystemExit):
            write_bundle(packed, Parts(model))
    hidden = [path for path in tmp_path.iterdir() if path.suffix == ".old"]
    assert len(hidden) == 1
    assert packed.exists() == (renames == 2)
    write_bundle(packed, Parts(model))
    verify_bundle(packed)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".old"]


@pytest.mark.parametrize("way", ["write", "unpack"])
def test_the_disk_holds_the_new_one_before_the_old_one_goes(
    tmp_path: Path, model: Path, packed: Path, tar: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    done: list[str] = []
    rename, remove, sync = Path.rename, shutil.rmtree, os.fsync

    def noting_sync(descriptor: int) -> None:
        sync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def noting_rename(path: Path, target: Path) -> Path:
        if target == packed:
            there = [path, *path.rglob("*")]
            assert not [each for each in there if each.stat().st_ino not in synced]
            done.append("renamed")
            synced.discard(tmp_path.stat().st_ino)
        return rename(path, target)

    def noting_remove(path: Path, **more: bool) -> None:
        if path.suffix == ".old" and path.exists():
            assert tmp_path.stat().st_ino in synced
            done.append("removed")
        remove(path, **more)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(Path, "rename", noting_rename)
    monkeypatch.setattr(shutil, "rmtree", noting_remove)
    if way == "write":
        moved = tmp_path / "moved.gguf"
        shutil.copyfile(model, moved)
        write_bundle(packed, Parts(moved, move=True), sign=lambda _image: b"{}")
    else:
        unpack_bundle(tar, packed)
    assert done == ["renamed", "removed"]


def test_anything_else_is_left_alone(tmp_path: Path, model: Path, packed: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    ensure_replaceable(folder)
    (folder / "precious").write_text("1")
    (packed / "blobs" / "sha256" / ("0" * 64)).write_text("1")
    for directory in (folder, packed, model):
        with pytest.raises(OutputFailure, match="cannot write"):
            ensure_replaceable(directory)
        with pytest.raises(OutputFailure, match="cannot write"):
            write_bundle(directory, Parts(model))
    assert (folder / "precious").exists()
    (packed / "index.json").write_text("{}")
    with pytest.raises(OutputFailure, match="no bundle"):
        ensure_replaceable(packed)


def test_a_name_too_long_for_the_disk(tmp_path: Path) -> None:
    with pytest.raises(EdgeslmError, match="too long"):
        ensure_replaceable(tmp_path / ("x" * 300))
