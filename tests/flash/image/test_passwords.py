from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.errors import InvalidOption
from edgeslm.flash.image.passwords import account_hash, wifi_key

TYPED = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=150)


def test_the_examples_of_the_description() -> None:
    assert account_hash("Hello world!", salt="saltstring", rounds=5000) == (
        "$6$rounds=5000$saltstring$"
        "svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"
    )
    assert account_hash("Hello world!", salt="saltstringsaltstring", rounds=10000) == (
        "$6$rounds=10000$saltstringsaltst$"
        "OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v."
    )


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
@settings(max_examples=10, deadline=None)
@given(TYPED, st.text("./0123456789abcXYZ", min_size=1, max_size=16))
def test_it_is_what_openssl_gives(password: str, salt: str) -> None:
    done = subprocess.run(
        ["openssl", "passwd", "-6", "-salt", f"rounds=1000${salt}", "-stdin"],
        input=password.encode(),
        capture_output=True,
        check=True,
    )
    assert account_hash(password, salt=salt, rounds=1000) == done.stdout.decode().strip()


def test_each_has_a_salt_of_its_own() -> None:
    first, second = (account_hash("secret", rounds=1000) for _ in range(2))

    assert first != second
    assert "secret" not in first


@pytest.mark.parametrize("wrong", ["", "two\nlines", "a\0b"])
def test_what_cannot_be_typed_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidOption):
        account_hash(wrong)


def test_the_examples_of_the_wifi_standard() -> None:
    assert wifi_key("IEEE", "password") == (
        "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"
    )
    assert wifi_key("ThisIsASSID", "ThisIsAPassword") == (
        "0dc0d6eb90555ed6419756b9a15ec3e3209b63df707dd508d14581f8982721af"
    )


def test_a_key_stays_a_key() -> None:
    assert wifi_key("any", "AB" * 32) == "ab" * 32


@pytest.mark.parametrize("wrong", ["short", "x" * 64, "x" * 65, "pässword", "with\ttab!"])
def test_no_wifi_password(wrong: str) -> None:
    with pytest.raises(InvalidOption):
        wifi_key("any", wrong)
