"""Boards under QEMU: what a person would type to make one, and what QEMU is told.

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
MOST_SECONDS = 900
PYTHONS = {"trixie": "3.13", "bookworm": "3.11"}
_PACKAGES = "http://deb.debian.org/debian/dists/{suite}/InRelease"
_FIRMWARE = Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd")
_PROGRAMS = ("qemu-system-aarch64", "aarch64-linux-gnu-g++")
_LACKING = [name for name in _PROGRAMS if shutil.which(name) is None]
_LACKING += [name for name in base.PROGRAMS if programs.lacks(name)]
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgeslm"

MARKS = [
    pytest.mark.emulated,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(bool(_LACKING), reason=f"not installed: {', '.join(_LACKING)}"),
]


def edgeslm(*words: object) -> str:
    """What a command prints, with the user's own cache: what takes minutes is made once."""
    done = subprocess.run(
        [sys.executable, "-m", "edgeslm", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"EDGESLM_CACHE": str(_CACHE)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pack(model: Path, folder: Path, *words: object, suite: str = "trixie") -> Path:
    """A bundle of a model, with the runtime for the board, which lies beside it."""
    wheels = folder.parent / "wheels"
    if not wheels.exists():
        edgeslm("wheels", "--target", TARGET, "--python", PYTHONS[suite], "-o", wheels)
    edgeslm("pack", model, "-o", folder, "--target", TARGET, "--runtime", wheels, *words)
    return folder


def make_card(packed: Path, image: Path, *words: object, suite: str = "trixie") -> None:
    """A card with a bundle in it, as large as QEMU wants a card to be."""
    packages = _PACKAGES.format(suite=suite)
    if not any(_CACHE.glob(f"debian/{suite}-*.img")) and get(packages) is None:
        pytest.skip(f"no base is kept, and {packages} cannot be reached")
    print(edgeslm("flash", packed, "--to", image, "--base", f"debian:{suite}", *words))
    os.truncate(image, 1 << (image.stat().st_size - 1).bit_length())


def virt(image: Path, folder: Path) -> list[str]:
    """For QEMU: a board with a Cortex-A53 and 512 MB that is started from a card.

    By the firmware of a board with UEFI; without one here, by the kernel that lies in the image.
    """
    words = ["-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", "512", "-serial", "stdio"]
    words += ["-drive", f"file={image},format=raw,if=none,id=card,snapshot=on"]
    words += ["-device", "virtio-blk-device,drive=card", "-device", "virtio-net-device,netdev=net"]
    if _FIRMWARE.exists():
        return [*words, "-bios", str(_FIRMWARE)]
    return words + kernel_of(image, folder)


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


@contextmanager
def running(
    words: list[str], folder: Path, *inside: int
) -> Iterator[tuple[Callable[[], str], list[int]]]:
    """A board that runs.

    Args:
        words: For QEMU, with a device for the network `net`.
        folder: Where its console is written to.
        inside: The board's ports that can be reached.

    Yields:
        What tells the last lines of its console, or raises Failure when QEMU has ended; and the
        ports of this machine that lead to it.
    """
    ports, log = [free_port() for _ in inside], folder / "console.log"
    led = "".join(
        f",hostfwd=tcp:127.0.0.1:{port}-:{there}" for port, there in zip(ports, inside, strict=True)
    )
    command = ["qemu-system-aarch64", "-display", "none", "-no-reboot", *words]
    with log.open("wb") as console:
        process = subprocess.Popen(
            [*command, "-netdev", f"user,id=net{led}"],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )

    def tail() -> str:
        text = log.read_text(errors="replace")
        if process.poll() is not None:
            raise Failure(f"QEMU ended: {text[-2000:]}")
        return text[-3000:]

    try:
        yield tail, ports
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(
    what: Callable[[], object], tail: Callable[[], str], most_seconds: float = MOST_SECONDS
) -> float:
    """The seconds until it is true."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < most_seconds, tail()
        tail()
        time.sleep(2)
    return time.monotonic() - began


def get(url: str, body: object = None, timeout: float = 10) -> bytes | None:
    """What is answered; None where nothing is."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return bytes(response.read())
    except OSError:
        return None
