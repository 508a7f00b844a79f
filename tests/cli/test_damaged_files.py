"""Damaged model files: each runs, or is refused in one clear line. Nothing crashes."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.gguf.reader import read_header
from edgeslm.testing import tiny_gguf

Edgeslm = Callable[..., subprocess.CompletedProcess[str]]
ARCHITECTURES = ("llama", "gemma3", "qwen2", "qwen3")
HUGE = (0xFF, 0x7F, 0x80, 0x00)


def _damage(data: bytes, header_bytes: int, generator: random.Random) -> bytes:
    """One way in which files go bad: flipped bytes, a lost end, a count gone wild."""
    changed = bytearray(data)
    kind = generator.choice(("flip anywhere", "flip header", "flip header", "cut", "huge"))
    if kind == "cut":
        return bytes(changed[: generator.randrange(len(changed))])
    if kind == "huge":
        start = generator.randrange(4, header_bytes - 8)
        changed[start : start + 8] = bytes(generator.choice(HUGE) for _ in range(8))
        return bytes(changed)
    end = header_bytes if kind == "flip header" else len(changed)
    for _ in range(generator.randrange(1, 9)):
        changed[generator.randrange(end)] = generator.randrange(256)
    return bytes(changed)


def _check(edgeslm: Edgeslm, tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    path = tiny_gguf(tmp_path / f"{seed}.gguf", architecture=generator.choice(ARCHITECTURES))
    header_bytes = read_header(path).data_offset
    path.write_bytes(_damage(path.read_bytes(), header_bytes, generator))
    options = ("--threads", 1, "--context", 256, "--temperature", 0)
    done = edgeslm("run", path, "-p", "hello, world", "-n", 3, *options)
    assert done.returncode in (0, 1, 2), (seed, done)
    assert "Traceback" not in done.stderr, (seed, done.stderr)
    if done.returncode:
        assert done.stderr.count("error: ") == 1, (seed, done.stderr)
        assert "hint: " in done.stderr, (seed, done.stderr)
    path.unlink()


@pytest.mark.parametrize("seed", range(25))
def test_damaged_files_run_or_are_refused(edgeslm: Edgeslm, tmp_path: Path, seed: int) -> None:
    _check(edgeslm, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_five_hundred_damaged_files(edgeslm: Edgeslm, tmp_path: Path) -> None:
    for seed in range(1000, 1500):
        _check(edgeslm, tmp_path, seed)
