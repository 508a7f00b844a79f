"""What a board has that is no longer what it was received as: that is sent once more.

Files of the store are used again by their names and sizes; reading all of them before each flash
would take longer than most flashes. So they are read where the store has refused something.
"""

from __future__ import annotations

import json
from pathlib import Path

from edgeslm import progress
from edgeslm.errors import HostFailure
from edgeslm.flash import places
from edgeslm.flash.ssh import reading
from edgeslm.flash.ssh.cargo import Cargo, Item
from edgeslm.flash.ssh.device import Device


def damaged_items(device: Device, cargo: Cargo, failure: HostFailure) -> tuple[Item, ...]:
    """What of the cargo the board has damaged; from what was received it is removed.

    Args:
        device: The board.
        cargo: What is carried there.
        failure: What the board said, by which nobody knows what is wrong.

    Returns:
        None of them where damage is in what the cargo does not need.

    Raises:
        HostFailure: that failure, where nothing is damaged or the board is gone.
    """
    if not device.connection.is_open():
        raise failure
    board = device.board
    received = f"{board.received_folder}/blobs"
    versions = board.path(f"{places.STORE}/versions")
    folders = [received, *(f"{versions}/{each}/blobs/sha256" for each in board.looked.versions)]
    python = board.pythons[max(board.pythons)]
    text = Path(reading.__file__).read_text(encoding="utf-8")
    progress.note(f"{device.name}: {failure.message}; reading what is there")
    try:
        paths = json.loads(device.run([python, "-I", "-S", "-c", text, *folders]))
    except HostFailure:
        raise failure from None
    if not paths:
        raise failure
    names = {path.rpartition("/")[2] for path in paths}
    device.notes.append(
        f"Files were damaged there ({len(names)}), and those needed have been sent again: its card "
        "may be wearing out."
    )
    device.call("remove", paths=[path for path in paths if path.startswith(received)], if_empty=[])
    items = {item.sha256: item for item in (*cargo.items, *cargo.runtime_items.values())}
    return tuple(item for digest, item in items.items() if digest in names)
