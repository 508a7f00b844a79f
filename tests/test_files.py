"""Atomic output: the whole file, or the old one."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edgeslm.errors import OutputFailure
from edgeslm.files import atomic_path


def test_appears_only_when_complete(tmp_path):
    target = tmp_path / "out.bin"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"data")
        assert temporary.parent == tmp_path
        assert not target.exists()
    assert target.read_bytes() == b"data"
    assert [item.name for item in tmp_path.iterdir()] == ["out.bin"]


def test_permissions_are_those_of_a_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "out"):
        pass
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "out")]
    assert modes[0] == modes[1]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with atomic_path(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_failure_removes_the_temporary_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "out"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_refuses_what_cannot_be_a_file(tmp_path):
    with pytest.raises(OutputFailure, match="it is a directory"), atomic_path(tmp_path):
        pass
    with pytest.raises(OutputFailure, match="not a regular file"), atomic_path(Path("/dev/null")):
        pass


def test_a_missing_folder_is_named_before_the_work_starts(tmp_path):
    started = False
    with (
        pytest.raises(OutputFailure, match="there is no folder") as caught,
        atomic_path(tmp_path / "no" / "out"),
    ):
        started = True
    assert not started
    assert "mkdir -p" in (caught.value.hint or "")


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(OutputFailure, match="too long"), atomic_path(tmp_path / ("x" * 300)):
        pass
