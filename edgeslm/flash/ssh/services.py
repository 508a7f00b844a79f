"""The service on a board: its account, started, asked, stopped; by the board's systemd."""

from __future__ import annotations

import json

from edgeslm.errors import HostFailure
from edgeslm.flash import places
from edgeslm.flash.service import Service, account_line
from edgeslm.flash.ssh.device import Device

_PATIENCE_SECONDS = 120


def make_account(device: Device) -> None:
    """Make the account that the service runs as, which nobody can log in to."""
    home = device.board.path(places.HOME)
    file = device.board.path(places.SYSUSERS)
    device.call("write", files={file: account_line(home)})
    try:
        device.run(["systemd-sysusers", file])
    except HostFailure:
        words = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", home]
        device.run([*words, "--shell", "/usr/sbin/nologin", places.USER])


def start(device: Device, service: Service) -> list[str]:
    """Enable and restart the service, and wait until it answers.

    Args:
        device: Whose systemd does it.
        service: By which the unit file there was written.

    Returns:
        What the user should know, a sentence each.

    Raises:
        HostFailure: it does not answer.
    """
    if service.account is not None:
        home = device.board.path(places.HOME)
        device.call("own", home=home, account=service.account)
    systemctl(device, "daemon-reload")
    systemctl(device, "enable", device.board.unit_file)
    systemctl(device, "restart", places.SERVICE)
    ensure_healthy(device, service.port)
    return [] if not device.board.alone else _lingering(device)


def ensure_healthy(device: Device, port: int) -> None:
    """Return when the service answers.

    Raises:
        HostFailure: it does not.
    """
    scope = ["--user"] if device.board.alone else []
    answer = device.call("health", port=port, seconds=_PATIENCE_SECONDS, scope=scope)
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
    if device.board.looked.systemd and (
        device.board.looked.enabled
        or device.board.looked.active
        or device.board.looked.unit is not None
    ):
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
