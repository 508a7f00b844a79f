"""llama-bench's files, read and written; recorded are those of llama.cpp 0c1e570."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeslm.profiling.llama_bench import export, read_rows, to_rows, type_in
from edgeslm.profiling.profile import ProfileOptions, profile
from edgeslm.profiling.results import Result, from_measurement, load

RECORDED = Path(__file__).parent / "recorded"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def measured(tiny_model: Path) -> Result:
    options = ProfileOptions(
        threads=1,
        prompt_tokens=8,
        generated_tokens=4,
        depths=(0, 16),
        repeats=3,
        idle_seconds=0,
        most_repeats=None,
        warm_up_seconds=0,
    )
    return from_measurement(profile(tiny_model, options), Path("measured.json"))


def rows_of(name: str) -> list[dict[str, Any]]:
    text = (RECORDED / name).read_text()
    return json.loads(text) if name.endswith(".json") else list(map(json.loads, text.splitlines()))


def test_a_recorded_list() -> None:
    found = load([RECORDED / "llama-bench.json"])
    (result,) = found.results
    assert result.model.label == "smollm2-135m"
    assert result.model.type == "Q4_1"
    assert result.model.parameters == 134515008
    assert result.model.bits_per_weight == pytest.approx(5.744, abs=0.001)
    assert result.host.build == "llama.cpp 0c1e570 (1), CPU"
    assert (result.settings.kv_type, result.settings.threads) == ("F16", 1)
    assert (result.settings.prompt_tokens, result.settings.generated_tokens) == (32, 8)
    assert [each.depth for each in result.depths] == [0, 64]
    prefill = result.depths[0].prefill
    assert prefill is not None
    assert prefill.seconds.samples == (0.425865319, 0.356565159, 0.336212310)
    assert prefill.tokens_per_second.samples == pytest.approx((75.1411, 89.7452, 95.178), rel=1e-5)
    assert len(found.notes) == 2  # one for each depth
    assert "16 tokens read and 4 written" in found.notes[0]
    assert result.memory is None
    assert not result.tainted


def test_recorded_lines_with_two_settings() -> None:
    one, two = load([RECORDED / "llama-bench.jsonl"]).results
    assert (one.settings.threads, two.settings.threads) == (1, 2)
    assert one.settings.kv_type == "Q8_0"
    assert one.depths[0].decode is not None
    assert one.depths[0].decode.tokens == 8


def test_a_test_that_was_run_twice_is_two_results(tmp_path: Path) -> None:
    results, _ = read_rows(rows_of("llama-bench.jsonl") * 2, tmp_path)
    assert len(results) == 4


def test_our_rows_have_the_fields_and_types_that_llama_bench_writes(measured: Result) -> None:
    (theirs, *_), ours = rows_of("llama-bench.json"), to_rows(measured)
    assert len(ours) == 4
    for row in ours:
        assert list(row) == list(theirs)
        assert {key: type(value) for key, value in row.items()} == {
            key: type(value) for key, value in theirs.items()
        }
    same = set(theirs) - {
        *("model_filename", "model_type", "model_size", "model_n_params", "build_commit"),
        *("build_number", "cpu_info", "n_batch", "n_prompt", "test_time"),
        *("avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts"),
    }
    assert {key: ours[0][key] for key in same} == {key: theirs[key] for key in same}


def test_our_rows_are_summed_up_as_theirs_are(measured: Result) -> None:
    """The same samples give the same averages and deviations."""
    (theirs, *_) = rows_of("llama-bench.json")
    (result,) = load([RECORDED / "llama-bench.json"]).results
    ours = to_rows(result)[0]
    assert ours["samples_ns"] == theirs["samples_ns"]
    for name in ("avg_ns", "stddev_ns"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-6)
    for name in ("avg_ts", "stddev_ts"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-5)
    assert ours["test_time"] == theirs["test_time"]
    assert ours["model_size"] == theirs["model_size"]


@pytest.mark.parametrize("name", ["out.json", "out.jsonl"])
def test_what_we_write_we_read(measured: Result, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert export([measured], path) == 4
    (result,) = load([path]).results
    assert result.model.file == measured.model.file
    assert result.model.bits_per_weight == pytest.approx(measured.model.bits_per_weight)
    assert result.host.commit == measured.host.commit
    assert [each.depth for each in result.depths] == [0, 16]
    for ours, read in zip(measured.depths, result.depths, strict=True):
        assert ours.decode is not None
        assert read.decode is not None
        assert read.decode.seconds.samples == pytest.approx(ours.decode.seconds.samples, abs=1e-9)
    again = tmp_path / f"again-{name}"
    export([replace(result, model=replace(result.model, file_bytes=None))], again)
    assert again.read_text() == path.read_text()


def test_prefill_with_other_threads_is_said(measured: Result) -> None:
    settings = replace(measured.settings, prefill_threads=2)
    rows = to_rows(replace(measured, settings=settings))
    assert [row["n_threads"] for row in rows] == [2, 1, 2, 1]


@pytest.mark.parametrize(
    ("described", "name"),
    [
        ("llama 1B Q4_K - Medium", "Q4_K_M"),
        ("llama 1B Q3_K - Large", "Q3_K_L"),
        ("qwen2 0.5B Q2_K - Medium", "Q2_K"),
        ("qwen2 0.5B Q2_K - Small", "Q2_K_S"),
        ("llama ?B all F32", "F32"),
        ("llama 7B IQ4_XS - 4.25 bpw", "IQ4_XS"),
        ("llama 7B IQ3_S mix - 3.66 bpw", "IQ3_M"),
        ("llama 7B TQ1_0 - 1.69 bpw ternary", "TQ1_0"),
        ("gemma3 1B Q8_0", "Q8_0"),
        ("gpt-oss 20B MXFP4 MoE", "MXFP4_MOE"),
        ("llama 7B unknown, may not work", None),
        ("", None),
    ],
)
def test_types_in_descriptions(described: str, name: str | None) -> None:
    assert type_in(described) == name


def _compared(python: str, script: Path, *words: str | Path) -> str:
    done = subprocess.run(
        [python, script, "-t", "llama-bench", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=script.parents[4],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    "EDGESLM_COMPARE_PYTHON" not in os.environ,
    reason="EDGESLM_COMPARE_PYTHON names no Python with GitPython and tabulate",
)
@pytest.mark.parametrize("name", ["ours.json", "ours.jsonl"])
def test_the_script_that_reads_llama_bench_reads_ours(
    measured: Result, name: str, tmp_path: Path
) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "EDGESLM_CACHE"}
    built = subprocess.run(
        [ROOT / "scripts" / "build_llama_tools", "llama-bench"],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    tools = Path(os.environ.get("EDGESLM_LLAMA_TOOLS") or built.stdout.splitlines()[-1])
    script = tools.parents[1] / "source/vendor/llama.cpp/scripts/compare-llama-bench.py"
    other = subprocess.run(
        [
            *(tools / "llama-bench", "-m", measured.model.file, "-p", "8", "-n", "4"),
            *("-d", "0,16", "-b", "512", "-r", "2", "-t", "1", "-o", Path(name).suffix[1:]),
        ],
        cwd=_folder_of(measured, tmp_path),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    ours, theirs = tmp_path / name, tmp_path / f"theirs-{name}"
    export([measured], ours)
    commit = measured.host.commit
    assert commit is not None
    theirs.write_text(other.replace(commit, "1111111"))
    files: tuple[str | Path, ...] = ("-i", ours, "-i", theirs)
    if name.endswith("jsonl"):  # of those it takes one
        ours.write_text(ours.read_text() + theirs.read_text())
        files = ("-i", ours)
    table = _compared(
        os.environ["EDGESLM_COMPARE_PYTHON"], script, *files, "-b", commit, "-c", "1111111"
    )
    for test in ("pp8", "pp8@d16", "tg4", "tg4@d16"):
        assert f"| {test} " in table, table


def _folder_of(measured: Result, tmp_path: Path) -> Path:
    """A folder with the measured file in it, so that both name it alike."""
    from edgeslm.testing import tiny_gguf

    tiny_gguf(tmp_path / measured.model.file, context_length=512)
    return tmp_path


def test_reading_and_writing_load_neither_llama_cpp_nor_numpy() -> None:
    """A laptop that only looks at results needs no inference."""
    code = (
        "import sys; from edgeslm.profiling import llama_bench, results;"
        "print('llama_cpp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
