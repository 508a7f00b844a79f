"""Commands from a warm process are like those that start from nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from warm import Warm


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--version",), 0),
        (("run", "MODEL", "-p", "-", "-n", "4", "-t", "1", "--temperature", "0", "--raw"), 0),
        (("inspect", "nothing.gguf"), 2),
        (("inspect", "--frobnicate"), 2),
    ],
)
def test_it_says_the_same_and_ends_the_same(
    warm: Warm, tiny_model: Path, tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    given = [str(tiny_model) if word == "MODEL" else word for word in arguments]
    cold = subprocess.run(
        [sys.executable, "-m", "edgeslm", *given],
        input="hello",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    done = warm.run(given, stdin="hello", cwd=tmp_path)
    assert done.returncode == cold.returncode == code
    assert done.stdout == cold.stdout
    assert _without_speed(done.stderr) == _without_speed(cold.stderr)


def _without_speed(text: str) -> list[str]:
    return [line for line in text.splitlines() if "tokens/s" not in line]


def test_each_has_its_own_folder_and_environment(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "notes.gguf").write_text("no model")
    targets = tmp_path / "targets"
    targets.mkdir()
    (targets / "broken.toml").write_text("= 1")
    there = warm.run(["inspect", "notes.gguf"], cwd=tmp_path)
    assert "not a GGUF file" in there.stderr
    elsewhere = warm.run(["inspect", "notes.gguf"], cwd=targets)
    assert "no such file" in elsewhere.stderr
    own = warm.run(["targets", "list"], env=os.environ | {"EDGESLM_TARGETS": str(targets)})
    assert "broken.toml" in own.stdout + own.stderr
    assert "broken.toml" not in warm.run(["targets", "list"]).stderr


def test_one_that_takes_too_long_is_killed(warm: Warm, tiny_model: Path) -> None:
    endless = ["profile", str(tiny_model), "-t", "1", "-r", "1000000", "--budget", "600"]
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run(endless, timeout=0.5)
    assert warm.run(["--version"]).returncode == 0


def test_a_shell_can_call_it(warm: Warm, tmp_path: Path) -> None:
    edgeslm = warm.shell_command()
    done = subprocess.run(
        f"{edgeslm} --version | tr e E; {edgeslm} inspect nothing.gguf",
        shell=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.stdout.startswith("EdgEslm ")
    assert "no such file" in done.stderr
    assert done.returncode == 2
