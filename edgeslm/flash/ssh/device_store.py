"""The store of a board, by the commands of its own edgeslm; each waits for its turn there."""

from __future__ import annotations

from collections.abc import Sequence

from edgeslm.flash import places
from edgeslm.flash.ssh.device import Device

_AGAIN = ((), ("--again",))


def add(device: Device, folder: str, *, trusts: bool, again: bool) -> None:
    """Put a bundle that lies there into the store; it is verified byte for byte.

    Args:
        device: The board.
        folder: The bundle there.
        trusts: Whether it has to be signed with a key that the board trusts.
        again: Whether one is taken that has not passed its check before.
    """
    _store(device, "add", folder, *_AGAIN[again], trusts=trusts)


def apply(device: Device, delta: str, *, trusts: bool, again: bool) -> None:
    """Put a version together from what is there and what a delta brings.

    Args:
        device: The board.
        delta: The file there.
        trusts: See `add`.
        again: See `add`.
    """
    _store(device, "apply", delta, *_AGAIN[again], trusts=trusts)


def inventory(device: Device) -> str:
    """What the store has to build a version from: the text of a document."""
    return _store(device, "inventory")


def verify(device: Device, version: str) -> None:
    """Read a version that is there, and compare it with what it has to be.

    Raises:
        HostFailure: it is not.
    """
    board = device.board
    folder = board.path(f"{places.STORE}/versions/{version}")
    device.run([board.path(places.COMMAND), "verify", folder, "--json"])


def activate(
    device: Device, version: str, *, trusts: bool, again: bool, paused: Sequence[str] | None = None
) -> None:
    """Check that a version answers on that board, and make it the current one.

    Args:
        device: The board.
        version: The one.
        trusts: See `add`.
        again: See `add`.
        paused: See `Device.run`.

    Raises:
        HostFailure: it does not; what was the current one is it still.
    """
    _store(device, "activate", version, *_AGAIN[again], trusts=trusts, paused=paused)


def rollback(device: Device) -> None:
    """Make the previous version the current one."""
    _store(device, "rollback")


def collect(device: Device) -> None:
    """Remove versions that are neither current nor previous."""
    _store(device, "collect")


def _store(
    device: Device, *words: str, trusts: bool = False, paused: Sequence[str] | None = None
) -> str:
    board = device.board
    keys = {"EDGESLM_TRUSTED_KEYS": board.path(places.TRUSTED_KEYS)} if trusts else {}
    verb, *rest = words
    store = board.path(places.STORE)
    command = [board.path(places.COMMAND), "store", verb, *rest, "--store", store, "--json"]
    return device.run(command, keys, paused=paused)
