"""The demo model answers in a control group with little memory, and says how it got there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
GROUPS = Path("/sys/fs/cgroup/memory")
MIB = 2**20


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of version 1, which counts the pages of files that are read in it."""
    folder = GROUPS / f"edgeslm-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(512 * MIB))
    except OSError:
        pytest.skip("no control group can be made here")
    yield folder
    folder.rmdir()


@pytest.fixture
def cold_model(tmp_path: Path) -> Path:
    """The demo model, in no cache: what is cached already counts for whoever read it first."""
    given = os.environ.get("EDGESLM_SMOLLM2_GGUF")
    if not given:
        pytest.skip("EDGESLM_SMOLLM2_GGUF names no model")
    path = tmp_path / "smollm2.gguf"
    shutil.copyfile(given, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


def _run_in(group: Path, limit: int, model: Path) -> subprocess.CompletedProcess[str]:
    (group / "memory.limit_in_bytes").write_text(str(limit))
    command = [
        *(sys.executable, "-m", "edgeslm", "run", str(model), "-p", "Name the capital of France."),
        *("--temperature", "0", "-n", "16", "--threads", "1"),
    ]
    enter = 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"'
    return subprocess.run(
        ["sh", "-c", enter, "sh", str(group), *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=300,
    )


def _bytes_charged(group: Path) -> int:
    """What was brought into memory in all: each time again if it had to make room meanwhile.

    A model that does not stay in memory is read from the disk for every token: with a limit of 100
    MiB, and told that there is more, it comes to 2 GB in an answer of seven tokens.
    """
    fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(fields["total_pgpgin"]) * os.sysconf("SC_PAGE_SIZE")


def test_the_demo_model_answers_within_150_mebibytes(group: Path, cold_model: Path) -> None:
    done = _run_in(group, 150 * MIB, cold_model)

    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    assert "may be used: the limit of its control group" in done.stderr
    assert "memory: ubatch 512 -> " in done.stderr
    assert _bytes_charged(group) < 4 * 150 * MIB


def test_it_says_nothing_where_there_is_enough(group: Path, cold_model: Path) -> None:
    done = _run_in(group, 512 * MIB, cold_model)

    assert done.returncode == 0, done.stderr
    assert "memory:" not in done.stderr


def test_it_is_refused_before_it_thrashes(group: Path, cold_model: Path) -> None:
    done = _run_in(group, 100 * MIB, cold_model)

    assert done.returncode == 1
    assert done.stdout == ""
    assert "the limit of its control group" in done.stderr
    assert "hint: Free " in done.stderr


def test_plans_of_tiny_models_are_within_five_percent_of_processes() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "scripts/bench_memory", "--json"),
            *("--contexts", "512,2048", "--ubatches", "32,512", "--kv-types", "F16"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    import json

    results = json.loads(done.stdout)
    assert len(results) == 4 * (4 + 2)
    assert max(abs(result["error"]) for result in results) < 0.05
