"""The real runtime on emulated processors: one that it is for, and one that lacks instructions.

QEMU emulates single programs here, and proot has them see a Debian for ARM as their root. What they
read of /proc is this machine's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeslm.files import atomic_path
from edgeslm.flash.wheels.collecting import Collected
from edgeslm.flash.wheels.installer import NAME
from edgeslm.llama import build_note

PROGRAMS = ("qemu-aarch64-static", "proot", "mmdebstrap", "aarch64-linux-gnu-g++")
PACKAGES = "python3,libstdc++6,dash,coreutils"
"""No libgomp1, no pip: what a small system has."""
ABLE, UNABLE = "cortex-a76", "cortex-a72"
COMMAND = "/opt/edgeslm/current/bin/edgeslm"

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        any(shutil.which(program) is None for program in PROGRAMS), reason=f"needs {PROGRAMS}"
    ),
]


def debian(cache: Path) -> Path:
    """A tar of a small Debian 12 for ARM, made once; none of its programs is run for that."""
    path = cache / "emulated" / "debian12-arm64.tar"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            subprocess.run(
                [
                    *("mmdebstrap", "--quiet", "--arch=arm64", "--variant=extract"),
                    *("--skip=check/qemu", f"--include={PACKAGES}", "--format=tar"),
                    *("bookworm", str(temporary), "http://deb.debian.org/debian"),
                ],
                check=True,
            )
    return path


def emulated(
    root: Path, cpu: str, *words: str, model: Path | None = None
) -> subprocess.CompletedProcess[str]:
    shown = [] if model is None else ["-b", str(model)]
    command = ["proot", "-q", f"qemu-aarch64-static -cpu {cpu}", "-r", str(root)]
    command += ["-b", "/proc", "-b", "/dev", *shown, "-w", "/"]
    return subprocess.run(
        [*command, "/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "HOME=/tmp", *words],
        capture_output=True,
        text=True,
        check=False,
    )


def install(root: Path, cpu: str) -> subprocess.CompletedProcess[str]:
    words = ["--runtime", "/wheels/runtime.json", "--wheels", "/wheels", "--no-compile"]
    return emulated(root, cpu, "python3", f"/wheels/{NAME}", *words)


def answer(root: Path, cpu: str, model: Path) -> subprocess.CompletedProcess[str]:
    words = ["run", str(model), "-p", "hello", "-n", "4", "--raw", "--threads", "1"]
    return emulated(root, cpu, COMMAND, *words, model=model)


@pytest.fixture(scope="module")
def root(
    lasting_cache: Path, rpi5_runtime: Collected, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("board") / "root"
    folder.mkdir()
    subprocess.run(
        ["tar", "-xf", debian(lasting_cache), "-C", folder, "--exclude=./dev/*"], check=True
    )
    shutil.copytree(rpi5_runtime.path, folder / "wheels")
    return folder


def test_the_installer_refuses_a_processor_that_lacks_something(root: Path) -> None:
    done = install(root, UNABLE)

    assert done.returncode == 2
    assert "error: this processor has no asimddp, asimdhp, atomics, fphp" in done.stderr
    assert not (root / "opt").exists()


def test_the_right_processor_installs_it_and_answers(root: Path, tiny_model: Path) -> None:
    done = install(root, ABLE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["new"]

    said = answer(root, ABLE, tiny_model)
    assert said.returncode == 0, said.stderr
    assert "4 tokens" in said.stderr


def test_the_wrong_processor_is_told_before_it_dies(root: Path, tiny_model: Path) -> None:
    install(root, ABLE)
    told = answer(root, UNABLE, tiny_model)

    assert told.returncode == 1
    assert told.stderr.startswith("error: llama.cpp was compiled for armv8.2-a+dotprod+fp16")
    assert "has no atomics, asimddp, fphp, asimdhp" in told.stderr
    assert "hint: Make a runtime for this board" in told.stderr
    (note,) = root.glob(f"opt/edgeslm/runtimes/*/site/llama_cpp/lib/{build_note.NAME}")
    hidden = note.rename(note.with_name("hidden"))
    try:
        died = answer(root, UNABLE, tiny_model)
    finally:
        hidden.rename(note)
    assert "Illegal instruction" in died.stderr  # so this is what it was told instead
