"""`edgeslm evaluate` as users call it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.testing import tiny_gguf

Edgeslm = Callable[..., subprocess.CompletedProcess[str]]
SHORT = ("--context", 32, "--threads", 1)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("Twelve good friends went for a walk.\n" * 6)
    return path


def test_a_table_for_people_and_a_card_beside_the_model(
    edgeslm: Edgeslm, tmp_path: Path, tiny_model: Path, text: Path
) -> None:
    model = tiny_gguf(tmp_path / "small.gguf", seed=1, context_length=512)
    done = edgeslm("evaluate", model, "--reference", tiny_model, "--text", text, *SHORT)
    assert done.returncode == 0, done.stderr
    for words in ("KL divergence", "same first choice", "far from the reference", "wrote"):
        assert words in done.stdout
    card = json.loads((tmp_path / "small.quality.json").read_text())
    assert card["kl_divergence"]["mean"] > 0.1
    other = tmp_path / "other.json"
    options = ("--text", text, "--card", other, "--json", *SHORT)
    done = edgeslm("evaluate", model, "--reference", tiny_model, *options)
    assert json.loads(done.stdout) == card == json.loads(other.read_text())


def test_no_card_where_none_is_wanted(
    edgeslm: Edgeslm, tmp_path: Path, tiny_model: Path, text: Path
) -> None:
    done = edgeslm("evaluate", tiny_model, "--text", text, "--card", "none", *SHORT)
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stdout
    assert "KL" not in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        ((), "nothing to measure", 2),
        (("--text", "nothing.txt"), "nothing.txt", 2),
        (("--reference", "nothing.gguf"), "nothing.gguf", 2),
        (("--text", "TEXT"), "less than one chunk of 512", 2),
        (("--text", "TEXT", "--context", "10000"), "trained for", 2),
        (("--text", "TEXT", "--context", "3"), "too short", 2),
        (("--text", "TEXT", "--chunks", "0"), "chunks", 2),
        (("--text", "TEXT", "--context", "32", "--threads", "0"), "threads", 2),
        (("--tasks", "TEXT"), "line 1: not JSON", 2),
        (("--text", "TEXT", "--card", "no/such/card.json"), "card.json", 1),
    ],
)
def test_mistakes(
    edgeslm: Edgeslm,
    tmp_path: Path,
    tiny_model: Path,
    text: Path,
    arguments: tuple[str, ...],
    words: str,
    code: int,
) -> None:
    stand_ins = {"TEXT": str(text)}
    given = [stand_ins.get(argument, argument) for argument in arguments]
    if "--card" not in given:
        given += ["--card", "card.json"]
    done = edgeslm("evaluate", tiny_model, *given)
    assert done.returncode == code
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    assert words in done.stderr
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_evaluation_keeps_complete_chunks_only(
    tmp_path: Path, number: signal.Signals
) -> None:
    model = tiny_gguf(tmp_path / "m.gguf", layers=8, width=256, heads=4, feed_forward=512)
    text = tmp_path / "text.txt"
    text.write_text("Twelve good friends went for a walk.\n" * 5000)
    cache = tmp_path / "cache"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "edgeslm", "evaluate", model, "--reference", model),
            *("--text", text, "--context", "128", "--threads", "1", "--card", tmp_path / "c.json"),
        ],
        env=os.environ | {"EDGESLM_CACHE": str(cache)},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while len(list(cache.glob("evaluate/*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, 143), errors
    assert b"Traceback" not in errors
    left = [path.suffix for path in (cache / "evaluate").iterdir()]
    assert len(left) >= 3
    assert set(left) == {".npz"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "m.gguf", "text.txt"]
