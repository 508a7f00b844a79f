"""Runs the command line as a user does: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Result = subprocess.CompletedProcess[str]
Edgeslm = Callable[..., Result]


@pytest.fixture
def edgeslm(tmp_path: Path) -> Edgeslm:
    """Call `edgeslm` with arguments in an empty folder; never raises on a bad exit."""

    def call(*arguments: object, stdin: str = "") -> Result:
        return subprocess.run(
            [sys.executable, "-m", "edgeslm", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"NO_COLOR": "1", "COLUMNS": "100"},
            check=False,
            timeout=120,
        )

    return call
