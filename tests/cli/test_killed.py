"""A quantization that is killed at any moment goes on where it was, to the same file."""

from __future__ import annotations

import os
import random
import shutil
import signal
import string
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeslm.files import sha256
from edgeslm.testing import tiny_gguf


@dataclass(frozen=True)
class Job:
    """One command, with a cache of its own."""

    model: Path
    folder: Path
    options: tuple[str, ...]

    @property
    def output(self) -> Path:
        return self.folder / "out" / "small.gguf"

    def start(self) -> subprocess.Popen[bytes]:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "edgeslm", "quantize", self.model, "-o", self.output),
                *self.options,
            ],
            env=os.environ | {"EDGESLM_CACHE": str(self.folder / "cache"), "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def finish(self) -> str:
        """Run to the end; gives the hash of what was written."""
        process = self.start()
        said, _ = process.communicate(timeout=3600)
        assert process.returncode == 0, said.decode()
        assert [path.name for path in self.output.parent.iterdir()] == [self.output.name]
        return sha256(self.output)

    def killed_after(self, seconds: float) -> bool:
        """Start, and kill with all its children; False if it came to its end before."""
        process = self.start()
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        assert process.returncode == 0, said.decode()
        return False

    def forget(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _check(job: Job, kills: int, seed: int, often: int = 1) -> None:
    """Kill a job again and again, and see it end with the bytes of a run that nobody killed.

    Each moment lies in the first of `often` parts of a run's time. What was done stays, so that the
    moments lie all over the work.
    """
    began = time.monotonic()
    whole = job.finish()
    seconds = time.monotonic() - began
    job.forget()
    moments = random.Random(seed)
    done = 0
    while done < kills:
        if job.killed_after(moments.uniform(0, seconds / often)):
            done += 1
        else:
            assert sha256(job.output) == whole
            job.forget()
    assert job.finish() == whole


def _text(path: Path, count: int) -> Path:
    """Of all characters that a tiny model has tokens for, so that a little is enough."""
    path.write_text("".join(random.Random(0).choices(string.printable, k=count)))
    return path


def test_killed_twenty_times(tmp_path: Path) -> None:
    model = tiny_gguf(tmp_path / "model.gguf", layers=4, width=64, feed_forward=128)
    text = _text(tmp_path / "text.txt", 2000)
    calibration = ("--calibration", str(text), "--calibration-tokens", "1024")
    options = ("--bits", "4.6", *calibration, "--threads", "1")
    job = Job(model, tmp_path / "work", options)
    _check(job, 20, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_larger_model_killed_twenty_times(tmp_path: Path) -> None:
    """With EDGESLM_SMOLLM2_GGUF, on that model."""
    given = os.environ.get("EDGESLM_SMOLLM2_GGUF")
    model = Path(given) if given else tmp_path / "model.gguf"
    if not given:
        tiny_gguf(model, layers=6, width=128, heads=4, kv_heads=2, feed_forward=384)
    job = Job(model, tmp_path / "work", ("--bits", "4.6", "--calibration-tokens", "4096"))
    _check(job, 20, seed=2, often=3)
