"""Which of a board's runtimes is the current one. All that have a name there are complete."""

from __future__ import annotations

from edgeslm.flash import places
from edgeslm.flash.ssh.device import Device


def switch(device: Device, runtime: str) -> None:
    """Make a runtime that is there the current one; the one from before stays beside it."""
    before = device.board.looked.runtime
    if before == runtime:
        return
    if before is not None:
        _lead(device, "previous", before)
    _lead(device, "current", runtime)
    device.look()


def switch_back(device: Device, runtime: str | None) -> None:
    """The same if that runtime is there."""
    if runtime is not None and runtime in device.look().looked.runtimes:
        switch(device, runtime)


def _lead(device: Device, link: str, runtime: str) -> None:
    path = device.board.path(f"{places.OPT}/{link}")
    device.call("lead", link=path, target=f"runtimes/{runtime}")
