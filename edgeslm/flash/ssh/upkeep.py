"""A board that was flashed: how it is, back to the bundle from before, and all of it away."""

from __future__ import annotations

from dataclasses import dataclass

from edgeslm.errors import HostFailure, NotFound
from edgeslm.flash import places
from edgeslm.flash.ssh import before, device_store, runtimes, services
from edgeslm.flash.ssh.board import Board
from edgeslm.flash.ssh.device import Device


@dataclass(frozen=True)
class Status:
    """How a board is.

    Attributes:
        destination: As the user named it.
        system, architecture, memory_bytes, free_bytes, pythons: Of the board.
        rights: root, sudo or none.
        root: The folder that everything lies in.
        runtime: The current one.
        current, previous, versions: Of the store.
        systemd, enabled, active: The service.
        keys: Whose bundles are accepted; all where there are none.
        left_over: Whether an interrupted flash left something behind.
    """

    destination: str
    system: str
    architecture: str
    memory_bytes: int
    free_bytes: int
    pythons: tuple[str, ...]
    rights: str
    root: str
    runtime: str | None
    current: str | None
    previous: str | None
    versions: tuple[str, ...]
    systemd: bool
    enabled: bool
    active: bool
    keys: tuple[str, ...]
    left_over: bool


def status(device: Device) -> Status:
    """How the board is, by its own words."""
    board = device.board
    looked = board.looked
    return Status(
        device.destination.named,
        looked.system,
        looked.architecture,
        looked.memory_bytes,
        looked.free_bytes,
        tuple(".".join(map(str, each)) for each in sorted(board.pythons)),
        board.rights.value,
        looked.root,
        looked.runtime,
        board.current,
        board.previous,
        looked.versions,
        looked.systemd,
        looked.enabled,
        looked.active,
        tuple(board.keys),
        looked.left_over or board.unfinished,
    )


def rollback(device: Device) -> tuple[str, str | None]:
    """Serve the bundle from before again, with the runtime that it went with.

    What is gone back to is written down first, so that a repeated one does not go forth again.

    Returns:
        Its version, and the address where it answers; None where no service runs.

    Raises:
        NotFound: there is none.
        HostFailure: it failed there.
    """
    board = device.board
    begun = board.looked.going_back_to
    target = begun if begun in (board.current, board.previous) else board.previous
    if target is None:
        raise NotFound(f"{device.name}: has no bundle from before", hint="Look at --status.")
    was = before.remember(device)
    device.call("write", files={board.going_back_file: target})
    if target != board.current:
        device_store.rollback(device)
    runtimes.switch_back(device, board.served.get(target))
    address = None
    if board.looked.systemd and board.port is not None:
        try:
            services.start(device)
        except HostFailure as error:
            again = before.serve_again(device, was)
            raise HostFailure(f"{error.message}; {again}", hint=error.hint) from error
        address = services.address(device, board.port)
    before.forget(device)
    return target, address


def uninstall(device: Device, *, keep_models: bool) -> list[str]:
    """Stop the service, and remove all that a flash put there.

    Args:
        device: The board.
        keep_models: Whether the store stays.

    Returns:
        What was removed, paths.
    """
    board = device.board
    services.stop(device)
    if not keep_models:
        services.remove_account(device)
    home = f"{places.HOME}/received" if keep_models else places.HOME
    below = [places.TRUSTED_KEYS, places.OPT, home]
    below += [] if keep_models else [places.SYSUSERS]  # the account goes with the models
    wanted = list(map(board.path, below))
    device.call("remove", paths=[board.unit_file], if_empty=[])
    if board.looked.systemd:
        services.systemctl(device, "daemon-reload")
    device.call("remove", paths=wanted, if_empty=_folders(board))  # last: the lock is there too
    return [board.unit_file, *wanted]


def _folders(board: Board) -> list[str]:
    """What a flash made to put things into, innermost first; in the system itself less is ours."""
    if board.looked.root == "/":
        return ["/etc/edgeslm"]
    scope = "user" if board.alone else "system"
    inner = [f"etc/systemd/{scope}", "etc/systemd", "etc/sysusers.d", "etc/edgeslm", "etc"]
    return [*map(board.path, [*inner, "opt", "var/lib", "var"]), board.looked.root]
