from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeslm.errors import Failure, OutputFailure, RefusedDevice
from edgeslm.flash import block_device
from edgeslm.flash.block_device import PIECE_BYTES, held, plan_device, write_device
from edgeslm.flash.devices import Device, find_device
from edgeslm.flash.plan import Plan

PLAN = plan_device("/dev/sdx", "sdx (Stick, 32.0 GB)", "board.img", "", 100)
PATTERN = bytes(range(1, 256)) * 64


def some_image(path: Path, size: int) -> Path:
    """Every piece different, and one of zeros."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset in range(0, size - len(PATTERN), PIECE_BYTES):
            if offset != 2 * PIECE_BYTES:
                file.seek(offset)
                file.write(offset.to_bytes(8, "little") + PATTERN)
    return path


def test_the_plan_says_what_is_lost() -> None:
    assert isinstance(PLAN, Plan)
    assert PLAN.notes == ("Everything on /dev/sdx is lost.",)


@pytest.mark.parametrize("more", [0, 512, 70_000 * 512])
def test_what_is_written_is_the_image_and_no_more(tmp_path: Path, more: int) -> None:
    image = some_image(tmp_path / "board.img", 10 * PIECE_BYTES + more)
    disk = tmp_path / "disk"
    disk.write_bytes(b"old" * (20 << 20))
    report = write_device(PLAN, image, disk, exclusive=False)

    size = image.stat().st_size
    with disk.open("rb") as file:
        assert file.read(size) == image.read_bytes()
        assert file.read(1 << 20) == (b"old" * (20 << 20))[size : size + (1 << 20)]
    assert (report.written_bytes, report.verified_bytes) == (size, size)


def test_an_image_smaller_than_a_piece(tmp_path: Path) -> None:
    image, disk = tmp_path / "board.img", tmp_path / "disk"
    image.write_bytes(PATTERN[:1024])
    disk.write_bytes(bytes(4096))
    write_device(PLAN, image, disk, exclusive=False)

    assert disk.read_bytes() == PATTERN[:1024] + bytes(3072)


def failing(monkeypatch: pytest.MonkeyPatch, after: int, number: int) -> None:
    """From so many bytes on, writing fails as if the disk had gone."""
    real = os.pwrite

    def pwrite(descriptor: int, data: Any, offset: int) -> int:
        if offset >= after:
            raise OSError(number, os.strerror(number))
        return real(descriptor, data, offset)

    monkeypatch.setattr(block_device.os, "pwrite", pwrite)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENODEV, "is gone or broken.* after 21.0 MB"),
        (errno.EIO, "is gone or broken.* after 21.0 MB"),
        (errno.ENOSPC, "smaller than it says"),
        (errno.EPERM, "Operation not permitted after 21.0 MB"),
    ],
)
def test_a_disk_that_vanishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    image = some_image(tmp_path / "board.img", 10 * PIECE_BYTES)
    disk = tmp_path / "disk"
    disk.write_bytes(PATTERN * 4000)
    failing(monkeypatch, 5 * PIECE_BYTES, number)

    with pytest.raises(OutputFailure, match=words) as raised:
        write_device(PLAN, image, disk, exclusive=False)
    assert "not usable" in str(raised.value.hint)
    with disk.open("rb") as file:
        assert file.read(PIECE_BYTES) == bytes(PIECE_BYTES)


def test_the_disk_looks_empty_before_anything_else_is_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it is pulled out: a disk holds what it was given in any order until it is asked."""
    image, disk = some_image(tmp_path / "board.img", 3 * PIECE_BYTES), tmp_path / "disk"
    disk.write_bytes(PATTERN * 4000)
    asked: list[bytes] = []
    pwrite, fdatasync = os.pwrite, os.fdatasync

    def write(descriptor: int, data: Any, offset: int) -> int:
        asked.append(bytes(data[:8]) if offset == 0 else b"other")
        return pwrite(descriptor, data, offset)

    def sync(descriptor: int) -> None:
        asked.append(b"sync")
        fdatasync(descriptor)

    monkeypatch.setattr(block_device.os, "pwrite", write)
    monkeypatch.setattr(block_device.os, "fdatasync", sync)
    write_device(PLAN, image, disk, exclusive=False)
    assert asked[:3] == [bytes(8), b"sync", b"other"]
    assert asked[-2:] == [b"sync", image.read_bytes()[:8]]


def test_what_reads_back_differently_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = some_image(tmp_path / "board.img", 4 * PIECE_BYTES)
    disk = tmp_path / "disk"
    disk.touch()
    real = block_device._write

    def damaging(*given: Any) -> list[bytes]:
        digests = real(*given)
        with disk.open("r+b") as file:
            file.seek(3 * PIECE_BYTES - 1)
            file.write(b"\x01")
        return digests

    monkeypatch.setattr(block_device, "_write", damaging)
    with pytest.raises(Failure, match=r"differently between 8.39 MB and 12.6 MB"):
        write_device(PLAN, image, disk, exclusive=False)


def test_a_disk_that_ends_too_early_is_told(tmp_path: Path) -> None:
    image = some_image(tmp_path / "board.img", 2 * PIECE_BYTES)

    with pytest.raises(OutputFailure, match="smaller than it says"):
        write_device(PLAN, image, Path("/dev/full"), exclusive=False)


def test_a_disk_that_is_not_there(tmp_path: Path) -> None:
    image = some_image(tmp_path / "board.img", PIECE_BYTES)

    with pytest.raises(OutputFailure, match=r"cannot write .*No such file"):
        write_device(PLAN, image, tmp_path / "nowhere", exclusive=False)
    assert not (tmp_path / "nowhere").exists()


def test_a_disk_of_others(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"old")
    disk.chmod(0o400)

    with as_nobody(), pytest.raises(OutputFailure, match="permission denied") as raised:
        held(disk, exclusive=False).__enter__()
    assert "sudo" in str(raised.value.hint)
    assert disk.read_bytes() == b"old"


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's rights to everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def attach(file: Path) -> Path:
    """A loop device, or no test."""
    done = subprocess.run(
        ["/usr/sbin/losetup", "--find", "--show", file], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("only root can attach a loop device")
    return Path(done.stdout.strip())


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    backing = tmp_path / "backing"
    backing.write_bytes(b"old" * (8 << 20))
    device = attach(backing)
    yield device
    subprocess.run(["/usr/sbin/losetup", "--detach", device], check=True)


def test_a_real_block_device(tmp_path: Path, loop: Path) -> None:
    image = some_image(tmp_path / "board.img", 5 * PIECE_BYTES + 512)
    write_device(PLAN, image, loop)

    subprocess.run(["cmp", "-n", str(image.stat().st_size), image, loop], check=True)


def test_it_is_nobody_elses_until_it_was_compared(
    tmp_path: Path, loop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = some_image(tmp_path / "board.img", 2 * PIECE_BYTES)
    monkeypatch.setattr(block_device, "_PATIENCE_SECONDS", 0)
    real, tried = block_device._compare, []

    def compare(*given: Any) -> None:
        with pytest.raises(RefusedDevice, match="in use"):
            held(loop).__enter__()
        with pytest.raises(RefusedDevice, match="by another program"):
            held(loop, exclusive=False).__enter__()
        tried.append(given)
        real(*given)

    monkeypatch.setattr(block_device, "_compare", compare)
    write_device(PLAN, image, loop)
    assert tried
    with held(loop):
        pass


def test_who_only_has_a_look_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    other = os.open(disk, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_SH)
    monkeypatch.setattr(block_device.time, "sleep", lambda _: os.close(other))

    with held(disk, exclusive=False):
        pass


def test_only_the_one_that_was_meant(tmp_path: Path, loop: Path) -> None:
    image = some_image(tmp_path / "board.img", PIECE_BYTES)
    meant = find_device(loop)
    with pytest.raises(RefusedDevice, match="another disk now"):
        write_device(PLAN, image, loop, meant=replace(meant, marks=("another",)))
    assert loop.read_bytes()[:6] == b"oldold"

    write_device(PLAN, image, loop, meant=meant)
    assert loop.read_bytes()[:PIECE_BYTES] == image.read_bytes()


def test_another_disk_is_not_touched(tmp_path: Path) -> None:
    """What is opened is compared, whatever its name: a file is no disk at all."""
    image, disk = some_image(tmp_path / "board.img", PIECE_BYTES), tmp_path / "disk"
    disk.write_bytes(b"old")
    meant = Device("sda", 1 << 30, "", "usb", True, False, (), (), False, number="8:0")

    with pytest.raises(RefusedDevice, match="another disk now"):
        write_device(PLAN, image, disk, exclusive=False, meant=meant)
    assert disk.read_bytes() == b"old"


def test_one_that_is_mounted_is_refused_by_the_kernel(tmp_path: Path, loop: Path) -> None:
    image = some_image(tmp_path / "board.img", PIECE_BYTES)
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["/usr/sbin/mke2fs", "-q", loop], check=True)
    if subprocess.run(["mount", loop, place], check=False, capture_output=True).returncode:
        pytest.skip("only root can mount")
    try:
        with pytest.raises(RefusedDevice, match="in use"):
            write_device(PLAN, image, loop)
    finally:
        subprocess.run(["umount", place], check=True)


def test_one_that_fails_in_the_middle(tmp_path: Path) -> None:
    """A disk whose own storage is full: what was taken cannot be kept."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount")
    try:
        with (folder / "backing").open("wb") as file:
            file.truncate(64 << 20)
        device = attach(folder / "backing")
        try:
            image = tmp_path / "board.img"
            image.write_bytes(os.urandom(40 << 20))
            with pytest.raises(OutputFailure, match=r"gone or broken|smaller than it says"):
                write_device(PLAN, image, device)
        finally:
            subprocess.run(["/usr/sbin/losetup", "--detach", device], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)
