"""The service on a board: its account, started, asked, stopped; by the board's systemd."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from edgeslm.errors import HostFailure
from edgeslm.files import HASHES
from edgeslm.flash import places
from edgeslm.flash.service import account_line
from edgeslm.flash.ssh.device import Device

_PATIENCE_SECONDS = 120
_SLOWEST_STORAGE_BYTES_PER_SECOND = 5_000_000
_ROOTS: dict[str, Any] = {
    "shared": [".cache", "edgeslm"],
    "kept": HASHES,
    "roots": ["store", "received", "flash.lock"],
}


def settle_account(device: Device, *, make: bool) -> None:
    """Have the account that the service runs as, and its home so that it cannot move root's away.

    Raises:
        HostFailure: something in its home that we rely on is not root's.
    """
    if make:
        _make_account(device)
    board = device.board
    there = make or board.looked.account or board.account != places.USER
    if board.account is not None and there:
        given = {"home": board.path(places.HOME), "account": board.account}
        if board.account == places.USER:  # see `service.home_lines`
            device.call("own", **given, **_ROOTS)
        else:
            device.call("own", **given, shared=[], kept=None, roots=[])


def _make_account(device: Device) -> None:
    """One that nobody can log in to."""
    home = device.board.path(places.HOME)
    file = device.board.path(places.SYSUSERS)
    device.call("write", files={file: account_line(home)})
    try:
        device.run(["systemd-sysusers", file])
    except HostFailure:
        words = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", home]
        device.run([*words, "--shell", "/usr/sbin/nologin", places.USER])


def start(device: Device) -> list[str]:
    """Enable and restart the service of the unit file there, and wait until it answers.

    Returns:
        What the user should know, a sentence each.

    Raises:
        HostFailure: it does not answer.
    """
    systemctl(device, "daemon-reload")
    systemctl(device, "enable", device.board.unit_file)
    systemctl(device, "restart", places.SERVICE)
    ensure_healthy(device)
    return [] if not device.board.alone else _lingering(device)


def ensure_healthy(device: Device) -> None:
    """Return when the service answers; a large model takes long to load.

    Raises:
        HostFailure: it does not.
    """
    scope = ["--user"] if device.board.alone else []
    board = device.look()
    port = board.port
    if port is None:
        raise HostFailure(f"{device.name}: no service is there", hint="Flash a bundle to it.")
    largest = max(board.stored.values(), default=0)
    seconds = _PATIENCE_SECONDS + largest / _SLOWEST_STORAGE_BYTES_PER_SECOND
    answer = device.call("health", port=port, seconds=seconds, scope=scope)
    try:
        found = json.loads(answer)
        healthy, why = found["healthy"] is True, str(found["why"])
    except (ValueError, TypeError, KeyError):
        healthy, why = False, "the board gave no answer"
    if healthy and not device.look().looked.active:
        healthy, why = False, f"another program answers on port {port}"
    if not healthy:
        words = " ".join(["journalctl", *scope, "-u", places.SERVICE, "-n", "50"])
        raise HostFailure(
            f"{device.name}: the service does not answer: {why}",
            hint=f"See why, there: {words}",
        )


def stop(device: Device) -> None:
    """Stop and disable the service, if it is there."""
    looked = device.board.looked
    if not looked.systemd:
        return
    if looked.enabled or looked.active:
        systemctl(device, "disable", "--now", places.SERVICE)
    elif looked.unit is not None:
        with suppress(HostFailure):  # systemd does not know it yet, or no more
            systemctl(device, "disable", "--now", places.SERVICE)


def remove_account(device: Device) -> None:
    """Remove the service's account if a flash made it."""
    if device.board.looked.account and device.board.looked.made_account:
        device.run(["userdel", places.USER])


def systemctl(device: Device, *words: str) -> None:
    """Tell the systemd that has the service."""
    scope = ["--user"] if device.board.alone else []
    device.run(["systemctl", *scope, *words], held=False)


def address(device: Device, port: int) -> str:
    """Where it answers, for others in the network."""
    host = device.connection.host()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/"


def _lingering(device: Device) -> list[str]:
    """Have the user's systemd start with the board, not only when the user logs in."""
    user = device.board.looked.user
    try:
        device.run(["loginctl", "enable-linger", user])
    except HostFailure:
        return [
            f"It starts when {user} logs in. To start it with the board, as its administrator: "
            f"loginctl enable-linger {user}"
        ]
    return []
