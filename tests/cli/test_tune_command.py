"""What `tune` keeps is used by the other commands, shown and forgotten."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from edgeslm.testing import tiny_gguf

Edgeslm = Callable[..., subprocess.CompletedProcess[str]]
ROUGH = ("--quick", "--threads", 1, "--context", 256, "--anyway")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tuned"


def test_tuned_used_shown_forgotten(
    edgeslm: Edgeslm, tiny_model: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    assert "nothing is kept" in edgeslm("tune", tiny_model, "--show").stdout
    done = edgeslm("tune", tiny_model, *ROUGH, "--json")
    assert done.returncode == 0, done.stderr
    tuning = json.loads(done.stdout)
    choice = tuning["tuned"]["choice"]
    assert (choice["threads"], tuning["replaced"]) == (1, None)
    assert [str(path) for path in own_cache.iterdir()] == [tuning["kept"]]

    shown = json.loads(edgeslm("tune", tiny_model, "--show", "--json").stdout)
    assert shown["kept"]["choice"] == choice
    table = edgeslm("tune", tiny_model, "--show").stdout
    assert "best" in table
    assert "speeds with a KV cache of type F16" in table

    ran = json.loads(edgeslm("run", tiny_model, "-p", "a", "-n", 2, "--json").stdout)
    assert ran["settings"]["tuned"] is True
    assert ran["settings"]["ubatch"] == choice["ubatch"]
    profiled = json.loads(
        edgeslm("profile", tiny_model, "-p", 8, "-n", 2, "-r", 1, "--json").stdout
    )
    for name in ("threads", "prefill_threads", "ubatch"):
        assert profiled["settings"][name] == choice[name]

    again = edgeslm("tune", tiny_model, *ROUGH)
    assert "it replaces threads 1, prefill 1" in again.stdout
    assert "removed" in edgeslm("tune", tiny_model, "--forget").stdout
    assert "nothing was kept" in edgeslm("tune", tiny_model, "--forget").stdout
    assert list(own_cache.iterdir()) == []


def test_a_damaged_file_stops_nobody_and_is_named(
    edgeslm: Edgeslm, tiny_model: Path, own_cache: Path
) -> None:
    assert edgeslm("tune", tiny_model, *ROUGH).returncode == 0
    (kept,) = own_cache.iterdir()
    kept.write_text(kept.read_text()[:100])
    ran = edgeslm("run", tiny_model, "-p", "a", "-n", 2, "-t", 1, "--json")
    assert json.loads(ran.stdout)["settings"]["tuned"] is False
    assert "tune" not in ran.stderr
    shown = edgeslm("tune", tiny_model, "--show")
    assert shown.returncode == 1
    assert str(kept) in shown.stderr
    assert "hint: " in shown.stderr
    assert "removed" in edgeslm("tune", tiny_model, "--forget").stdout


def _wait_until_it_computes(number: int, model: Path) -> None:
    """Return once a process has mapped the model itself, and computed for a while since."""
    process = psutil.Process(number)

    def seconds_with_model() -> float | None:
        mapped = any(each.path == str(model) for each in process.memory_maps())
        return process.cpu_times().user if mapped else None

    deadline = time.monotonic() + 60
    while (before := seconds_with_model()) is None:
        assert time.monotonic() < deadline, "it never opened the model"
        time.sleep(0.05)
    while process.cpu_times().user < before + 0.5:
        assert time.monotonic() < deadline, "it never computed"
        time.sleep(0.05)


def test_ctrl_c_leaves_nothing(tmp_path: Path, own_cache: Path) -> None:
    slow = tiny_gguf(tmp_path / "slow.gguf", layers=8, width=256, heads=4, feed_forward=1024)
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeslm", "tune", str(slow), "--threads", "1", "--anyway"],
        env=os.environ | {"NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_until_it_computes(process.pid, slow)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == ""
    assert "Traceback" not in complained
    assert not own_cache.exists()


def test_what_lasts_is_written_as_json(edgeslm: Edgeslm, tiny_model: Path) -> None:
    edgeslm("tune", tiny_model, *ROUGH)
    done = edgeslm("tune", tiny_model, "--sustained", 3, "--json")
    found = json.loads(done.stdout)
    assert found["schema"] == "edgeslm.sustained/1"
    assert found["peak"] >= found["sustained"]["median"] > 0
    assert found["threads"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--show", "--forget"), "exclude each other"),
        (("--context", 10), "too short to tune with"),
        (("--threads", 0), "0 threads"),
        (("--sustained", 1), "too short to tell"),
        (("--sustained", "nan"), "nan seconds are no time"),
        (("--sustained", "inf"), "inf seconds are no time"),
    ],
)
def test_mistakes_are_told(
    edgeslm: Edgeslm, tiny_model: Path, arguments: tuple[object, ...], words: str
) -> None:
    done = edgeslm("tune", tiny_model, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "hint: " in done.stderr


def test_the_type_of_the_cache_is_tuned_only_where_asked_for(
    edgeslm: Edgeslm, tiny_model: Path
) -> None:
    asked = edgeslm("run", tiny_model, "-p", "a", "-n", 2, "-t", 1, "--kv-type", "auto", "--json")
    assert json.loads(asked.stdout)["settings"]["kv_type"] == "F16"
    assert edgeslm("run", tiny_model, "-p", "a", "--kv-type", "Q9").returncode == 2
