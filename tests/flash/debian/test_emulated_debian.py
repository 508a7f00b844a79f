"""From a model to a board that answers, on emulated boards: what a person would type, and QEMU.

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
    """A card with a model in it: EDGESLM_SMOLLM2_GGUF, or a tiny one. Never write to it."""
    folder = tmp_path_factory.mktemp("board")
    model = os.environ.get("EDGESLM_SMOLLM2_GGUF") or tiny_model
    wheels, packed = folder / "wheels", folder / "packed"
    edgeslm("wheels", "--target", TARGET, "--python", "3.13", "-o", wheels)
    edgeslm("pack", model, "-o", packed, "--target", TARGET, "--runtime", wheels)
    words = ["--base", "debian", "--hostname", "emulated"]
    image = folder / "board.img"
    print(edgeslm("flash", packed, "--to", image, *words))
    os.truncate(image, 1 << (image.stat().st_size - 1).bit_length())  # as QEMU wants a card to be
    yield image
    shutil.rmtree(folder)  # gigabytes


@contextmanager
def running(words: list[str], log: Path) -> Iterator[Callable[[], str]]:
    """QEMU with these words; yields what tells the last lines of the board's console."""
    with log.open("wb") as console:
        process = subprocess.Popen(
            ["qemu-system-aarch64", "-display", "none", "-no-reboot", *words],
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


def copied(image: Path, folder: Path, *names: str) -> list[str]:
    """Files of the boot partition, by their new paths."""
    with image.open("rb") as file:

        def read(offset: int, count: int) -> bytes:
            file.seek(offset)
            return file.read(count)

        esp = f"{image}@@{read_table(read, image.stat().st_size).partitions[0].start}"
    for name in names:
        programs.run(["mcopy", "-n", "-i", esp, f"::/{name}", str(folder)])
    return [str(folder / Path(name).name) for name in names]


def kernel_of(image: Path, folder: Path) -> list[str]:
    """The kernel that lies in an image, with what the boot loader gives it."""
    names = ("vmlinuz", "initrd.img", "loader/entries/debian.conf")
    kernel, initrd, entry = copied(image, folder, *names)
    lines = Path(entry).read_text().splitlines()
    options = next(line for line in lines if line.startswith("options "))
    return ["-kernel", kernel, "-initrd", initrd, "-append", options.removeprefix("options ")]


def get(url: str, body: object = None, timeout: float = 10) -> bytes | None:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return bytes(response.read())
    except OSError:
        return None


def asked(words: list[str], log: Path) -> str:
    """Starts a board and asks it.

    Args:
        words: For QEMU, with a device for the network `net`.

    Returns:
        A sentence on how long it took, and what the model said.
    """
    port, began = free_port(), time.monotonic()
    network = f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:8080"
    with running([*words, "-netdev", network], log) as tail:
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
    seconds = time.monotonic() - began
    return f"serves after {up:.0f} s, answered after {seconds:.0f} s: {answer!r}"


def test_a_board_made_from_packages_answers(
    board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", "512", "-serial", "stdio"]
    words += ["-drive", f"file={board},format=raw,if=none,id=card,snapshot=on"]
    words += ["-device", "virtio-blk-device,drive=card", "-device", "virtio-net-device,netdev=net"]
    # The firmware of a board with UEFI; without one here, the kernel that lies in the image.
    words += ["-bios", str(FIRMWARE)] if FIRMWARE.exists() else kernel_of(board, tmp_path)
    said = asked(words, tmp_path / "console.log")
    with capsys.disabled():
        print(f"\nvirt: {said}")


@pytest.mark.slow
def test_a_raspberry_pi_3_started_from_such_a_card_answers(
    board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own firmware, which QEMU lacks, would load the same kernel and device tree."""
    (tree,) = copied(board, tmp_path, "dtb/broadcom/bcm2837-rpi-3-b.dtb")
    words = ["-M", "raspi3b", "-dtb", tree, *kernel_of(board, tmp_path)]
    words += ["-serial", "null", "-serial", "stdio"]  # the second is what the device tree names
    words += ["-drive", f"file={board},format=raw,if=sd,snapshot=on"]
    words += ["-device", "usb-net,netdev=net"]
    said = asked(words, tmp_path / "console.log")
    with capsys.disabled():
        print(f"\nraspi3b: {said}")
