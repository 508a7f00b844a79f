"""What a board is told at its first start: names, accounts, network, language. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from edgeslm.errors import InvalidOption

_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
_USER = re.compile(r"[a-z][a-z0-9-]{0,31}")
_SYSTEM_USERS = frozenset({"root", "edgeslm"})
_COUNTRY = re.compile(r"[A-Z]{2}")
_LOCALE = re.compile(r"[a-z]{2,3}_[A-Z]{2}(\.UTF-8)?(@[a-z]+)?")
_TIMEZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}")
_KEYBOARD = re.compile(r"[a-z]{2,8}")
_SSH_KEY = re.compile(
    r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp\d{3}|sk-[a-z0-9-]+@openssh\.com) [A-Za-z0-9+/=]+( .*)?"
)
_HASH = re.compile(r"\$(6|y|5)\$[A-Za-z0-9./=$]+")
_KEY_DIGITS = re.compile("[0-9a-f]{64}")
_MOST_SSID_BYTES = 32


@dataclass(frozen=True)
class Wifi:
    """A network.

    Attributes:
        ssid: Its name.
        key: 64 hex digits that its password stands for; None where it has no password.
        country: Two capital letters: which channels may be used; a Raspberry Pi keeps its radio
            off until it knows.
    """

    ssid: str
    key: str | None
    country: str

    def __post_init__(self) -> None:
        size = len(self.ssid.encode())
        if not 1 <= size <= _MOST_SSID_BYTES or not self.ssid.isprintable():
            raise InvalidOption(
                f"not the name of a network: {self.ssid!r}", hint="1 to 32 bytes, printable."
            )
        if not _COUNTRY.fullmatch(self.country):
            raise InvalidOption(
                f"not a country: {self.country!r}",
                hint="Two capital letters, as in --wifi-country DE.",
            )
        if self.key is not None and not _KEY_DIGITS.fullmatch(self.key):
            raise ValueError("a network's key has 64 hex digits")


@dataclass(frozen=True)
class Settings:
    """All of them; None or nothing leaves a thing as the image has it.

    Attributes:
        hostname: The board's name in its network.
        user: Who can log in; the image's own first user gets this name.
        password_hash: Of that user, in the form of /etc/shadow.
        ssh_keys: Lines of authorized_keys for that user; they turn the ssh server on.
        ssh: Whether people may come in over ssh with a password.
        wifi: A network.
        locale: As in "de_DE.UTF-8".
        timezone: As in "Europe/Berlin".
        keyboard: As in "de".
    """

    hostname: str | None = None
    user: str | None = None
    password_hash: str | None = None
    ssh_keys: tuple[str, ...] = ()
    ssh: bool = False
    wifi: Wifi | None = None
    locale: str | None = None
    timezone: str | None = None
    keyboard: str | None = None

    def __post_init__(self) -> None:
        _ensure(self.hostname, _HOSTNAME, "a host name", "Letters, digits and -: --hostname pi5.")
        _ensure(self.user, _USER, "a user's name", "Small letters, digits and -, a letter first.")
        _ensure(self.locale, _LOCALE, "a locale", "As in --locale de_DE.UTF-8.")
        _ensure(self.timezone, _TIMEZONE, "a time zone", "As in --timezone Europe/Berlin.")
        _ensure(self.keyboard, _KEYBOARD, "a keyboard", "As in --keyboard de.")
        _ensure(self.password_hash, _HASH, "a hash of a password", "Give --password-file FILE.")
        for key in self.ssh_keys:
            if not _SSH_KEY.fullmatch(key) or not key.isprintable():
                raise InvalidOption(
                    f"not a public ssh key: {key[:40]!r}",
                    hint="Name a file such as ~/.ssh/id_ed25519.pub.",
                )
        self._check_login()

    def _check_login(self) -> None:
        if self.user in _SYSTEM_USERS:
            raise InvalidOption(
                f"the user cannot be {self.user}", hint="Choose another name for --user."
            )
        can_log_in = self.password_hash is not None or bool(self.ssh_keys)
        if self.user is not None and not can_log_in:
            raise InvalidOption(
                f"the user {self.user} could never log in",
                hint="Add --password-file FILE, --password-prompt or --ssh-key FILE.",
            )
        if self.user is None and can_log_in:
            raise InvalidOption(
                "a password or a key, but for nobody", hint="Add --user NAME: who logs in with it."
            )
        if self.ssh and self.password_hash is None and not self.ssh_keys:
            raise InvalidOption(
                "--ssh, but nobody could log in",
                hint="Add --user NAME with --password-file FILE or --ssh-key FILE.",
            )

    @property
    def any(self) -> bool:
        """Whether anything is told at all."""
        return any(getattr(self, field.name) for field in fields(self))

    @property
    def secret(self) -> bool:
        """Whether a password's hash or a network's key is among them."""
        return self.password_hash is not None or (self.wifi is not None and bool(self.wifi.key))

    @property
    def ssh_server(self) -> bool:
        """Whether the ssh server is turned on."""
        return self.ssh or bool(self.ssh_keys)

    @property
    def ssh_passwords(self) -> bool:
        """Whether it takes passwords: unless there are keys, and nobody asked for --ssh."""
        return self.ssh and self.password_hash is not None


def _ensure(value: str | None, form: re.Pattern[str], what: str, hint: str) -> None:
    if value is not None and not form.fullmatch(value):
        raise InvalidOption(f"not {what}: {value!r}", hint=hint)


def public_keys(text: str) -> tuple[str, ...]:
    """The keys in a file such as id_ed25519.pub or authorized_keys."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))
