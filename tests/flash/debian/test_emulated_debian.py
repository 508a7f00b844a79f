"""From a model to a board that answers, on an emulated board: what a person would type, and QEMU.

Everything is real but the board: Debian's packages are fetched where no base is kept, the runtime
is compiled where it is not kept. Emulation is slow, and how slow says nothing of boards.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeslm.errors import Failure
from edgeslm.flash import programs
from edgeslm.flash.debian import base
from edgeslm.flash.image.partitions import read_table

TARGET = "rpi-zero-2w"
FIRMWARE = Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd")
PROGRAMS = ("qemu-system-aarch64", "aarch64-linux-gnu-g++")
LACKING = [name for name in PROGRAMS if shutil.which(name) is None]
LACKING += [name for name in base.PROGRAMS if programs.lacks(name)]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgeslm"
MOST_SECONDS = 900

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]


def edgeslm(*words: object) -> str:
    """What a command prints, with the user's own cache: what takes minutes is made once."""
    done = subprocess.run(
        [sys.executable, "-m", "edgeslm", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"EDGESLM_CACHE": str(CACHE)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def board(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An image with a model in it: EDGESLM_SMOLLM2_GGUF, or a tiny one."""
    folder = tmp_path_factory.mktemp("board")
    model = os.environ.get("EDGESLM_SMOLLM2_GGUF") or tiny_model
    wheels, packed = folder / "wheels", folder / "packed"
    edgeslm("wheels", "--target", TARGET, "--python", "3.13", "-o", wheels)
    edgeslm("pack", model, "-o", packed, "--target", TARGET, "--runtime", wheels)
    words = ["--base", "debian", "--hostname", "emulated"]
    print(edgeslm("flash", packed, "--to", folder / "board.img", *words))
    yield folder / "board.img"
    shutil.rmtree(folder)  # gigabytes


@contextmanager
def running(words: list[str], log: Path) -> Iterator[Callable[[], str]]:
    """QEMU with these words; yields what tells the last lines of the board's console."""
    with log.open("wb") as console:
        process = subprocess.Popen(
            ["qemu-system-aarch64", "-nographic", "-no-reboot", *words],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )

        def tail() -> str:
            if process.poll() is not None:
                raise Failure(f"QEMU ended: {log.read_text(errors='replace')[-2000:]}")
            return log.read_text(errors="replace")[-3000:]

        try:
            yield tail
        finally:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def started_by(image: Path, folder: Path) -> list[str]:
    """The firmware of a board with UEFI; without one here, the kernel that lies in the image."""
    if FIRMWARE.exists():
        return ["-bios", str(FIRMWARE)]
    with image.open("rb") as file:

        def read(offset: int, count: int) -> bytes:
            file.seek(offset)
            return file.read(count)

        esp = f"{image}@@{read_table(read, image.stat().st_size).partitions[0].start}"
    for name in ("vmlinuz", "initrd.img", "loader/entries/debian.conf"):
        programs.run(["mcopy", "-n", "-i", esp, f"::/{name}", str(folder)])
    lines = (folder / "debian.conf").read_text().splitlines()
    options = next(line for line in lines if line.startswith("options "))
    kernel = ["-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd.img")]
    return [*kernel, "-append", options.removeprefix("options ")]


def get(url: str, body: object = None, timeout: float = 10) -> bytes | None:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return bytes(response.read())
    except OSError:
        return None


def test_a_board_made_from_packages_answers(
    board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port, began = free_port(), time.monotonic()
    words = ["-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", "512"]
    words += ["-drive", f"file={board},format=raw,if=none,id=card"]
    words += ["-device", "virtio-blk-device,drive=card", "-device", "virtio-net-device,netdev=net"]
    words += ["-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:8080"]
    words += started_by(board, tmp_path)
    with running(words, tmp_path / "console.log") as tail:
        where = f"http://127.0.0.1:{port}"
        while get(f"{where}/health") is None:
            assert time.monotonic() - began < MOST_SECONDS, tail()
            tail()
            time.sleep(2)
        up = time.monotonic() - began
        question = [{"role": "user", "content": "What is the capital of France?"}]
        wanted = {"messages": question, "max_tokens": 8, "temperature": 0}
        said = get(f"{where}/v1/chat/completions", wanted, timeout=MOST_SECONDS)
        assert said is not None, tail()
        wanted = {"prompt": "The capital of France is", "max_tokens": 2, "temperature": 0}
        firm = get(f"{where}/v1/completions", wanted, timeout=MOST_SECONDS)
        assert firm is not None, tail()

    document = json.loads(said)
    answer = document["choices"][0]["message"]["content"]
    assert document["usage"]["completion_tokens"] > 0
    if "EDGESLM_SMOLLM2_GGUF" in os.environ:  # its answer to a question hangs by less than rounding
        assert "Paris" in json.loads(firm)["choices"][0]["text"]
    with capsys.disabled():
        seconds = time.monotonic() - began
        print(f"\n{words[-2]}: serves after {up:.0f} s, answered after {seconds:.0f} s: {answer!r}")
