"""A bench goes on whatever befalls one of its cells."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from edgeslm.profiling.bench import Tally, Watch, bench, keyed
from edgeslm.profiling.matrix import Matrix, parse_matrix
from edgeslm.profiling.variants import find_variants

RUNS = {
    "prompt_tokens": 8,
    "generated_tokens": 4,
    "repeats": 1,
    "idle_seconds": 0,
    "warm_up_seconds": 0,
}


def matrix_of(folder: Path, model: Path, **tables: Any) -> Matrix:
    os.link(model, folder / "tiny.gguf")
    axes = {"threads": [1]} | tables.pop("axes", {})
    content = {
        "models": {"tiny": "tiny.gguf"},
        "axes": axes,
        "runs": RUNS,
        "order": {"cool_down_seconds": 0},
        **tables,
    }
    return parse_matrix(folder / "matrix.toml", content)


def run(
    matrix: Matrix, folder: Path, watch: Watch = lambda _cell, _reason: None
) -> tuple[Tally, list[dict[str, Any]]]:
    """What came of it."""
    variants = find_variants(matrix)
    results = folder / "results.jsonl"
    cells = keyed(matrix, matrix.cells, variants)
    _, tally = bench(matrix, cells, variants, results, watch=watch)
    return tally, [json.loads(line) for line in results.read_text().splitlines()]


def test_without_ssh_only_the_cells_far_away_fail(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "sh").symlink_to("/bin/sh")
    for name in ("sleep", "cat", "kill"):
        (programs / name).symlink_to(f"/bin/{name}")
    matrix = matrix_of(
        tmp_path, tiny_model, axes={"hosts": ["pi", "local"]}, hosts={"pi": {"address": "pi"}}
    )
    monkeypatch.setenv("PATH", str(programs))
    tally, rows = run(matrix, tmp_path)
    assert (tally.measured, tally.failed) == (1, 1)
    assert "no ssh client" in rows[0]["failure"]["reason"]
    assert "OpenSSH" in rows[0]["failure"]["hint"]


def test_a_model_that_vanishes_is_a_failed_row(tmp_path: Path, tiny_model: Path) -> None:
    matrix = matrix_of(tmp_path, tiny_model, axes={"kv_types": ["F16", "F32"]})
    model = tmp_path / "tiny.gguf"
    tally, rows = run(matrix, tmp_path, lambda _cell, _reason: model.unlink(missing_ok=True))
    assert (tally.measured, tally.failed) == (1, 1)
    assert "no such file" in rows[1]["failure"]["reason"]


def test_no_place_for_a_type_is_a_failed_row(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "cache"
    in_the_way.write_text("no folder")
    matrix = matrix_of(tmp_path, tiny_model, axes={"types": ["Q8_0", "original"]})
    monkeypatch.setenv("EDGESLM_CACHE", str(in_the_way))
    tally, rows = run(matrix, tmp_path)
    assert (tally.measured, tally.failed) == (1, 1)
    assert "cannot write" in rows[0]["failure"]["reason"]
