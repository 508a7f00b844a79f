"""`edgeslm bench` as a user calls it: resumed, killed, on machines far away."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.cli.bench import bench
from edgeslm.errors import MeasurementFailure, UserError
from edgeslm.profiling import variants
from edgeslm.profiling.results import load
from edgeslm.targets.detection import detect
from edgeslm.testing import tiny_gguf

sys.path.append(str(Path(__file__).parents[1] / "profiling"))
from machines import SshMachine, find_sshd, start_machine

Edgeslm = Callable[..., "subprocess.CompletedProcess[str]"]

RUNS = """
[runs]
prompt_tokens = 8
generated_tokens = 4
repeats = 2
idle_seconds = 0
warm_up_seconds = 0
[order]
cool_down_seconds = 0
"""


@pytest.fixture(autouse=True)
def _models(tmp_path: Path, tiny_model: Path) -> None:
    os.link(tiny_model, tmp_path / "tiny.gguf")


def write_matrix(folder: Path, axes: str = "", more: str = "") -> Path:
    path = folder / "matrix.toml"
    path.write_text(f'[models]\ntiny = "tiny.gguf"\n[axes]\nthreads = [1]\n{axes}\n{RUNS}{more}')
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_cells_are_measured_once(edgeslm: Edgeslm, tmp_path: Path) -> None:
    write_matrix(tmp_path, 'types = ["original", "q8_0", 9]', "[quantize]\nquick = true\n")
    done = edgeslm("bench", "matrix.toml")
    assert done.returncode == 0, done.stderr
    assert "3 cells measured, 0 failed; 0 were done before" in done.stdout
    written = rows(tmp_path / "matrix.jsonl")
    assert [row["cell"]["type"] for row in written] == ["original", "Q8_0", "9"]
    assert all(row["schema"] == "edgeslm.measurement/1" for row in written)
    bits = [row["model"]["bits_per_weight"] for row in written]
    assert bits[0] == 32
    assert 8.4 < bits[1] < 9.5
    assert 8.4 < bits[2] <= 9
    again = edgeslm("bench", "matrix.toml", "--json")
    assert json.loads(again.stdout)["done_before"] == 3
    assert rows(tmp_path / "matrix.jsonl") == written
    longer = write_matrix(tmp_path, 'types = ["original", "q8_0", 9, "Q4_0"]')
    longer.write_text(longer.read_text() + "[quantize]\nquick = true\n")
    assert "1 cells measured" in edgeslm("bench", "matrix.toml").stdout


def test_a_dry_run_measures_nothing(edgeslm: Edgeslm, tmp_path: Path) -> None:
    write_matrix(tmp_path, 'kv_types = ["F16", "F32"]')
    done = edgeslm("bench", "matrix.toml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 cells to do" in done.stdout
    assert not (tmp_path / "matrix.jsonl").exists()
    listed = json.loads(edgeslm("bench", "matrix.toml", "--dry-run", "--json").stdout)
    assert [cell["kv_type"] for cell in listed["cells"]] == ["F16", "F32"]
    assert all(cell["state"] == "to do" for cell in listed["cells"])
    edgeslm("bench", "matrix.toml")
    assert "0 of 2 cells to do" in edgeslm("bench", "matrix.toml", "--dry-run").stdout


def test_a_cell_that_fails_is_a_row_and_the_next_one_follows(
    edgeslm: Edgeslm, tmp_path: Path
) -> None:
    write_matrix(tmp_path, 'kv_types = ["Q8_0", "F16"]')  # rows of 16 numbers are no block of 32
    done = edgeslm("bench", "matrix.toml")
    assert done.returncode == 1
    assert "1 cells measured, 1 failed" in done.stdout
    assert "warning: tiny original on local (KV Q8_0, 1 threads): llama.cpp" in done.stderr
    assert "hint: " in done.stderr
    assert "--retry" in done.stderr
    failed, measured = rows(tmp_path / "matrix.jsonl")
    assert failed["schema"] == "edgeslm.failure/1"
    assert "block size" in failed["failure"]["reason"]
    assert failed["cell"]["kv_type"] == "Q8_0"
    assert measured["schema"] == "edgeslm.measurement/1"
    edgeslm("bench", "matrix.toml")
    assert len(rows(tmp_path / "matrix.jsonl")) == 2
    edgeslm("bench", "matrix.toml", "--retry")
    assert len(rows(tmp_path / "matrix.jsonl")) == 3


def test_a_cell_that_hangs_or_crashes_costs_that_cell(edgeslm: Edgeslm, tmp_path: Path) -> None:
    path = write_matrix(tmp_path, 'kv_types = ["F16"]')
    text = path.read_text().replace("repeats = 2", "repeats = 100000")
    path.write_text(text + "timeout_seconds = 4\n")
    assert edgeslm("bench", "matrix.toml").returncode == 1
    (failed,) = rows(tmp_path / "matrix.jsonl")
    assert failed["failure"]["reason"] == "not done after 4 seconds"


def test_a_half_written_line_is_measured_again(edgeslm: Edgeslm, tmp_path: Path) -> None:
    write_matrix(tmp_path, 'kv_types = ["F16", "F32"]')
    edgeslm("bench", "matrix.toml")
    results = tmp_path / "matrix.jsonl"
    results.write_bytes(results.read_bytes()[:-100])
    assert "1 cells measured" in edgeslm("bench", "matrix.toml").stdout
    assert [row["cell"]["kv_type"] for row in rows(results)] == ["F16", "F32"]


def test_killed_at_any_moment_it_goes_on(edgeslm: Edgeslm, tmp_path: Path) -> None:
    write_matrix(tmp_path, 'types = ["original", "Q8_0"]\nkv_types = ["F16", "F32"]')
    results = tmp_path / "matrix.jsonl"
    chance = random.Random(3)
    kills = 0
    for attempt in range(40):
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeslm", "bench", "matrix.toml"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            # at first before any machine is done, at last after every machine has done a cell
            said, _ = process.communicate(timeout=chance.uniform(0.3, 0.6 + 0.3 * attempt))
        except subprocess.TimeoutExpired:
            number = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)[attempt % 3]
            process.send_signal(number)
            said, _ = process.communicate(timeout=60)
            assert process.returncode in (0, 1, -number, 128 + number, 130), said
            assert "Traceback" not in said
            kills += 1
            continue
        assert process.returncode == 0, said
        break
    assert kills >= 2
    keys = [row["cell"]["key"] for row in rows(results)]
    assert len(keys) == len(set(keys)) == 4
    assert len(load([results]).results) == 4


def test_two_at_a_time_are_one_too_many(edgeslm: Edgeslm, tmp_path: Path) -> None:
    write_matrix(tmp_path, 'types = ["original", "Q8_0"]')
    first = subprocess.Popen(
        [sys.executable, "-m", "edgeslm", "bench", "matrix.toml"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 30
        while not (tmp_path / "matrix.jsonl").exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(0.2)
        second = edgeslm("bench", "matrix.toml")
        assert second.returncode == 1
        assert "another bench writes to it" in second.stderr
    finally:
        first.terminate()
        first.wait(60)


def test_results_as_llama_bench_writes_them(edgeslm: Edgeslm, tmp_path: Path) -> None:
    write_matrix(tmp_path)
    done = edgeslm("bench", "matrix.toml", "--export-llama-bench", "lb.json", "-o", "r.jsonl")
    assert done.returncode == 0, done.stderr
    assert [row["n_prompt"] for row in json.loads((tmp_path / "lb.json").read_text())] == [8, 0]
    assert load([tmp_path / "lb.json"]).results[0].depths[0].decode is not None


@pytest.fixture
def no_board() -> None:
    if detect().exact:
        pytest.skip("this machine is a board of ours")


@pytest.mark.usefixtures("no_board")
def test_speeds_of_no_known_board_are_refused_before_anything_runs(tmp_path: Path) -> None:
    write_matrix(tmp_path)
    with pytest.raises(UserError) as caught:
        bench(tmp_path / "matrix.toml", submit=tmp_path / "given.json")
    assert "edgeslm targets detect" in (caught.value.hint or "")
    assert not (tmp_path / "given.json").exists()
    assert not (tmp_path / "matrix.jsonl").exists()


@pytest.mark.usefixtures("no_board")
def test_failed_cells_are_told_where_nothing_can_be_given_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = '[hosts.away]\naddress = "ssh://127.0.0.1:1"\n'
    write_matrix(tmp_path, 'hosts = ["local", "away"]', away)
    with pytest.raises(MeasurementFailure, match="1 of 2 cells could not be measured") as caught:
        bench(tmp_path / "matrix.toml", submit=tmp_path / "given.json")
    assert caught.value.exit_code == 1
    assert "no board of ours" in capsys.readouterr().err
    assert not (tmp_path / "given.json").exists()


def test_without_a_cache_folder_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_matrix(tmp_path, 'types = ["Q8_0"]')
    places = tmp_path / "places"
    places.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(places))
    monkeypatch.setattr(variants, "cache_folder", lambda _name: None)
    bench(tmp_path / "matrix.toml")
    (row,) = rows(tmp_path / "matrix.jsonl")
    assert row["model"]["path"].startswith(f"{places}/edgeslm-bench-")
    assert not list(places.iterdir())


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshMachine]:
    if find_sshd() is None:
        pytest.skip("there is no sshd here: apt install openssh-server")
    started, process = start_machine(tmp_path_factory.mktemp("ssh"))
    yield started
    process.terminate()
    process.wait(20)


def test_here_and_far_away(edgeslm: Edgeslm, tmp_path: Path, machine: SshMachine) -> None:
    hosts = machine.toml("board") + machine.toml("missing", edgeslm="/no/edgeslm")
    write_matrix(tmp_path, 'hosts = ["local", "missing", "board"]', hosts)
    done = edgeslm("bench", "matrix.toml")
    assert done.returncode == 1
    assert "2 cells measured, 1 failed" in done.stdout
    by_host = {row["cell"]["host"]: row for row in rows(tmp_path / "matrix.jsonl")}
    assert by_host["local"]["schema"] == "edgeslm.measurement/1"
    assert by_host["board"]["model"]["path"].startswith(f"{machine.folder}/models there/")
    assert by_host["board"]["model"]["sha256"] == by_host["local"]["model"]["sha256"]
    assert "no edgeslm there (/no/edgeslm)" in by_host["missing"]["failure"]["reason"]
    found = load([tmp_path / "matrix.jsonl"])
    assert {result.host.name for result in found.results} == {"local", "board"}
    only = edgeslm("bench", "matrix.toml", "--hosts", "board,local")
    assert only.returncode == 0, only.stderr
    assert "0 cells measured, 0 failed; 2 were done before" in only.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none.toml",), "none.toml: no such file"),
        (("matrix.toml", "--hosts", "pi5"), "no host 'pi5'"),
        (("matrix.toml", "--hosts", ","), "not hosts"),
        (("matrix.toml", "-o", "matrix.toml"), "must be different files"),
        (("matrix.toml", "-o", "tiny.gguf"), "tiny.gguf"),
        (("matrix.toml", "-o", "no/folder/x.jsonl"), "cannot write no/folder/x.jsonl"),
        (("matrix.toml", "--export-llama-bench", "no/folder/x.json"), "there is no folder"),
        (("tiny.gguf",), "tiny.gguf"),
    ],
)
def test_mistakes(edgeslm: Edgeslm, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    write_matrix(tmp_path)
    before = (tmp_path / "tiny.gguf").stat().st_size
    done = edgeslm("bench", *arguments)
    assert done.returncode in (1, 2), done.stderr
    assert words in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "tiny.gguf").stat().st_size == before


def test_models_that_are_not_there_or_the_same(edgeslm: Edgeslm, tmp_path: Path) -> None:
    path = write_matrix(tmp_path)
    path.write_text(path.read_text().replace("tiny.gguf", "gone.gguf"))
    done = edgeslm("bench", "matrix.toml", "--dry-run")
    assert done.returncode == 2
    assert "gone.gguf" in done.stderr
    tiny_gguf(tmp_path / "other.gguf", seed=1)
    os.link(tmp_path / "other.gguf", tmp_path / "gone.gguf")
    path.write_text(path.read_text().replace("[axes]", 'other = "other.gguf"\n[axes]', 1))
    done = edgeslm("bench", "matrix.toml", "--dry-run")
    assert "the models tiny and other are the same file" in done.stderr
