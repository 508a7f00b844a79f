"""Every verb that looks, makes or measures, as a user and as a machine read it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm import __version__
from edgeslm.bundle.model_path import find_model
from edgeslm.targets.detection import detect
from edgeslm.testing import tiny_gguf

Edgeslm = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parent.parent.parent
SHORT = ("--prompt-tokens", 16, "--tokens", 4, "--repeats", 2, "--threads", 1)


def _json(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert isinstance(data, dict)
    return data


def _at(data: object, path: str) -> object:
    for key in path.split("."):
        assert isinstance(data, dict)
        data = data[key]
    return data


def test_version_and_help_of_every_command(edgeslm: Edgeslm) -> None:
    assert edgeslm("--version").stdout == f"edgeslm {__version__}\n"
    listed = edgeslm("--help").stdout
    for name in ("convert", "quantize", "pack", "inspect", "verify", "run", "chat", "profile"):
        assert name in listed
        shown = edgeslm(name, "--help").stdout
        assert "Examples:" in shown
        assert "--json" in shown


def test_inspect(edgeslm: Edgeslm, tiny_model: Path) -> None:
    data = _json(edgeslm("inspect", tiny_model, "--json"))
    assert data["schema"] == "edgeslm.inspection/1"
    assert data["architecture"] == "llama"
    assert data["file_bytes"] == tiny_model.stat().st_size
    assert data["bits_per_weight"] == 32
    assert data["context_length"] == 512
    tensors = data["tensors"]
    assert isinstance(tensors, list)
    assert set(tensors[0]) == {"name", "type", "shape", "bytes"}
    text = edgeslm("inspect", tiny_model, "--tensors").stdout
    assert "bits per weight  32.00" in text
    assert "blk.1.ffn_down.weight" in text


def test_inspect_says_when_a_label_differs(edgeslm: Edgeslm, tmp_path: Path) -> None:
    model = tiny_gguf(tmp_path / "model.gguf")
    assert edgeslm("quantize", model, "-o", tmp_path / "q.gguf", "--type", "Q2_K").returncode == 0
    done = edgeslm("inspect", tmp_path / "q.gguf")
    assert "Q2_K" in done.stdout
    assert "warning: " in done.stderr


def test_quantize_by_type_bits_and_size(edgeslm: Edgeslm, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    data = _json(edgeslm("quantize", tiny_model, "-o", out, "--type", "q8_0", "--json"))
    assert data["file_bytes"] == out.stat().st_size
    by_bits = _json(edgeslm("quantize", tiny_model, "-o", out, "--bits", "6.5", "--json"))
    assert 6.0 < float(str(by_bits["bits_per_weight"])) <= 6.5
    done = edgeslm("quantize", tiny_model, "-o", out, "--size", "40k")
    assert "wrote" in done.stdout
    assert out.stat().st_size <= 40_000


def test_pack_verify_and_run_what_was_packed(
    edgeslm: Edgeslm, tiny_model: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "packed"
    data = _json(edgeslm("pack", tiny_model, "-o", packed, "--target", "rpi5-4gb", "--json"))
    assert _at(data, "prediction.target") == "rpi5-4gb"
    assert _at(data, "prediction.decode_tokens_per_second.provenance") == "estimated"
    again = edgeslm("pack", tiny_model, "-o", packed, "--target", "rpi5-4gb", "--bits", "8")
    assert "estimated, not measured" in again.stdout
    assert edgeslm("verify", packed).returncode == 0
    done = edgeslm("run", packed, "-p", "hello", "-n", 2, "--temperature", 0, "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert edgeslm("inspect", packed).returncode == 0
    model = find_model(packed)
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    assert edgeslm("verify", packed).returncode == 2


def test_pack_a_ladder(edgeslm: Edgeslm, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("Dear friend, how are you today?\n" * 60)
    rungs = ("--ladder", "8,1.5,6", "--quick", "--text", "letters.txt")
    ladder = ("pack", tiny_model, "-o", tmp_path / "ladder", "--target", "rpi5-4gb", *rungs)
    done = edgeslm(*ladder)
    assert done.returncode == 0, done.stderr
    assert "warning: left out: 1.5 bits per weight" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[2:4]] == ["6", "8"]
    data = json.loads(edgeslm(*ladder, "--json").stdout)
    assert data == json.loads((tmp_path / "ladder" / "ladder.json").read_text())
    assert edgeslm("verify", tmp_path / "ladder" / "6-bits").returncode == 0


def test_profile_here(edgeslm: Edgeslm, tiny_model: Path) -> None:
    data = _json(edgeslm("profile", tiny_model, *SHORT, "--json"))
    for path in (
        "memory.peak_rss_bytes",
        "prefill.tokens_per_second.median",
        "decode.tokens_per_second.median",
    ):
        assert float(str(_at(data, path))) > 0
    energy = _at(data, "energy.decode_joules_per_token")
    assert isinstance(energy, dict)
    assert energy["provenance"] in ("measured", "estimated", None)
    text = edgeslm("profile", tiny_model, *SHORT).stdout
    assert text.startswith("Measured on this machine")
    assert "J/token" in text or "unknown" in text


def test_profile_for_another_board_is_a_prediction(edgeslm: Edgeslm, tiny_model: Path) -> None:
    board = "rpi4-4gb" if detect().target != "rpi4-4gb" else "rpi5-4gb"
    data = _json(edgeslm("profile", tiny_model, "--target", board, "--json"))
    assert data["schema"] == "edgeslm.prediction/1"
    assert data["provenance"] == "estimated"
    assert _at(data, "decode.tokens_per_second.provenance") == "estimated"
    assert float(str(_at(data, "memory.peak_rss_bytes"))) > 0
    text = edgeslm("profile", tiny_model, "--target", board).stdout
    assert "estimated, not measured" in text
    assert "Measured" not in text


@pytest.mark.parametrize("target", ["rpi-zero-2w", "rpi4", "orange-pi-5", "apple-m4"])
def test_targets_show(edgeslm: Edgeslm, target: str) -> None:
    assert "where it comes from" in edgeslm("targets", "show", target).stdout
    assert str(_json(edgeslm("targets", "show", target, "--json"))["id"]).startswith(target)


def test_targets_list_and_detect(edgeslm: Edgeslm) -> None:
    assert "rpi5-16gb" in edgeslm("targets", "list").stdout
    assert len(json.loads(edgeslm("targets", "list", "--json").stdout)) >= 18
    assert _json(edgeslm("targets", "detect", "--json"))["reasons"]
    assert edgeslm("targets", "detect").stdout.count("\n") >= 2


def test_interrupted_before_all_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
    done = subprocess.run(
        [sys.executable, "-m", "edgeslm", "--version"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "edgeslm: interrupted\n")
