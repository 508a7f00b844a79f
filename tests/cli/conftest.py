"""Runs the command line as a user does: in a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from warm import Warm

Result = subprocess.CompletedProcess[str]
Edgeslm = Callable[..., Result]


@pytest.fixture
def edgeslm(tmp_path: Path, warm: Warm) -> Edgeslm:
    """Call `edgeslm` with arguments in an empty folder; never raises on a bad exit."""

    def call(*arguments: object, stdin: str = "") -> Result:
        return warm.run(
            [str(argument) for argument in arguments],
            stdin=stdin,
            cwd=tmp_path,
            env=os.environ | {"NO_COLOR": "1", "COLUMNS": "100"},
            timeout=120,
        )

    return call
