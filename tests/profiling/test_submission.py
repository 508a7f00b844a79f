"""Speeds to give away: what stands in them, and what does not."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from edgeslm.errors import UserError
from edgeslm.estimate.mixes import as_file_type
from edgeslm.estimate.rows import contributed_rows, model_configs
from edgeslm.estimate.shapes import header_from_config
from edgeslm.estimate.speed_model import fit_rows, targets_of
from edgeslm.estimate.work import work_of
from edgeslm.gguf.validation import read_model
from edgeslm.profiling.measurement import Measurement
from edgeslm.profiling.profile import ProfileOptions, profile
from edgeslm.profiling.submission import collect, public_name, write_submission
from edgeslm.records import MEASUREMENT_SCHEMA, document


@pytest.fixture(scope="module")
def measured(tiny_model: Path) -> Measurement:
    """As if a Raspberry Pi 5 had measured it, and nothing had disturbed it."""
    options = ProfileOptions(
        threads=1,
        prompt_tokens=8,
        generated_tokens=4,
        depths=(0, 16),
        repeats=2,
        idle_seconds=0,
        most_repeats=None,
        warm_up_seconds=0,
    )
    found = profile(tiny_model, options)
    host = replace(found.host, target="rpi5-8gb", target_exact=True)
    return replace(found, host=host, tainted=False, taints=())


def journal(folder: Path, *measurements: Measurement, host: str = "my-secret-pi") -> Path:
    path = folder / "bench.jsonl"
    rows = [
        {
            **document(MEASUREMENT_SCHEMA, each),
            "cell": {"key": f"{number}", "model": "private", "type": "original", "host": host},
        }
        for number, each in enumerate(measurements)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def files(model: Path, count: int = 1) -> dict[str, Path]:
    return {f"{number}": model for number in range(count)}


def test_rows_that_the_prediction_takes(
    measured: Measurement, tiny_model: Path, tmp_path: Path
) -> None:
    found = collect(journal(tmp_path, measured), files(tiny_model))
    folder = tmp_path / "community"
    folder.mkdir()
    write_submission(folder / "given.json", found.rows)
    rows = contributed_rows(folder)
    assert rows == found.rows
    first, second = rows
    assert first.target == "rpi5-8gb"
    assert first.work == work_of(read_model(tiny_model))
    assert first.decode == measured.decode.tokens_per_second.median
    assert first.prefill == measured.prefill.tokens_per_second.median
    assert (first.prefill_depth, first.depth) == (4, 2)
    assert (second.prefill_depth, second.depth) == (20, 18)
    assert first.threads == 1
    assert first.cores is None
    fitted = fit_rows(rows, targets_of(rows))
    assert fitted.sources["rpi5"] == {"edgeslm bench": 2}


def test_nothing_in_it_names_anybody(
    measured: Measurement, tiny_model: Path, tmp_path: Path
) -> None:
    private = replace(measured, model=replace(measured.model, name="Grandma's recipes"))
    found = collect(journal(tmp_path, private), files(tiny_model))
    write_submission(tmp_path / "given.json", found.rows)
    text = (tmp_path / "given.json").read_text()
    told = (
        *("my-secret-pi", "private", "Grandma", "Tiny", str(tiny_model), tiny_model.name),
        *(str(tmp_path), socket.gethostname(), measured.host.system, measured.model.sha256),
        *(measured.measured_at, Path.home().name, "/"),
    )
    for word in told:
        assert word not in text.replace("edgeslm.submission/1", ""), word
    assert '"model": "llama-0m"' in text


def test_machines_are_told_apart_by_a_number_drawn_each_time(
    measured: Measurement, tiny_model: Path, tmp_path: Path
) -> None:
    other = replace(measured, host=replace(measured.host, memory_bytes=4))
    path = journal(tmp_path, measured, measured, other)
    rows = collect(path, files(tiny_model, 3)).rows
    assert len({row.machine for row in rows}) == 2
    again = collect(path, files(tiny_model, 3)).rows
    assert {row.machine for row in rows}.isdisjoint({row.machine for row in again})
    assert all(", edgeslm 0" in row.machine and ", llama.cpp " in row.machine for row in rows)


@pytest.mark.parametrize("kind", ["F16", "Q4_0", "Q8_0"])
def test_a_published_model_has_its_published_name(kind: str) -> None:
    for name in ("smollm2-360m", "gemma-3-270m", "qwen3-0.6b"):
        header = header_from_config(Path("private"), model_configs()[name])
        assert public_name(as_file_type(header, kind)) == name


def test_more_threads_than_fast_cores(
    measured: Measurement, tiny_model: Path, tmp_path: Path
) -> None:
    settings = replace(measured.settings, threads=8, prefill_threads=4)
    host = replace(measured.host, target="orange-pi-5")
    found = replace(measured, settings=settings, host=host)
    rows = collect(journal(tmp_path, found), files(tiny_model)).rows
    assert [(row.threads, row.cores) for row in rows] == [(8, "all"), (4, None)] * 2
    assert [(row.prefill is None, row.decode is None) for row in rows[:2]] == [
        (True, False),
        (False, True),
    ]


def changed(measured: Measurement, name: str) -> Measurement:
    host, settings = measured.host, measured.settings
    return {
        "inexact": replace(measured, host=replace(host, target_exact=False)),
        "no board": replace(measured, host=replace(host, target=None)),
        "tainted": replace(measured, tainted=True, taints=("it was hot",)),
        "cache": replace(measured, settings=replace(settings, kv_type="Q8_0")),
    }[name]


@pytest.mark.parametrize(
    ("change", "words", "hint"),
    [
        ("inexact", "no board of ours", "edgeslm targets detect"),
        ("no board", "no board of ours", "edgeslm targets detect"),
        ("tainted", "tainted: it was hot", "untainted"),
        ("cache", "not in F16", "F16"),
    ],
)
def test_what_cannot_be_given_is_refused(
    measured: Measurement, tiny_model: Path, tmp_path: Path, change: str, words: str, hint: str
) -> None:
    path = journal(tmp_path, changed(measured, change))
    with pytest.raises(UserError) as caught:
        collect(path, files(tiny_model))
    assert words in caught.value.message
    assert hint in (caught.value.hint or "")


def test_what_is_left_out_is_said(measured: Measurement, tiny_model: Path, tmp_path: Path) -> None:
    path = journal(tmp_path, measured, changed(measured, "tainted"))
    found = collect(path, files(tiny_model, 2))
    assert len(found.rows) == 2
    assert found.left_out == ("private original: tainted: it was hot",)


def test_cells_of_other_matrices_are_no_matter(
    measured: Measurement, tiny_model: Path, tmp_path: Path
) -> None:
    path = journal(tmp_path, measured, measured)
    assert len(collect(path, {"1": tiny_model}).rows) == 2
    with pytest.raises(UserError, match="nothing to submit"):
        collect(path, {})
