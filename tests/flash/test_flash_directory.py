from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeslm import files
from edgeslm.bundle.runtimes import RuntimeList
from edgeslm.bundle.verification import verify_bundle
from edgeslm.errors import Failure, NotFound, OutputFailure, Unsupported
from edgeslm.flash import directory
from edgeslm.flash.carried import Carried, opened
from edgeslm.flash.directory import (
    Place,
    file_system_of,
    look,
    plan_directory,
    tree_for,
    write_directory,
)
from edgeslm.flash.plan import Report
from edgeslm.flash.runtimes import Brought, find_runtimes
from edgeslm.flash.tree import Entry, Tree


@pytest.fixture
def plain(runtime: Path, tmp_path: Path) -> Path:
    """A runtime without links."""
    folder = tmp_path / "runtime"
    shutil.copytree(runtime, folder, symlinks=True)
    (folder / "site" / "alias").unlink()
    return folder


def given(carried: Carried, runtime: Path | None) -> Brought | None:
    return None if runtime is None else find_runtimes(carried.folder, runtime)


def flash(packed: Path, runtime: Path | None, card: Path) -> Report:
    with opened(packed, card / "x") as carried:
        tree, place = tree_for(carried, given(carried, runtime), card), look(card)
        return write_directory(plan_directory(carried, place, tree), place, tree)


def test_what_is_on_the_card(packed: Path, plain: Path, tmp_path: Path) -> None:
    card = tmp_path / "card"
    card.mkdir()
    (card / "holiday.jpg").write_bytes(b"mine")
    report = flash(packed, plain, card)

    assert verify_bundle(card / "edgeslm" / "bundle") == verify_bundle(packed)
    assert os.access(card / "edgeslm/runtime/bin/edgeslm", os.X_OK)
    readme = (card / "edgeslm/README.txt").read_text()
    assert readme.count("\n") == 2
    assert "PYTHONPATH=runtime/site python3.13 -s -m edgeslm serve bundle" in readme
    assert (card / "holiday.jpg").read_bytes() == b"mine"
    assert report.written_bytes == report.verified_bytes == report.plan.steps[0].bytes > 0


def test_a_runtime_for_each_python_that_may_be_there(
    packed: Path, brought: Brought, tmp_path: Path
) -> None:
    card = tmp_path / "card"
    card.mkdir()
    with opened(packed, card / "x") as carried:
        tree, place = tree_for(carried, brought, tmp_path / "scratch"), look(card)
        write_directory(plan_directory(carried, place, tree), place, tree)

    readme = (card / "edgeslm/README.txt").read_text()
    for python in ("3.11", "3.13"):
        assert f"PYTHONPATH=runtime-{python}/site python{python} -s -m edgeslm serve" in readme
        assert (card / f"edgeslm/runtime-{python}/site/fast.py").exists()
    flash(packed, None, card)
    assert not list((card / "edgeslm").rglob("fast.py"))
    others = RuntimeList("", "", (), (replace(brought.listed.runtimes[0], architecture="x86_64"),))
    with pytest.raises(Unsupported, match="no runtime for aarch64"):
        tree_for(carried, replace(brought, listed=others), tmp_path / "other")


def test_what_is_there_already_is_not_written_again(
    packed: Path, plain: Path, tmp_path: Path
) -> None:
    card = tmp_path / "card"
    card.mkdir()
    flash(packed, plain, card)
    model = max((card / "edgeslm").rglob("*"), key=lambda path: path.stat().st_size)
    before = model.stat().st_mtime_ns
    again = flash(packed, plain, card)

    assert (again.written_bytes, again.plan.steps[0].bytes) == (0, 0)
    assert again.verified_bytes > 0
    data = bytearray(model.read_bytes())
    data[5] ^= 1
    model.write_bytes(data)
    assert flash(packed, plain, card).written_bytes == len(data)
    assert model.stat().st_mtime_ns > before


def test_files_of_an_earlier_bundle_go_and_others_stay(
    packed: Path, plain: Path, tmp_path: Path
) -> None:
    card = tmp_path / "card"
    old = card / "edgeslm" / "bundle" / "blobs" / "sha256"
    old.mkdir(parents=True)
    (old / ("0" * 64)).write_bytes(b"an old model")
    mine = [card / "edgeslm" / name for name in ("notes.txt", "runtime-notes.txt")]
    for path in mine:
        path.write_text("mine")
    earlier = card / "edgeslm" / "runtime-3.9" / "site" / "old.py"
    earlier.parent.mkdir(parents=True)
    earlier.touch()
    flash(packed, plain, card)

    assert not (old / ("0" * 64)).exists() and not earlier.exists()
    assert all(path.exists() for path in mine)


def test_no_room(packed: Path, plain: Path, tmp_path: Path) -> None:
    with opened(packed, tmp_path / "x") as carried:
        tree = tree_for(carried, given(carried, plain), tmp_path)
        place = Place(tmp_path, tree.bytes - 1, "ext4", {})
        with pytest.raises(OutputFailure, match="no room"):
            plan_directory(carried, place, tree)
        plan_directory(carried, replace(place, free_bytes=tree.bytes), tree)


def test_fat_holds_no_large_file(packed: Path, plain: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(4 << 30)
    tree = Tree.of([Entry("edgeslm/bundle/x", large)])
    with opened(packed, tmp_path / "x") as carried:
        place = Place(tmp_path, 1 << 40, "vfat", {})
        with pytest.raises(OutputFailure, match=r"FAT, which holds no file over 4 GiB.*4.29 GB"):
            plan_directory(carried, place, tree)
        plan_directory(carried, replace(place, file_system="exfat"), tree)


def test_the_file_system_of_a_folder() -> None:
    mounts = (
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "23 22 8:17 / /media/me/My\\040stick rw shared:1 - vfat /dev/sdb1 rw\n"
        "24 22 0:5 / /media rw - tmpfs tmpfs rw\n"
    )

    assert file_system_of(Path("/media/me/My stick/a/b"), mounts) == "vfat"
    assert file_system_of(Path("/media/me/My stick"), mounts) == "vfat"
    assert file_system_of(Path("/media/other"), mounts) == "tmpfs"
    assert file_system_of(Path("/mediawiki"), mounts) == "ext4"
    assert file_system_of(Path("/x"), "") == ""


def test_a_link_in_the_runtime_is_refused(packed: Path, runtime: Path, tmp_path: Path) -> None:
    with opened(packed, tmp_path / "x") as carried, pytest.raises(Unsupported, match="a link"):
        tree_for(carried, given(carried, runtime), tmp_path)


@pytest.mark.parametrize("name", ["edgeslm", "edgeslm/bundle/blobs", "edgeslm/README.txt"])
def test_a_link_on_the_card_that_leads_out_of_it(
    packed: Path, plain: Path, tmp_path: Path, name: str
) -> None:
    card, other = tmp_path / "card", tmp_path / "other"
    (card / name).parent.mkdir(parents=True)
    other.mkdir()
    (card / name).symlink_to(other / "precious" if name.endswith("txt") else other)

    with pytest.raises(OutputFailure, match="is a link"):
        flash(packed, plain, card)
    assert list(other.iterdir()) == []


def test_a_program_is_one_as_soon_as_it_has_its_name(
    packed: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, modes = tmp_path / "card", list[int]()
    card.mkdir()
    real = files.sync

    def sync(path: Path) -> None:
        """The folder is told to hold a name: nothing may be left to do for that file then."""
        real(path)
        program = card / "edgeslm/runtime/bin/edgeslm"
        if program.exists():
            modes.append(program.stat().st_mode & 0o777)

    monkeypatch.setattr(files, "sync", sync)
    flash(packed, plain, card)
    assert set(modes) == {0o755}


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        look(tmp_path / "nowhere")


def test_what_reads_back_differently_is_told(
    packed: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = tmp_path / "card"
    card.mkdir()
    monkeypatch.setattr(directory, "_pieces", lambda entry: iter([bytes(entry.size)]))

    with pytest.raises(Failure, match="reads back differently"):
        flash(packed, plain, card)


def test_interrupted_it_leaves_no_half_file_and_goes_on(
    packed: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, real = tmp_path / "card", directory._pieces
    card.mkdir()
    site = card / "edgeslm" / "runtime" / "site"

    def pieces(entry: Entry) -> Iterator[bytes]:
        """The file's beginning; then the user loses patience."""
        if entry.path.endswith("native.so"):
            yield b"half of it"
            assert list(card.rglob(".edgeslm-*"))
            raise KeyboardInterrupt
        yield from real(entry)

    monkeypatch.setattr(directory, "_pieces", pieces)
    with pytest.raises(KeyboardInterrupt):
        flash(packed, plain, card)
    assert not (site / "edgeslm" / "native.so").exists()
    assert list(card.rglob(".edgeslm-*")) == []
    assert list((card / "edgeslm/bundle/blobs/sha256").iterdir())
    assert not (card / "edgeslm/bundle/index.json").exists()
    monkeypatch.undo()
    report = flash(packed, plain, card)
    assert 0 < report.written_bytes < report.verified_bytes
    assert verify_bundle(card / "edgeslm" / "bundle").contents.digest
