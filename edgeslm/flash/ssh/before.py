"""What a board served before a flash: written down there until a service has answered after it.

So a flash that is interrupted and repeated starts the service with what was changed meanwhile, and
one that fails goes back to what was served, however often it was begun.
"""

from __future__ import annotations

import json

from edgeslm.errors import Failure
from edgeslm.flash.ssh import device_store, runtimes, services
from edgeslm.flash.ssh.board import Before
from edgeslm.flash.ssh.device import Device
from edgeslm.records import to_json


def remember(device: Device) -> Before:
    """Write down what is served, if nothing is unfinished already; what was served before."""
    board = device.board
    if board.before is not None:
        return board.before
    found = Before(board.current, board.looked.runtime, board.looked.unit)
    device.call("write", files={board.before_file: json.dumps(to_json(found)) + "\n"})
    return found


def forget(device: Device) -> None:
    """A service has answered, or nothing was changed."""
    board = device.board
    device.call("remove", paths=[board.before_file, board.going_back_file], if_empty=[])


def serve_again(device: Device, before: Before) -> str:
    """Go back to what was served before; in words for people whether that was possible."""
    if not device.connection.is_open():
        return "run it again when the board can be reached"
    if before.version is None:
        return "nothing was served there before"
    try:
        _go_back(device, before)
    except Failure as error:
        return f"what was served before does not answer either: {error.message}"
    return "what was served before is served again"


def _go_back(device: Device, before: Before) -> None:
    board = device.look()
    if before.version == board.previous:
        device_store.rollback(device)
    runtimes.switch_back(device, before.runtime)
    if board.looked.systemd:
        if before.unit not in (None, board.looked.unit):
            device.call("write", files={board.unit_file: before.unit})
        services.start(device)
    forget(device)
