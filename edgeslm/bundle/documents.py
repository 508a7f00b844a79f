"""JSON as bundles hold it: within limits, without duplicate keys, always written the same way.

What is read can be written again: no number is infinite, no text has half a character.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from edgeslm.bundle.names import DAMAGED, MOST_JSON_BYTES
from edgeslm.errors import InvalidBundle

_MOST_LEVELS = 64


def canonical(value: Any) -> bytes:
    """The one form that we write: sorted keys, no blanks, UTF-8, no newline at the end."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def parse(data: bytes, where: str) -> Any:
    """The value of a JSON text in UTF-8.

    Args:
        data: The text.
        where: What it is, for messages.

    Raises:
        InvalidBundle: too large or deep, no JSON, or an object has a key twice.
    """
    if len(data) > MOST_JSON_BYTES:
        raise InvalidBundle(f"{where}: larger than {MOST_JSON_BYTES} bytes", hint=DAMAGED)
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_without_duplicates
        )
        _refuse_deep(value)
        canonical(value)
        return value
    except (ValueError, RecursionError) as error:
        raise InvalidBundle(f"{where}: not JSON: {error}", hint=DAMAGED) from error


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _refuse_deep(value: Any) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(_MOST_LEVELS):
        below = (each.values() if isinstance(each, dict) else each for each in level)
        level = [item for each in below for item in each if isinstance(item, (dict, list))]
        if not level:
            return
    raise ValueError(f"more than {_MOST_LEVELS} levels")


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


class Fields:
    """A JSON object whose entries have to be there and of the right type."""

    def __init__(self, where: str, data: object) -> None:
        if not isinstance(data, dict):
            raise InvalidBundle(f"{where}: not a JSON object", hint=DAMAGED)
        self.where = where
        self._data = data

    def only(self, names: Collection[str]) -> None:
        """Return if there is no entry but those.

        Raises:
            InvalidBundle: there is.
        """
        for key in sorted(set(self._data) - set(names)):
            self.fail(f"unknown entry {key!r}")

    def optional(self, key: str) -> object:
        """The entry `key`, whatever it is; None if there is none."""
        return self._data.get(key)

    def take(self, key: str, *kinds: type | None) -> Any:
        """The entry `key`, which has one of the types; None stands for null."""
        if key not in self._data:
            self.fail(f"{key} is missing")
        value = self._data[key]
        if value is None and None in kinds:
            return None
        if (isinstance(value, bool) and bool not in kinds) or not isinstance(
            value, tuple(filter(None, kinds))
        ):
            self.fail(f"{key} has the wrong type")
        return value

    def expect(self, key: str, value: object) -> None:
        """Return if the entry `key` is `value`.

        Raises:
            InvalidBundle: it is not.
        """
        found = self.take(key, type(value))
        if found != value:
            self.fail(f"{key} is {str(found)[:80]!r}, not {value!r}")

    def below(self, key: str) -> Fields:
        """The object under `key`."""
        return Fields(f"{self.where}: {key}", self.take(key, dict))

    def texts(self, key: str) -> dict[str, str]:
        """The object under `key`, whose values are texts; empty where there is none."""
        found = self._data.get(key)
        if found is None:
            return {}
        if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
            self.fail(f"{key} has the wrong type")
        return found

    def fail(self, problem: str) -> NoReturn:
        """Say what is wrong here."""
        raise InvalidBundle(f"{self.where}: {problem}", hint=DAMAGED)
