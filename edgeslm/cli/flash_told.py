"""What a board is told at its first start: from what was typed to what is written."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeslm.errors import InvalidOption
from edgeslm.files import read_text

if TYPE_CHECKING:
    from edgeslm.flash.image.settings import Settings, Wifi


@dataclass(frozen=True)
class Told:
    """What a board is told at its first start, as it was typed."""

    hostname: str | None = None
    user: str | None = None
    password_file: Path | None = None
    password_prompt: bool = False
    ssh_keys: tuple[Path, ...] = ()
    ssh: bool = False
    wifi: str | None = None
    wifi_password_file: Path | None = None
    wifi_country: str | None = None
    locale: str | None = None
    timezone: str | None = None
    keyboard: str | None = None


def settings_of(told: Told) -> Settings:
    """The same, checked; passwords as hashes.

    Raises:
        EdgeslmError: something is malformed, contradicts itself, or cannot be read.
    """
    from edgeslm.flash.image.passwords import account_hash
    from edgeslm.flash.image.settings import Settings, public_keys

    password = _password(told)
    return Settings(
        hostname=told.hostname,
        user=told.user,
        password_hash=None if password is None else account_hash(password),
        ssh_keys=tuple(key for file in told.ssh_keys for key in public_keys(read_text(file))),
        ssh=told.ssh,
        wifi=_wifi(told),
        locale=told.locale,
        timezone=told.timezone,
        keyboard=told.keyboard,
    )


def _password(told: Told) -> str | None:
    if told.password_file is not None and told.password_prompt:
        raise InvalidOption(
            "--password-file and --password-prompt exclude each other", hint="Use one of them."
        )
    if told.password_file is not None:
        return _first_line(told.password_file)
    if not told.password_prompt:
        return None
    if not sys.stdin.isatty():
        raise InvalidOption("nobody can be asked for a password", hint="Use --password-file FILE.")
    asked = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return str(asked)


def _wifi(told: Told) -> Wifi | None:
    from edgeslm.flash.image.passwords import wifi_key
    from edgeslm.flash.image.settings import Wifi

    if told.wifi is None:
        if told.wifi_password_file is not None or told.wifi_country is not None:
            raise InvalidOption("no Wi-Fi network is named", hint="Add --wifi SSID.")
        return None
    if told.wifi_country is None:
        raise InvalidOption(
            "a Raspberry Pi keeps its Wi-Fi off until it knows in which country it is",
            hint="Add --wifi-country CC, as in DE.",
        )
    key = None
    if told.wifi_password_file is not None:
        key = wifi_key(told.wifi, _first_line(told.wifi_password_file))
    return Wifi(told.wifi, key, told.wifi_country)


def _first_line(file: Path) -> str:
    lines = read_text(file).splitlines()
    return lines[0] if lines else ""
