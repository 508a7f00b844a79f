"""Atomic output: the whole file, or the old one."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgeslm import files
from edgeslm.errors import OutputFailure, UserError
from edgeslm.files import (
    atomic_path,
    cache_folder,
    ensure_writable,
    exclusive,
    sampled_sha256,
    scratch_folder,
    small_text,
    state_folder,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from edgeslm.files import atomic_path, scratch_folder
with scratch_folder(Path("out")) as folder, atomic_path(Path("out")) as temporary:
    (folder / "piece").touch()
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


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


@pytest.mark.parametrize("opened", [atomic_path, scratch_folder])
def test_an_interruption_before_the_block_begins_leaves_nothing(tmp_path, opened):
    """At whichever line of it, as Ctrl-C may come anywhere."""
    for step in range(1000):
        if not _interrupted(step, opened(tmp_path / "out")):
            break
        assert list(tmp_path.iterdir()) == []
    assert step > 20


def _interrupted(step, block):
    steps = iter(range(step))

    def interrupt(frame, event, _argument):
        code = frame.f_code
        if code.co_filename != files.__file__ or code.co_name == "close":
            return None
        if event != "return" and next(steps, None) is None:
            raise KeyboardInterrupt
        return interrupt

    sys.settrace(interrupt)
    try:
        block.__enter__()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    block.__exit__(None, None, None)
    return False


def test_where_nothing_can_be_made_that_is_what_is_said(tmp_path):
    (tmp_path / "file").touch()
    for opened in (atomic_path, scratch_folder):
        with pytest.raises(OutputFailure, match="cannot write"), opened(tmp_path / "file" / "out"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


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


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".edgeslm-*"))) == 2
    with atomic_path(tmp_path / "out") as temporary:
        temporary.write_text("whole")
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_what_is_being_written_stays(tmp_path):
    with (
        scratch_folder(tmp_path / "a") as folder,
        atomic_path(tmp_path / "a") as first,
        atomic_path(tmp_path / "b") as second,
    ):
        first.write_text("a")
        second.write_text("b")
        with atomic_path(tmp_path / "c"):
            pass
        assert folder.is_dir()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a", "b", "c"]


def test_files_of_others_stay(tmp_path):
    (tmp_path / ".edgeslm-notes").touch()
    (tmp_path / "x.tmp").touch()
    with atomic_path(tmp_path / "out"):
        pass
    assert sorted(item.name for item in tmp_path.iterdir()) == [".edgeslm-notes", "out", "x.tmp"]


def test_pipes_and_links_of_others_do_no_harm(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = tmp_path / ".edgeslm-link.tmp"
    link.symlink_to(elsewhere)
    os.mkfifo(tmp_path / ".edgeslm-pipe.tmp")
    with atomic_path(tmp_path / "out"):  # an open that waits for a writer would never end
        pass
    assert link.is_symlink()
    assert elsewhere.is_dir()


def test_nobody_else_looks_into_a_scratch_folder(tmp_path):
    with scratch_folder(tmp_path / "out") as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


HOLDING = """
import sys
from pathlib import Path
from edgeslm.files import exclusive
with exclusive(Path("folder"), lambda: None):
    print("holding", flush=True)
    sys.stdin.read()
    Path("folder/done").touch()
"""


def test_one_process_at_a_time(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDING],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "holding\n"
    waited = []

    def waiting():
        waited.append(1)
        other.stdin.close()

    with exclusive(tmp_path / "folder", waiting):
        assert (tmp_path / "folder" / "done").exists()
    assert waited
    assert other.wait() == 0
    with exclusive(tmp_path / "folder", waiting):
        pass
    assert len(waited) == 1


def test_what_people_did_lies_apart_from_what_can_be_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for kind in ("CACHE", "STATE"):
        monkeypatch.delenv(f"EDGESLM_{kind}", raising=False)
        monkeypatch.delenv(f"XDG_{kind}_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("x") == tmp_path / ".cache/edgeslm/x"
    assert state_folder("x") == tmp_path / ".local/state/edgeslm/x"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert state_folder("x") == Path("/state/edgeslm/x")
    monkeypatch.setenv("EDGESLM_STATE", "/ours")
    assert state_folder("x") == Path("/ours/x")


def test_small_files_of_the_system_are_read_without_their_line_end(tmp_path):
    (tmp_path / "type").write_bytes(b" cpu-\xff\n")
    assert small_text(tmp_path / "type") == "cpu-\N{REPLACEMENT CHARACTER}"
    assert small_text(tmp_path / "none") == small_text(tmp_path) == ""


def test_a_sampled_digest_is_of_the_content(tmp_path):
    data = bytes(range(256)) * 40_000
    one, other = tmp_path / "one.bin", tmp_path / "other.bin"
    for each in (one, other):
        each.write_bytes(data)
    assert sampled_sha256(one) == sampled_sha256(other)
    digests = {sampled_sha256(one)}
    for changed in (b"x" + data[1:], data[:-1] + b"x", data[:-256], data[:5_000_000], b"", b"x"):
        other.write_bytes(changed)
        digests.add(sampled_sha256(other))
    middle = bytearray(data)
    middle[len(data) // 2 : len(data) // 2 + 200_000] = bytes(200_000)
    other.write_bytes(middle)
    assert len(digests | {sampled_sha256(other)}) == 8
    with pytest.raises(UserError, match="no such file"):
        sampled_sha256(tmp_path / "none.bin")


def test_a_sampled_digest_reads_little(tmp_path):
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(1 << 40)  # a hole; read whole it would take many minutes
    assert sampled_sha256(large)


@pytest.mark.parametrize("step", ["_lock", "_empty_file", "_remove", "_check_target"])
def test_an_interruption_while_it_is_tried_whether_a_file_can_be_written(
    tmp_path, monkeypatch, step
):
    usual = getattr(files, step)

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        done = usual(*arguments)
        signal.raise_signal(signal.SIGINT)
        return done

    monkeypatch.setattr(files, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_writable(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_of_the_removal(tmp_path, monkeypatch):
    rmtree, times = files.shutil.rmtree, []

    def interrupted(*arguments, **options):
        times.append(arguments)
        if len(times) == 1:
            raise KeyboardInterrupt
        rmtree(*arguments, **options)

    monkeypatch.setattr(files.shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), scratch_folder(tmp_path / "out") as folder:
        (folder / "piece").touch()
    assert list(tmp_path.iterdir()) == []
