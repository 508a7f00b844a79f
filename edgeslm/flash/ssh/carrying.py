"""What was planned for a board, done; interrupted anywhere and repeated, it ends the same.

Files arrive in a folder of their own, and the board verifies each. The runtime is unpacked by the
installer, the bundle put into the store by the store: both have a name only once they are
complete. What is current changes last, and only to what answered there.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from edgeslm.errors import Failure, HostFailure
from edgeslm.flash import places
from edgeslm.flash.plan import Report
from edgeslm.flash.ssh import before, device_store, runtimes, services
from edgeslm.flash.ssh.board import Before
from edgeslm.flash.ssh.cargo import Cargo, Item
from edgeslm.flash.ssh.damage import mend, with_mending
from edgeslm.flash.ssh.deltas import NAME as DELTA
from edgeslm.flash.ssh.deltas import send_delta
from edgeslm.flash.ssh.device import Device
from edgeslm.flash.ssh.planning import Chosen, Work, items_of
from edgeslm.flash.wheels.installer import NAME, installer

_RUNTIME = "runtime"
_KEPT_VERSIONS = 2


def carry_out(work: Work, cargo: Cargo, device: Device) -> Report:
    """Do it.

    Args:
        work: What is left to do, by the board as it was asked last.
        cargo: What is carried.
        device: The board.

    Raises:
        HostFailure: something failed there; what was current is it still.
        OutputFailure: it has no room.
    """
    began = time.monotonic()
    services.settle_account(device, make=work.account)
    by_delta, sent = _bring(device, cargo, work)
    repeated = device.board.unfinished
    was = before.remember(device)
    try:
        if work.keys:
            folder = device.board.path(places.TRUSTED_KEYS)
            files = {f"{folder}/{name}": text for name, text in work.keys.items()}
            device.call("write", files=files)
        sent += _install(device, cargo, work.install)
        sent += 0 if by_delta else _receive(device, cargo, work)
        _activate(device, cargo, work)
    except Failure:
        _leave(device, was, restart=repeated or work.pause)
        raise
    _note(device, cargo.version)
    if work.unit is not None:
        device.call("write", files={device.board.unit_file: work.unit})
    if work.tidy or device.notes:
        tidy(device)
    notes = [*work.plan.notes, *(_start(device, was) if work.start else ()), *device.notes]
    before.forget(device)
    verified = sum(item.bytes for item in cargo.items) if work.receive else 0
    address = services.address(device, work.service.port) if device.board.looked.systemd else None
    seconds = time.monotonic() - began
    return Report(work.plan, sent, verified, seconds, address, tuple(notes))


def tidy(device: Device) -> None:
    """Remove what was received and put where it belongs, and what an uninstalling left."""
    folder = device.board.received_folder
    names = ("blobs", "bundle", _RUNTIME, NAME, f"{NAME}.part", DELTA, f"{DELTA}.part")
    gone = [f"{device.board.path(place)}.edgeslm-gone" for place in (places.HOME, places.OPT)]
    paths = [*(f"{folder}/{name}" for name in names), *gone]
    device.call("remove", paths=paths, if_empty=[])


def _bring(device: Device, cargo: Cargo, work: Work) -> tuple[bool, int]:
    """Have there what is lacking; whether a delta did it all, and how many bytes were sent."""
    sent = 0
    try:
        by_delta = send_delta(device, cargo, work)
    except HostFailure as failure:
        by_delta = None
        sent = mend(device, cargo, None, failure)
        folder = device.board.received_folder
        rest = device.board.path(f"{places.STORE}/incoming/{cargo.version}")  # what it had made
        paths = [f"{folder}/{DELTA}", f"{folder}/{DELTA}.part", rest]
        device.call("remove", paths=paths, if_empty=[])
    if by_delta is not None:
        return True, by_delta
    return False, sent + device.send_items(work.send)


def _install(device: Device, cargo: Cargo, chosen: Chosen | None) -> int:
    """Have the runtime there as the current one; none is that did not start there before."""
    if chosen is not None and chosen.runtime.id not in device.board.looked.runtimes:
        assert cargo.runtimes is not None  # noqa: S101  chosen of it
        used = items_of(cargo, cargo.runtimes, chosen)
        return with_mending(device, cargo, used, lambda: _unpack(device, cargo, chosen))
    command = places.COMMAND
    if chosen is not None:
        command = f"{places.OPT}/runtimes/{chosen.runtime.id}/bin/edgeslm"
    try:
        device.run([device.board.path(command), "--version"])
    except HostFailure as error:
        raise HostFailure(
            f"{device.name}: the runtime does not start there: {error.message}", hint=error.hint
        ) from error
    if chosen is not None:
        runtimes.switch(device, chosen.runtime.id)
    return 0


def _unpack(device: Device, cargo: Cargo, chosen: Chosen) -> int:
    board = device.board
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / NAME
        file.write_bytes(data := installer())
        program = f"{board.received_folder}/{NAME}"
        device.call("remove", paths=[program], if_empty=[])  # that of another version
        digest = hashlib.sha256(data).hexdigest()
        sent = device.send(program, file, len(data), digest, lambda _: None)
    assert cargo.runtimes is not None and cargo.runtime_list is not None  # noqa: S101  chosen of it
    folder = f"{board.received_folder}/{_RUNTIME}"
    wheels = _place(device, folder, items_of(cargo, cargo.runtimes, chosen), {})
    words = [chosen.python, "-I", program, "--runtime", f"{wheels}/{cargo.runtime_list}"]
    words += ["--wheels", wheels, "--root", board.looked.root, "--place", places.OPT]
    device.run(words)
    if device.look().looked.runtime != chosen.runtime.id:
        raise HostFailure(
            f"{device.name}: another runtime was unpacked there than was planned",
            hint="Run it again.",
        )
    return sent


def _leave(device: Device, was: Before, *, restart: bool) -> None:
    """What is served goes on being served, with its runtime; the failure itself is told."""
    if restart:
        before.serve_again(device, was)
    elif device.connection.is_open():
        with suppress(Failure):
            runtimes.switch_back(device, was.runtime)
            before.forget(device)


def _receive(device: Device, cargo: Cargo, work: Work) -> int:
    """Have the bundle in the store, each byte of it as it is here; how many were sent for that."""
    if not (work.receive or work.activate):
        return 0

    def step() -> None:
        if work.receive:
            _add(device, cargo, work)
        else:  # it came with an earlier flash
            device_store.verify(device, cargo.version)

    return with_mending(device, cargo, cargo.items, step)


def _activate(device: Device, cargo: Cargo, work: Work) -> None:
    trusts, again = work.service.trusts, work.again
    if work.activate:
        scope = ["--user"] if device.board.alone else []
        paused = scope if work.pause else None
        device_store.activate(device, cargo.version, trusts=trusts, again=again, paused=paused)
        if len(device.look().looked.versions) > _KEPT_VERSIONS:
            device_store.collect(device)


def _add(device: Device, cargo: Cargo, work: Work) -> None:
    files = {name: item.sha256 for name, item in cargo.files.items()}
    board = device.board
    folder = f"{board.received_folder}/bundle"
    _place(device, folder, cargo.blobs, files)
    incoming = board.path(f"{places.STORE}/incoming/{cargo.version}")
    _place(device, incoming, cargo.blobs, {}, copied=False)  # the store copies none of these
    device_store.add(device, folder, trusts=work.service.trusts, again=work.again)


def _place(
    device: Device,
    folder: str,
    items: Iterable[Item],
    files: dict[str, str],
    *,
    copied: bool = True,
) -> str:
    """A folder there that has files under their hashes; where these lie in it."""
    board = device.board
    device.call(
        "place",
        to=folder,
        copied=copied,
        blobs=[item.sha256 for item in items],
        files=files,
        received=f"{board.received_folder}/blobs",
        versions=board.path(f"{places.STORE}/versions"),
    )
    return f"{folder}/blobs/sha256"


def _note(device: Device, version: str) -> None:
    """Write down which runtime the version goes with, for the day when it is gone back to."""
    board = device.look()
    if board.looked.runtime is not None and board.served.get(version) != board.looked.runtime:
        known = {name: run for name, run in board.served.items() if name in board.looked.versions}
        text = json.dumps({**known, version: board.looked.runtime}) + "\n"
        device.call("write", files={board.served_file: text})


def _start(device: Device, was: Before) -> list[str]:
    """Restart the service; when it does not answer, what was there before is served again."""
    try:
        return services.start(device)
    except HostFailure as error:
        again = before.serve_again(device, was)
        raise HostFailure(f"{error.message}; {again}", hint=error.hint) from error
