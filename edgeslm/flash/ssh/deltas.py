"""A new version sent as what changed, where the board has an earlier one to build it from."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgeslm import progress
from edgeslm.bundle.delta_inventory import read_inventory
from edgeslm.bundle.delta_making import make_delta
from edgeslm.errors import OutputFailure
from edgeslm.files import scratch_folder, sha256
from edgeslm.flash.ssh import device_store
from edgeslm.flash.ssh.cargo import Cargo
from edgeslm.flash.ssh.device import Device
from edgeslm.flash.ssh.planning import Work

NAME = "update.delta"
_WORTH_BYTES = 1 << 20
"""Of what the board lacks: less is sent as it is."""
_WORTH = 0.8
"""The most that a delta may be of that; it costs the board a rebuild."""


def send_delta(device: Device, cargo: Cargo, work: Work) -> int | None:
    """Have the new version in the board's store by a delta, if that is worth it.

    It is not where the runtime changes too: its wheels are needed before the store is.

    Returns:
        How many bytes were sent; None where nothing was done.

    Raises:
        HostFailure: it failed there.
    """
    lacked = sum(item.bytes for item in work.send)
    board = device.board
    new_runtime = work.install is not None and (
        work.install.runtime.id not in board.looked.runtimes
    )
    able = board.looked.runtime in board.looked.runtimes and not new_runtime
    if not work.receive or not able or not board.looked.versions or lacked < _WORTH_BYTES:
        return None
    with scratch_folder(Path(tempfile.gettempdir()) / "edgeslm") as folder:
        listed, file = folder / "inventory.json", folder / NAME
        listed.write_text(device_store.inventory(device), encoding="utf-8")
        try:
            make_delta(cargo.folder, read_inventory(listed), file)
        except OutputFailure:  # no room for it here
            return None
        size = file.stat().st_size
        if size > _WORTH * lacked:
            return None
        there = f"{board.received_folder}/{NAME}"
        device.call("remove", paths=[there], if_empty=[])  # an earlier one, of another bundle
        with progress.bar("sending what changed", size, unit="bytes") as advance:
            sent = device.send(there, file, size, sha256(file), advance)
    device_store.apply(device, there, trusts=work.service.trusts, again=work.again)
    return sent
