"""Boards that run, flashed over a real ssh: by the command, as a user would."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_boards import MadeBoard, make_runtimes
from machines import ROOT, free_port

from edgeslm.bundle.verification import verify_bundle

Bundles = tuple[Path, Path]


def command(board: MadeBoard, *words: str | Path) -> list[str]:
    """The command line; the port is one that nobody uses."""
    config = ["--ssh-config", str(board.machine.config)]
    return [sys.executable, "-m", "edgeslm", "flash", *map(str, words), "--to", board.to, *config]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def flash(
    board: MadeBoard, *words: str | Path, code: int = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(board, *words), capture_output=True, text=True, env=environment(), timeout=200
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def report_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)["report"]
    return found


def version_of(bundle: Path) -> str:
    return (verify_bundle(bundle).contents.digest or "")[:32]


def ask(port: int | str) -> str:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "model": "any"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = json.load(answer)["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


def test_flashed_updated_gone_back_and_removed(board: MadeBoard, bundles: Bundles) -> None:
    first, second = bundles
    port = str(free_port())
    planned = flash(board, first, "--port", port, "--dry-run")
    assert "1. send " in planned.stdout
    assert not board.root.exists()

    report = report_of(flash(board, first, "--port", port, "--json"))
    assert report["address"] == f"http://127.0.0.1:{port}/"
    assert report["written_bytes"] > 100_000
    assert board.current == version_of(first)
    ask(port)
    assert not any((board.root / "var/lib/edgeslm/received").iterdir())

    before, told = board.snapshot(), board.calls()
    again = flash(board, first, "--port", port)
    assert again.stdout.startswith("nothing to do: ")
    assert f"it answers at http://127.0.0.1:{port}/" in again.stdout
    assert (board.snapshot(), board.calls()) == (before, told)

    updated = report_of(flash(board, second, "--port", port, "--json"))
    assert updated["written_bytes"] < 60_000  # the model is there already
    assert board.current == version_of(second)
    assert len(list((board.root / "opt/edgeslm/runtimes").iterdir())) == 2
    newer = os.readlink(board.root / "opt/edgeslm/current")
    ask(port)

    back = flash(board, "--rollback")
    assert version_of(first) in back.stdout
    assert board.current == version_of(first)
    assert os.readlink(board.root / "opt/edgeslm/current") != newer
    ask(port)

    status = json.loads(flash(board, "--status", "--json").stdout)["status"]
    assert (status["current"], status["previous"]) == (version_of(first), version_of(second))
    assert status["active"] and status["enabled"]

    flash(board, "--uninstall", "--yes")
    assert not board.root.exists()
    assert board.calls()[-2:] == ["disable --now edgeslm.service", "daemon-reload"]
    assert "not active" in flash(board, "--status").stdout
