from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import boards
import pytest

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.groups import Group, GroupFigures, limited_group, read_figures
from edgeslm.targets.control_groups import control_groups

MIB = 1 << 20
V1 = {
    "memory.max_usage_in_bytes": "104857600\n",
    "memory.failcnt": "15\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    "memory.stat": "cache 4096\npgfault 900\npgmajfault 80\nworkingset_refault_anon 5\n"
    "workingset_refault_file 7000\n",
}
V2 = {
    "memory.peak": "104857600\n",
    "memory.events": "low 0\nhigh 0\nmax 15\noom 1\noom_kill 1\noom_group_kill 0\n",
    "memory.stat": "anon 4096\npgfault 900\npgmajfault 80\nworkingset_refault_anon 5\n"
    "workingset_refault_file 7000\n",
}


@pytest.mark.parametrize("files", [V1, V2], ids=["v1", "v2"])
def test_figures_of_either_version(files: dict[str, str], tmp_path: Path) -> None:
    found = read_figures(boards.lay_out(files, tmp_path))
    assert found == GroupFigures(104857600, 15, 1, 900, 80, 7000)


def test_what_the_kernel_does_not_tell_is_unknown(tmp_path: Path) -> None:
    assert read_figures(tmp_path) == GroupFigures(None, None, None, None, None, None)


def _own_folders() -> list[Path]:
    name = f"edgeslm-limit-{os.getpid()}"
    return [
        group.folder / name for group in control_groups("memory") if (group.folder / name).exists()
    ]


def _run(group: Group, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        group.command([sys.executable, "-c", code]), capture_output=True, text=True, check=False
    )


def _skip_without_groups() -> None:
    try:
        with limited_group(64 * MIB):
            return
    except MeasurementFailure as failure:
        pytest.skip(failure.message)


def test_a_program_in_a_group_gets_no_more_than_the_limit() -> None:
    _skip_without_groups()
    with limited_group(64 * MIB) as group:
        modest = _run(group, "x = bytearray(20 << 20); print(len(x))")
        assert modest.stdout == f"{20 << 20}\n"
        assert group.figures().oom_kills == 0
        greedy = _run(group, "x = bytearray(100 << 20); print(len(x))")
        assert greedy.returncode in (-9, 137)
        assert greedy.stdout == ""
        found = group.figures()
    assert found.oom_kills == 1
    assert found.peak_bytes is not None
    assert 20 * MIB < found.peak_bytes <= 64 * MIB
    assert found.page_faults
    assert found.limit_hits
    assert not _own_folders()


def test_a_group_ends_with_whatever_is_left_in_it() -> None:
    _skip_without_groups()
    with pytest.raises(KeyboardInterrupt), limited_group(64 * MIB) as group:
        left = subprocess.Popen(group.command(["sleep", "600"]))
        while not any(
            f"{left.pid}" in (folder / "cgroup.procs").read_text().split()
            for folder in _own_folders()
        ):
            assert left.poll() is None
        raise KeyboardInterrupt
    assert left.wait(timeout=10) == -9
    assert not _own_folders()


def test_what_a_killed_process_left_behind_goes() -> None:
    _skip_without_groups()
    above = control_groups("memory")[0].folder
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    stale = above / f"edgeslm-limit-{int(done.stdout)}"
    try:
        stale.mkdir()
    except OSError:
        pytest.skip("groups are made elsewhere here")
    with limited_group(64 * MIB):
        assert not stale.exists()


def test_a_machine_without_groups_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeasurementFailure) as caught, limited_group(64 * MIB, tmp_path):
        raise AssertionError("there is none")
    assert "no memory control groups" in caught.value.message
    assert "systemd-run" in caught.value.message
    assert caught.value.hint


def test_groups_of_version_2_that_nobody_delegated_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = "30 20 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    root = boards.lay_out(
        {
            "proc/self/cgroup": "0::/user.slice/session-1.scope\n",
            "proc/self/mountinfo": mount,
            "sys/fs/cgroup/user.slice/cgroup.controllers": "cpu memory\n",
            "sys/fs/cgroup/user.slice/cgroup.subtree_control": "pids\n",
            "sys/fs/cgroup/user.slice/session-1.scope/cgroup.controllers": "pids\n",
            "sys/fs/cgroup/user.slice/session-1.scope/cgroup.subtree_control": "\n",
        },
        tmp_path,
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeasurementFailure) as caught, limited_group(64 * MIB, root):
        raise AssertionError("there is none")
    assert caught.value.message.count("cannot limit memory") == 2


def _with_systemd(folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None) -> Path:
    """A tree without groups of its own, where scopes are given `limit`; what runs there is real."""
    files = {"proc/self/cgroup": "0::/user.slice/a.scope\n"}
    files |= {} if limit is None else {"sys/fs/cgroup/user.slice/a.scope/memory.max": limit}
    programs = folder / "programs"
    programs.mkdir()
    run = programs / "systemd-run"
    run.write_text('#!/bin/sh\nwhile [ "$1" != sh ]; do shift; done\nexec "$@"\n')
    run.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return boards.lay_out(files, folder / "root")


@pytest.mark.parametrize("limit", ["max\n", f"{65 * MIB}\n", None])
def test_a_scope_that_limits_nothing_is_none(
    limit: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _with_systemd(tmp_path, monkeypatch, limit)
    with pytest.raises(MeasurementFailure) as caught, limited_group(64 * MIB, root):
        raise AssertionError("it limits nothing")
    assert "do not limit memory" in caught.value.message
    assert "cgroup_enable=memory" in (caught.value.hint or "")


def test_a_scope_that_limits_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _with_systemd(tmp_path, monkeypatch, f"{64 * MIB}\n")
    boards.lay_out({f"sys/fs/cgroup/user.slice/a.scope/{n}": v for n, v in V2.items()}, root)
    with limited_group(64 * MIB, root) as group:
        assert group.kind == "scope of systemd"
        assert _run(group, "print(3); raise SystemExit(4)").returncode == 4
        assert group.figures() == GroupFigures(104857600, 15, 1, 900, 80, 7000)


def test_a_scope_that_is_ended_ends_its_program_and_tells_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _with_systemd(tmp_path, monkeypatch, f"{64 * MIB}\n")
    boards.lay_out({f"sys/fs/cgroup/user.slice/a.scope/{n}": v for n, v in V2.items()}, root)
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with limited_group(64 * MIB, root) as group:
        running = subprocess.Popen(
            group.command([sys.executable, "-c", code]), stdout=subprocess.PIPE, text=True
        )
        assert running.stdout is not None
        number = int(running.stdout.readline())
        running.terminate()
        assert running.wait(20) == 143
        assert group.figures().oom_kills == 1
    assert not Path(f"/proc/{number}").exists()


@pytest.mark.parametrize("known", [True, False])
def test_a_scope_goes_on_after_a_kill_where_systemd_can_do_that(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that its figures are copied; older ones do not know the setting."""
    root = _with_systemd(tmp_path, monkeypatch, f"{64 * MIB}\n")
    if not known:
        run = tmp_path / "programs" / "systemd-run"
        refuse = 'case "$*" in *OOMPolicy*) echo "Unknown assignment" >&2; exit 1 ;; esac\n'
        run.write_text(run.read_text().replace("while", f"{refuse}while", 1))
    with limited_group(64 * MIB, root) as group:
        command = group.command(["true"])
    assert ("OOMPolicy=continue" in command) == known
