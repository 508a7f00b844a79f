"""flash as a user types it, against a board of the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from machines import ROOT
from made_boards import MadeBoard

from edgeslm.bundle.verification import verify_bundle

Bundles = tuple[Path, Path]


def command(board: MadeBoard, *words: str | Path) -> list[str]:
    """The command line."""
    config = ["--ssh-config", str(board.machine.config)]
    return [sys.executable, "-m", "edgeslm", "flash", *map(str, words), "--to", board.to, *config]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def flash(board: MadeBoard, *words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
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
    """What the model at a port of this machine says."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = json.load(answer)["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text
