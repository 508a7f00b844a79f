"""The store of a board, by the commands of its own edgeslm; each waits for its turn there."""

from __future__ import annotations

from edgeslm.flash import places
from edgeslm.flash.ssh.device import Device


def add(device: Device, folder: str, *, trusts: bool) -> None:
    """Put a bundle that lies there into the store; it is verified byte for byte."""
    _store(device, "add", folder, trusts=trusts)


def activate(device: Device, version: str, *, trusts: bool) -> None:
    """Check that a version answers on that board, and make it the current one.

    Raises:
        HostFailure: it does not; what was the current one is it still.
    """
    _store(device, "activate", version, trusts=trusts)


def rollback(device: Device) -> None:
    """Make the previous version the current one."""
    _store(device, "rollback")


def collect(device: Device) -> None:
    """Remove versions that are neither current nor previous."""
    _store(device, "collect")


def _store(device: Device, *words: str, trusts: bool = False) -> str:
    board = device.board
    keys = {"EDGESLM_TRUSTED_KEYS": board.path(places.TRUSTED_KEYS)} if trusts else {}
    verb, *rest = words
    store = board.path(places.STORE)
    return device.run(
        [board.path(places.COMMAND), "store", verb, *rest, "--store", store, "--json"], keys
    )
