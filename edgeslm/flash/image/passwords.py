"""Passwords as hashes, so that none lies on a card in plain text. Pure.

Sources: Ulrich Drepper, Unix crypt using SHA-256 and SHA-512, version 0.6 (for accounts); IEEE
802.11-2020, annex J.4 (for Wi-Fi).
"""

from __future__ import annotations

import hashlib
import secrets
import string

from edgeslm.errors import InvalidOption

_ALPHABET = "./" + string.digits + string.ascii_uppercase + string.ascii_lowercase
_ROUNDS = 100_000
"""Twenty times the usual: the hash lies where whoever holds the card can read it. A board takes
some tenths of a second for each login."""
_LEAST_ROUNDS, _MOST_ROUNDS = 1_000, 999_999_999
_SALT = 16
_ORDER = [(index * 22 % 63, (index * 22 + 21) % 63, (index * 22 + 42) % 63) for index in range(21)]


def account_hash(password: str, *, salt: str | None = None, rounds: int = _ROUNDS) -> str:
    """A password in the form of /etc/shadow, by SHA-512: "$6$rounds=N$salt$hash".

    Python's own crypt module is gone since 3.13, and is not on every system; this is what
    `openssl passwd -6` and glibc give, with any number of rounds.

    Raises:
        InvalidOption: it is empty, or could not be typed at a login.
    """
    if not password or any(ord(sign) < 0x20 or sign == "\x7f" for sign in password):
        raise InvalidOption(
            "the password is empty or has characters that cannot be typed",
            hint="Put it on one line, alone.",
        )
    chosen = salt or "".join(secrets.choice(_ALPHABET) for _ in range(_SALT))
    rounds = min(max(rounds, _LEAST_ROUNDS), _MOST_ROUNDS)
    digest = _rounds(password.encode(), chosen[:_SALT].encode(), rounds)
    coded = "".join(_coded(digest[a] << 16 | digest[b] << 8 | digest[c], 4) for a, b, c in _ORDER)
    return f"$6$rounds={rounds}${chosen[:_SALT]}${coded}{_coded(digest[63], 2)}"


def _rounds(key: bytes, salt: bytes, rounds: int) -> bytes:
    """The steps of the description, from its first to its last digest."""
    length = len(key)
    second = hashlib.sha512(key + salt + key).digest()
    first = hashlib.sha512(key + salt + _repeated(second, length))
    bits = length
    while bits:
        first.update(second if bits & 1 else key)
        bits >>= 1
    digest = first.digest()
    keys = _repeated(hashlib.sha512(key * length).digest(), length)
    salts = _repeated(hashlib.sha512(salt * (16 + digest[0])).digest(), len(salt))
    for number in range(rounds):
        odd = number & 1
        mixed = (salts if number % 3 else b"") + (keys if number % 7 else b"")
        digest = hashlib.sha512(
            (keys if odd else digest) + mixed + (digest if odd else keys)
        ).digest()
    return digest


def _repeated(data: bytes, length: int) -> bytes:
    return (data * (length // len(data) + 1))[:length]


def _coded(value: int, count: int) -> str:
    return "".join(_ALPHABET[value >> 6 * place & 63] for place in range(count))


def wifi_key(ssid: str, password: str) -> str:
    """The key that a network's password stands for, as 64 hex digits.

    Raises:
        InvalidOption: no password of a network has that form.
    """
    if len(password) == 64 and all(sign in string.hexdigits for sign in password):
        return password.lower()
    if not 8 <= len(password) <= 63 or not password.isascii() or not password.isprintable():
        raise InvalidOption(
            "not a Wi-Fi password: 8 to 63 plain characters, or 64 hex digits",
            hint="Put it on one line, alone.",
        )
    key = hashlib.pbkdf2_hmac("sha1", password.encode(), ssid.encode(), 4096, 32)
    return key.hex()
