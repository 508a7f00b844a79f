from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import boards
import pytest

from edgeslm.errors import InvalidOption, MeasurementFailure
from edgeslm.files import small_text
from edgeslm.profiling.groups import GroupFigures, limited_group
from edgeslm.profiling.limited import describe, profile_limited
from edgeslm.profiling.measurement import Measurement
from edgeslm.profiling.profile import ProfileOptions, profile
from edgeslm.profiling.speed import speed_of
from edgeslm.targets.control_groups import control_groups

MIB = 1 << 20
SHORT = ProfileOptions(
    threads=1,
    prompt_tokens=16,
    generated_tokens=4,
    repeats=2,
    idle_seconds=0,
    most_repeats=None,
    warm_up_seconds=0,
)
FIGURES = GroupFigures(100 * MIB, 12, 0, 900, 80, 7000)


@pytest.fixture
def groups() -> None:
    try:
        with limited_group(64 * MIB):
            return
    except MeasurementFailure as failure:
        pytest.skip(failure.message)


@pytest.fixture(scope="module")
def measured(tiny_model: Path) -> Measurement:
    return profile(tiny_model, SHORT)


def _at(measured: Measurement, seconds: float, read_bytes: int | None) -> Measurement:
    """A run of ten tokens that took so long, with a file of 100 MB and so much read."""
    speed = speed_of(10, [seconds] * 2)
    return replace(
        measured,
        model=replace(measured.model, file_bytes=100_000_000),
        prefill=speed,
        decode=speed,
        depths=(replace(measured.depths[0], prefill=speed, decode=speed),),
        conditions=replace(
            measured.conditions, read_bytes=read_bytes, observed_seconds=4 * seconds
        ),
    )


def test_full_speed_fits(measured: Measurement) -> None:
    limited, free = _at(measured, 1.05, 0), _at(measured, 1.0, 0)
    found = describe(limited, free, FIGURES, 512 * MIB, "a group", copied=False)
    assert found.verdict == "fits"
    assert found.summary == "fits: full speed (9.52 tokens/s)"
    assert (found.peak_bytes, found.limit_hits, found.refaults) == (100 * MIB, 12, 7000)
    assert found.unlimited_tokens_per_second == 10


def test_a_model_read_again_and_again_thrashes(measured: Measurement) -> None:
    limited, free = _at(measured, 20.0, 8_000_000_000), _at(measured, 1.0, 0)
    found = describe(limited, free, FIGURES, 100 * MIB, "a group", copied=True)
    assert found.verdict == "thrashes"
    assert "read again and again, 100 MB/s from disk" in found.summary
    assert "decode at 5.0% of unlimited (0.500 tokens/s)" in found.summary
    assert found.read_bytes_per_second == pytest.approx(8e9 / 80)
    assert found.copied


def test_what_was_read_in_longer_stretches_is_divided_by_their_time_too(
    measured: Measurement,
) -> None:
    limited = _at(measured, 20.0, 8_000_000_000)
    limited = replace(limited, conditions=replace(limited.conditions, observed_seconds=160.0))
    found = describe(limited, _at(measured, 1.0, 0), FIGURES, MIB, "a group", copied=False)
    assert found.read_bytes_per_second == pytest.approx(8e9 / 160)
    assert "50.0 MB/s" in found.summary


def test_slow_without_reading_is_not_the_memory(measured: Measurement) -> None:
    limited, free = _at(measured, 2.0, 1_000_000), _at(measured, 1.0, 0)
    found = describe(limited, free, FIGURES, 100 * MIB, "a group", copied=False)
    assert found.verdict == "fits"
    assert "hardly anything is read from the disk, but decode at 50.0%" in found.summary


def test_faults_tell_where_reads_are_not_counted(measured: Measurement) -> None:
    limited = _at(measured, 20.0, None)
    limited = replace(limited, conditions=replace(limited.conditions, major_faults=50_000))
    found = describe(limited, _at(measured, 1.0, 0), FIGURES, 100 * MIB, "a group", copied=False)
    assert found.verdict == "thrashes"


def test_killed(measured: Measurement) -> None:
    found = describe(None, measured, FIGURES, 50_000_000, "a group", copied=False)
    assert (found.verdict, found.decode_tokens_per_second) == ("killed", None)
    assert found.summary == "killed by the kernel: it needs more than 50.0 MB"


@pytest.mark.usefixtures("groups")
def test_a_tiny_model_fits(tiny_model: Path) -> None:
    found = profile_limited(tiny_model, SHORT, 512 * MIB)
    limit = found.memory.limit
    assert limit is not None
    assert limit.verdict == "fits"
    assert limit.oom_kills == 0
    assert limit.peak_bytes is not None
    # What is resident of the model is charged to the group; Python's own libraries may not be.
    assert tiny_model.stat().st_size < limit.peak_bytes < 512 * MIB
    assert found.model.path == tiny_model
    assert found.settings.budget_seconds == 60
    assert not _own_folders()


@pytest.mark.usefixtures("groups")
def test_too_little_memory_even_for_python_is_told_as_killed(tiny_model: Path) -> None:
    found = profile_limited(tiny_model, SHORT, 12 * MIB)
    limit = found.memory.limit
    assert limit is not None
    assert limit.verdict == "killed"
    assert limit.oom_kills
    assert found.tainted
    assert "those without a limit" in found.taints[-1]
    assert not _own_folders()


@pytest.mark.usefixtures("groups")
def test_what_a_child_says_is_said_again(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(MeasurementFailure, match="KV cache") as caught:
        profile_limited(tiny_model, replace(SHORT, kv_type="Q9"), 512 * MIB)
    assert caught.value.hint
    assert not _own_folders()


@pytest.mark.parametrize("limit", [1, MIB - 1])
def test_no_program_runs_in_so_little(limit: int, tiny_model: Path) -> None:
    with pytest.raises(InvalidOption):
        profile_limited(tiny_model, SHORT, limit)


def test_without_groups_nothing_runs(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeasurementFailure, match="no control group"):
        profile_limited(tiny_model, SHORT, 512 * MIB, root=tmp_path)


@pytest.mark.usefixtures("groups")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_group(number: int, tiny_model: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "edgeslm",
        "profile",
        str(tiny_model),
        "--memory-limit",
        "512M",
    ]
    running = subprocess.Popen(
        [*command, "-t", "1", "-r", "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    folders = _wait_for_folders(running)
    running.send_signal(number)
    _, words = running.communicate(timeout=60)
    assert running.returncode == (130 if number == signal.SIGINT else 128 + number)
    assert b"Traceback" not in words
    assert folders
    assert not any(folder.exists() for folder in folders)


@pytest.mark.usefixtures("groups")
def test_a_child_ends_with_who_started_it(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "watched.gguf"
    os.link(tiny_model, model)
    command = [sys.executable, "-m", "edgeslm", "profile", str(model), "--memory-limit", "512M"]
    command += ["-t", "1", "-r", "1000000", "--budget", "600"]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_for_folders(running)
        _wait_until(lambda: bool(_mapping(model) - {running.pid}))
        time.sleep(2)  # what it has to say first would end it too, since nobody listens
    finally:
        running.kill()
        running.wait()
    _wait_until(lambda: not _commands_with(model))
    with limited_group(64 * MIB):
        assert not _own_folders(running.pid)


def test_a_scope_that_is_ended_for_want_of_memory_was_killed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd ends all that is in it, and nothing is left to copy its figures."""
    run = tmp_path / "programs" / "systemd-run"
    files = {
        "root/proc/self/cgroup": "0::/a.scope\n",
        "root/sys/fs/cgroup/a.scope/memory.max": f"{512 * MIB}\n",
        "programs/systemd-run": '#!/bin/sh\nwhile [ "$1" != sh ]; do shift; done\n'
        'case "$*" in *profile*) kill -TERM $$ ;; esac\nexec "$@"\n',
    }
    boards.lay_out(files, tmp_path)
    run.chmod(0o755)
    monkeypatch.setenv("PATH", f"{run.parent}:{os.environ['PATH']}")
    limit = profile_limited(tiny_model, SHORT, 512 * MIB, root=tmp_path / "root").memory.limit
    assert limit is not None
    assert (limit.verdict, limit.oom_kills) == ("killed", None)


@pytest.mark.parametrize("changes", [{"batch": 256}, {"ubatch": 64}])
def test_what_no_option_says_is_refused(changes: dict[str, int], tiny_model: Path) -> None:
    with pytest.raises(InvalidOption, match="batch"):
        profile_limited(tiny_model, replace(SHORT, **changes), 512 * MIB)


@pytest.mark.slow
@pytest.mark.usefixtures("groups")
def test_the_demo_model_in_512_200_and_100_megabytes() -> None:
    given = os.environ.get("EDGESLM_SMOLLM2_GGUF")
    if not given:
        pytest.skip("EDGESLM_SMOLLM2_GGUF names no model")
    options = ProfileOptions(threads=1, prompt_tokens=64, generated_tokens=32, repeats=3)
    limits = [
        profile_limited(Path(given), options, size * 1_000_000).memory.limit
        for size in (512, 200, 100)
    ]
    assert [limit and limit.verdict for limit in limits] == ["fits", "fits", "thrashes"]
    last = limits[-1]
    assert last is not None
    assert last.decode_tokens_per_second is not None
    assert last.decode_tokens_per_second < 0.2 * last.unlimited_tokens_per_second
    assert last.refaults


def _own_folders(number: int | None = None) -> list[Path]:
    """The groups of a process; None for this one."""
    name = f"edgeslm-limit-{number or os.getpid()}"
    return [
        group.folder / name for group in control_groups("memory") if (group.folder / name).exists()
    ]


def _wait_for_folders(running: subprocess.Popen[bytes]) -> list[Path]:
    while not _own_folders(running.pid):
        assert running.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    return _own_folders(running.pid)


def _commands_with(path: Path) -> list[str]:
    """The command lines of processes that name a file."""
    found = [small_text(each / "cmdline") for each in Path("/proc").glob("[0-9]*")]
    return [words for words in found if str(path) in words]


def _mapping(path: Path) -> set[int]:
    """The processes that have a file mapped."""
    found = Path("/proc").glob("[0-9]*/maps")
    return {int(each.parent.name) for each in found if str(path) in small_text(each)}


def _wait_until(done: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)
