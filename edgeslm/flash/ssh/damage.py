"""What a board has that is no longer what it was received as: that is sent once more.

Files of the store are used again by their names and sizes; reading all of them before each flash
would take longer than most flashes. So they are read where a step has failed that uses them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from edgeslm import progress
from edgeslm.errors import HostFailure
from edgeslm.flash import places
from edgeslm.flash.ssh import reading
from edgeslm.flash.ssh.cargo import Cargo, Item
from edgeslm.flash.ssh.device import Device


def with_mending(
    device: Device, cargo: Cargo, used: Iterable[Item], step: Callable[[], int | None]
) -> int:
    """Do a step, and once more where the board had something damaged that it uses.

    Args:
        device: The board.
        cargo: What is carried there.
        used: What the step uses.
        step: What to do; how many bytes that sent, if any.

    Returns:
        How many bytes were sent.

    Raises:
        HostFailure: it failed, also with what is right.
    """
    try:
        return step() or 0
    except HostFailure as failure:
        sent = mend(device, cargo, used, failure)
    try:
        return sent + (step() or 0)
    except HostFailure as failure:
        worn = f"{failure.message}; and files are damaged there: its card may be wearing out"
        raise HostFailure(worn, hint=failure.hint) from failure


def mend(device: Device, cargo: Cargo, used: Iterable[Item] | None, failure: HostFailure) -> int:
    """Have what the board has damaged of the cargo there as it was; how many bytes were sent.

    Args:
        device: The board.
        cargo: What is carried there.
        used: What has been used; None for whatever is there.
        failure: By which it is known that something is wrong, and not what.

    Raises:
        HostFailure: the failure, where nothing that was used is damaged or the board is gone.
    """
    if not device.connection.is_open():
        raise failure
    progress.note(f"{failure.message}; reading what is there")
    paths = _damaged(device, failure)
    names = {path.rpartition("/")[2] for path in paths}
    if not names or (used is not None and not names & {item.sha256 for item in used}):
        raise failure
    received = f"{device.board.received_folder}/blobs"
    bad = [path for path in paths if path.startswith(f"{received}/")]
    if bad:
        device.call("remove", paths=bad, if_empty=[])
    known = {item.sha256: item for item in (*cargo.items, *cargo.runtime_items.values())}
    items = [known[name] for name in sorted(names & set(known))]
    sent = device.send_items(items)
    stored = [path for path in paths if path not in bad and path.rpartition("/")[2] in known]
    if stored:
        _run(device, "mend", received, *stored)
    device.notes.append(
        f"Files damaged there: {len(names)}; sent again: {len(items)}. Its card may be wearing out."
    )
    return sent


def _damaged(device: Device, failure: HostFailure) -> list[str]:
    board = device.board
    versions = board.path(f"{places.STORE}/versions")
    folders = [f"{versions}/{each}/blobs/sha256" for each in board.looked.versions]
    try:
        found = json.loads(_run(device, "read", f"{board.received_folder}/blobs", *folders))
    except HostFailure:
        raise failure from None
    return [str(path) for path in found]


def _run(device: Device, *words: str) -> str:
    board = device.board
    text = Path(reading.__file__).read_text(encoding="utf-8")
    return device.run([board.pythons[max(board.pythons)], "-I", "-S", "-c", text, *words])
