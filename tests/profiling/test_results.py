"""Results of measurements from whatever file they lie in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeslm.errors import NotFound, UserError
from edgeslm.packager.evaluate import evaluate
from edgeslm.profiling.profile import ProfileOptions, profile
from edgeslm.profiling.results import load
from edgeslm.profiling.sustained import run_sustained
from edgeslm.records import (
    FAILURE_SCHEMA,
    MEASUREMENT_SCHEMA,
    QUALITY_SCHEMA,
    SUSTAINED_SCHEMA,
    document,
)

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture(scope="module")
def measured(tiny_model: Path) -> dict[str, Any]:
    options = ProfileOptions(
        threads=1,
        prompt_tokens=8,
        generated_tokens=4,
        depths=(16, 0),
        repeats=2,
        idle_seconds=0,
        most_repeats=None,
        warm_up_seconds=0,
    )
    return document(MEASUREMENT_SCHEMA, profile(tiny_model, options))


def cell(key: str, **changes: Any) -> dict[str, Any]:
    named = {"key": key, "model": "tiny", "type": "Q8_0", "host": "pi5", "round": 2}
    return {"cell": named | changes}


def failure(key: str) -> dict[str, Any]:
    said = {"reason": "it burnt", "hint": "Use water.", "code": 1}
    return {"schema": FAILURE_SCHEMA, **cell(key), "failure": said}


def write_lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_profile_printed(measured: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps(measured, indent=2))
    found = load([path])
    (result,) = found.results
    assert result.model.label == "Tiny llama"
    assert (result.model.file, result.model.type) == ("tiny.gguf", "F32")
    assert result.model.sha256 == measured["model"]["sha256"]
    assert [each.depth for each in result.depths] == [0, 16]
    assert result.depths[1].decode is not None
    shown = measured["depths"][0]["decode"]["tokens_per_second"]["samples"]
    assert list(result.depths[1].decode.tokens_per_second.samples) == shown
    assert result.memory is not None
    assert result.memory.peak_rss_bytes == measured["memory"]["peak_rss_bytes"]
    assert result.measured_at == measured["measured_at"]
    assert (result.cell, result.round, result.host.name) == (None, 1, None)
    assert result.source == path
    assert found.notes == ()


def test_of_a_cell_the_newest_row_counts(measured: dict[str, Any], tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "bench.jsonl",
        failure("a"),
        measured | cell("b", type="4.5"),
        measured | cell("a"),
        failure("c"),
    )
    found = load([path])
    assert sorted(str(result.cell) for result in found.results) == ["a", "b"]
    assert {(each.model.type, each.host.name, each.round) for each in found.results} == {
        ("Q8_0", "pi5", 2),
        ("4.5 bits", "pi5", 2),
    }
    (failed,) = found.failures
    assert (failed.cell, failed.reason, failed.hint) == ("c", "it burnt", "Use water.")
    assert len(load([path, path]).results) == 2
    write_lines(path, measured | cell("a", type="original"))
    assert load([path]).results[0].model.type == "F32"


def test_several_files_of_several_kinds(
    measured: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A good day to you all. " * 10)
    card = tmp_path / "card.json"
    quality = evaluate(tiny_model, reference=tiny_model, text=text, context_length=32, threads=1)
    card.write_text(json.dumps(document(QUALITY_SCHEMA, quality)))
    lasting = tmp_path / "lasting.json"
    lasting.write_text(json.dumps(document(SUSTAINED_SCHEMA, run_sustained(tiny_model, 3.0))))
    one = write_lines(tmp_path / "one.json", measured)
    found = load([card, lasting, one, RECORDED / "llama-bench.json"])
    ours, theirs = found.results
    assert ours.quality is not None
    assert ours.quality.kl_divergence == pytest.approx(0, abs=1e-6)
    assert ours.quality.same_top_1 == 1
    assert ours.quality.reference == "tiny.gguf"
    assert theirs.quality is None
    (run,) = found.sustained
    assert run.label == "lasting"
    assert run.sustained.windows


def test_a_half_written_last_line_is_left_out(measured: dict[str, Any], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "bench.jsonl", measured | cell("a"), measured | cell("b"))
    path.write_text(path.read_text()[:-200])
    found = load([path])
    assert [result.cell for result in found.results] == ["a"]
    assert "half-written" in found.notes[0]
    path.write_text('{"schema": "edgeslm.mea')
    assert load([path]).results == ()


def test_text_that_breaks_lines_stays_in_its_line(measured: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    row = measured | cell("a", model="a\u2028b\u0085c")
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n" + json.dumps(row) + "\n")
    (result,) = load([path]).results
    assert result.model.label == "a\u2028b\u0085c"


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "[1, 2]",
        '{"schema": "edgeslm.fit/1"}',
        '{"schema": "edgeslm.measurement/1"}',
        '{"schema": "edgeslm.failure/1", "cell": {}}',
        '{"schema": "edgeslm.quality/1", "model": 3}',
        '{"a": 1}\nnot json\n{"a": 1}\n',
        "[" * 100_000,
        '[{"model_filename": "x"}]',
        '[{"model_filename": "x", "n_prompt": 1, "n_gen": 0, "n_depth": 0}]',
        '[{"model_filename": "x", "n_prompt": "1", "n_gen": 0}]',
    ],
)
def test_what_is_no_result_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load([path])
    assert caught.value.message.startswith(f"{path}: no results")
    assert "llama-bench" in (caught.value.hint or "")


@pytest.mark.parametrize("times", ([0], [-5], ["1"], [1.5]))
def test_impossible_times_are_refused(times: list[Any], tmp_path: Path) -> None:
    rows = json.loads((RECORDED / "llama-bench.json").read_text())
    rows[0]["samples_ns"] = times
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(UserError, match="no times of runs"):
        load([path])


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load([tmp_path / "none.json"])


def test_an_empty_file_has_nothing(tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    found = load([path])
    assert found.results == ()
    assert found.notes == (f"{path}: empty",)
