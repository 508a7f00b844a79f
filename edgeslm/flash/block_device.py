"""An image written to a disk, and read back from it past the memory of this machine.

The first piece, with the partition table in it, is written last: a disk that was not written to its
end looks empty, and no board tries to start from it. Nothing is skipped, because what an image has
as zeros may be anything on an old card.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeslm import progress
from edgeslm.errors import Failure, OutputFailure, RefusedDevice, reading
from edgeslm.flash.devices import Device, ensure_opened
from edgeslm.flash.plan import Plan, Report, Step, on_card
from edgeslm.progress import Advance
from edgeslm.units import format_bytes

PIECE_BYTES = 4 << 20
_SYNC_PIECES = 8
"""After so many the disk is asked to hold them: what is shown as written then really is."""
_GONE = frozenset({errno.ENODEV, errno.ENXIO, errno.EIO, errno.ENOMEDIUM, errno.EREMOTEIO})
_PATIENCE_SECONDS = 5.0
_REREAD = 0x125F
"""BLKRRPART of linux/fs.h: look at the partition table again."""


def plan_device(destination: str, what: str, image: str, digest: str, size: int | None) -> Plan:
    """What writing an image of `size` bytes, if that is known, to a disk does. Pure."""
    return Plan(
        destination,
        image,
        digest,
        (
            Step(f"write {image} to {what}", size or 0, on_card(size)),
            Step("read it back and compare", 0, on_card(size)),
        ),
        (f"Everything on {destination} is lost.",),
    )


def write_device(
    plan: Plan, image: Path, device: Path, *, exclusive: bool = True, meant: Device | None = None
) -> Report:
    """Write an image to a disk, and compare what can be read from it.

    Args:
        plan: What was shown.
        image: The image, not compressed.
        device: The disk, or a file that stands for one and is large enough.
        exclusive: Whether the kernel is asked to refuse a disk that is in use.
        meant: What was confirmed: what is opened has to be that one.

    Raises:
        RefusedDevice: it is in use, or not the one that was meant.
        OutputFailure: it could not be opened or written; it is not usable then.
        Failure: it reads back differently.
    """
    began = time.monotonic()
    with reading(image):
        size = image.stat().st_size
    with held(device, exclusive=exclusive, meant=meant) as target:
        with progress.bar(f"writing {device}", size, unit="bytes") as advance:
            digests = _write(image, device, target, advance)
        with progress.bar("reading back", size, unit="bytes") as advance:
            _compare(device, size, digests, advance)
        _look_again(target)
    notes = ("It can be taken out now.",)
    return Report(plan, size, size, time.monotonic() - began, None, notes)


def _write(image: Path, device: Path, target: int, advance: Advance) -> list[bytes]:
    """Write all of it to a disk that is open; the digest of each piece."""
    with (
        reading(image),
        image.open("rb", buffering=0) as source,
        ThreadPoolExecutor(2, "flash") as pool,
    ):
        first = source.read(PIECE_BYTES)
        _put(device, target, bytes(len(first)), 0)
        _finish(device, 0, [pool.submit(os.fdatasync, target)])
        digests, syncing, offset = [_digest(first)], list[Future[None]](), len(first)
        hashing: list[Future[bytes]] = []
        buffers = [memoryview(bytearray(PIECE_BYTES)) for _ in range(_SYNC_PIECES)]
        while got := source.readinto(buffers[len(hashing)]):
            piece = buffers[len(hashing)][:got]
            hashing.append(pool.submit(_digest, piece))
            _put(device, target, piece, offset)
            offset += got
            advance(got)
            if len(hashing) == _SYNC_PIECES:
                digests += [each.result() for each in hashing]
                hashing.clear()
                _finish(device, offset, syncing)
                syncing = [pool.submit(os.fdatasync, target)]
        digests += [each.result() for each in hashing]
        _finish(device, offset, [*syncing, pool.submit(os.fdatasync, target)])
        _put(device, target, first, 0)
        _finish(device, offset, [pool.submit(os.fsync, target)])
        advance(len(first))
    return digests


def _digest(piece: bytes | memoryview) -> bytes:
    return hashlib.sha256(piece).digest()


def _put(device: Path, descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    try:
        while view:
            done = os.pwrite(descriptor, view, offset)
            view, offset = view[done:], offset + done
    except OSError as error:
        raise _failure(device, offset, error) from error


def _finish(device: Path, offset: int, syncing: Iterable[Future[None]]) -> None:
    """Wait until the disk holds what it was asked to hold."""
    try:
        for each in syncing:
            each.result()
    except OSError as error:
        raise _failure(device, offset, error) from error


def _failure(device: Path, offset: int, error: OSError) -> OutputFailure:
    at = f"after {format_bytes(offset)}" if offset else "at its beginning"
    unusable = "What it holds now is not usable"
    if error.errno in _GONE:
        return OutputFailure(
            f"{device} is gone or broken: {error.strerror} {at}",
            hint=f"Was it pulled out? {unusable}: put it in again and repeat, or use another one.",
        )
    if error.errno == errno.ENOSPC:
        return OutputFailure(
            f"{device} ended {at}: it is smaller than it says",
            hint=f"Use another one; this may be a counterfeit. {unusable}.",
        )
    return OutputFailure(f"cannot write {device}: {error.strerror} {at}", hint=f"{unusable}.")


@contextmanager
def held(device: Path, *, exclusive: bool = True, meant: Device | None = None) -> Iterator[int]:
    """A disk that is open to be written while the block runs, and is nobody else's meanwhile.

    The kernel refuses others that want it for themselves, such as mount, and gives its name to no
    other disk; what looks at new disks by itself waits for the lock (systemd's
    BLOCK_DEVICE_LOCKING).

    Args:
        device: See `write_device`.
        exclusive: See `write_device`.
        meant: See `write_device`.

    Raises:
        RefusedDevice: it is in use, or not the one that was meant.
        OutputFailure: it could not be opened.
    """
    try:
        descriptor = os.open(device, os.O_WRONLY | (os.O_EXCL if exclusive else 0))
    except OSError as error:
        raise _opening_failure(device, error) from error
    try:
        _lock(device, descriptor)
        if meant is not None:
            ensure_opened(meant, os.fstat(descriptor).st_rdev)
        yield descriptor
    finally:
        with suppress(OSError):  # a disk that is gone says so once more
            os.close(descriptor)


def _lock(device: Path, descriptor: int) -> None:
    """Lock it; who only has a look at it is waited for."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= until:
                raise RefusedDevice(
                    f"{device} is in use by another program", hint="Let that one end first."
                ) from error
        except OSError:  # where files have no locks
            return
        time.sleep(0.1)


def _opening_failure(device: Path, error: OSError) -> OutputFailure | RefusedDevice:
    if error.errno == errno.EBUSY:
        return RefusedDevice(f"{device} is in use", hint="Unmount it first.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return OutputFailure(
            f"cannot write {device}: permission denied",
            hint="Disks belong to root: run it with sudo, or as a member of the group disk.",
        )
    return OutputFailure(f"cannot write {device}: {error.strerror}", hint="Check its name.")


def _compare(device: Path, size: int, digests: list[bytes], advance: Advance) -> None:
    offset = 0
    try:
        for piece, expected in zip(_pieces(device, size), digests, strict=True):
            if hashlib.sha256(piece).digest() != expected:
                raise Failure(
                    f"{device} reads back differently between {format_bytes(offset)} and "
                    f"{format_bytes(offset + len(piece))}",
                    hint="Use another card; this one, or its reader, is failing.",
                )
            offset += len(piece)
            advance(len(piece))
    except OSError as error:
        raise Failure(
            f"{device} cannot be read back: {error.strerror} after {format_bytes(offset)}",
            hint="Was it pulled out? Put it in again and repeat, or use another one.",
        ) from error


def _pieces(device: Path, size: int) -> Iterator[memoryview]:
    """What the disk really holds: read directly, or after memory was told to forget it."""
    descriptor = _open_to_read(device)
    try:
        with mmap.mmap(-1, PIECE_BYTES) as buffer, memoryview(buffer) as view:
            offset = 0
            while offset < size:
                wanted = min(PIECE_BYTES, size - offset)
                if os.preadv(descriptor, [view], offset) < wanted:
                    raise OSError(errno.EIO, "it ends too early")
                with view[:wanted] as piece:
                    yield piece
                offset += wanted
    finally:
        os.close(descriptor)


def _open_to_read(device: Path) -> int:
    """Past the memory where that is possible: not on every file system."""
    if hasattr(os, "O_DIRECT"):
        with suppress(OSError):
            return os.open(device, os.O_RDONLY | os.O_DIRECT)
    descriptor = os.open(device, os.O_RDONLY)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return descriptor


def _look_again(descriptor: int) -> None:
    """Have the kernel see the new partitions now, not only when the card is put in again."""
    with suppress(OSError):
        fcntl.ioctl(descriptor, _REREAD)
