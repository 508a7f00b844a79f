from __future__ import annotations

import pytest

from edgeslm.errors import InvalidOption
from edgeslm.flash.image.settings import Settings, Wifi, public_keys

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKu7 anna@laptop"
HASH = "$6$rounds=1000$salt$hash"


@pytest.mark.parametrize(
    "wrong",
    [
        {"hostname": "a b"},
        {"hostname": "-pi"},
        {"hostname": "pi;reboot"},
        {"user": "Anna", "password_hash": HASH},
        {"user": "root", "password_hash": HASH},
        {"user": "edgeslm", "password_hash": HASH},
        {"user": "anna"},
        {"password_hash": HASH},
        {"ssh_keys": (KEY,)},
        {"ssh": True},
        {"user": "anna", "ssh_keys": ("-----BEGIN OPENSSH PRIVATE KEY-----",)},
        {"user": "anna", "ssh_keys": (KEY + "\nmore",)},
        {"user": "anna", "password_hash": "plain"},
        {"timezone": "Europe/Berlin; reboot"},
        {"timezone": "../../etc/passwd"},
        {"locale": "german"},
        {"keyboard": "$(reboot)"},
    ],
)
def test_what_makes_no_sense_or_is_no_name_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidOption):
        Settings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [("", "DE"), ("x" * 33, "DE"), ("a\nb", "DE"), ("home", "de")])
def test_no_network(wrong: tuple[str, str]) -> None:
    with pytest.raises(InvalidOption):
        Wifi(wrong[0], None, wrong[1])


def test_keys_let_in_without_passwords_unless_ssh_is_asked_for() -> None:
    both = Settings(user="anna", password_hash=HASH, ssh_keys=(KEY,))

    assert both.ssh_server
    assert not both.ssh_passwords
    assert Settings(user="anna", password_hash=HASH, ssh_keys=(KEY,), ssh=True).ssh_passwords
    assert not Settings(user="anna", password_hash=HASH).ssh_server


def test_nothing_is_nothing() -> None:
    assert not Settings().any
    assert Settings(hostname="pi5").any


def test_the_keys_of_a_file() -> None:
    assert public_keys(f"# mine\n{KEY}\n\n") == (KEY,)
