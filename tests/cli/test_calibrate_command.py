"""A machine is calibrated and then named like any board."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Edgeslm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
def test_a_calibrated_machine_is_a_target(
    edgeslm: Edgeslm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path
) -> None:
    monkeypatch.setenv("EDGESLM_TARGETS", str(tmp_path / "targets"))
    done = edgeslm(
        *("targets", "calibrate", "--quick", "--types", "q8_0,F32,F16", "--threads", 1, "--json")
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    name = result["target"]["id"]
    assert Path(result["path"]) == tmp_path / "targets" / f"{name}.toml"
    assert name in edgeslm("targets", "list").stdout
    assert "KV cache F16" in edgeslm("targets", "show", name).stdout
    predicted = edgeslm("profile", tiny_model, "--target", name, "--json")
    assert json.loads(predicted.stdout)["decode"]["tokens_per_second"]["value"] > 0


def test_mistakes_are_told_before_anything_runs(edgeslm: Edgeslm, tmp_path: Path) -> None:
    for arguments, words in (
        (("--types", "Q4_K_M"), "Q4_K_M"),
        (("--threads", 0), "0 threads"),
        (("-o", tmp_path / "mine.json"), ".toml"),
    ):
        done = edgeslm("targets", "calibrate", *arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert "hint: " in done.stderr
