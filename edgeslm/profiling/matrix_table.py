"""Tables of a matrix file: each key is taken once, and what is left over is an error."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from edgeslm.errors import InvalidOption, UserError

LONGEST_SECONDS = 7 * 24 * 3600.0
_LARGEST = 1 << 31
_PAGE = "docs/bench.md lists the keys."
_Value = TypeVar("_Value")


class Table:
    """One table of the file at `path`, called `name` in messages."""

    def __init__(self, path: Path, name: str, content: Mapping[str, Any]) -> None:
        self._path = path
        self._name = name
        self._left = dict(content)
        self._known: list[str] = []

    def wrong(self, key: str, what: str, hint: str | None = None) -> UserError:
        """The error about `key` of this table; an empty one is the table itself."""
        name = ".".join(part for part in (self._name, key) if part)
        place = f"{self._path}: {name}" if name else f"{self._path}"
        return UserError(f"{place}: {what}", hint=hint or _PAGE)

    def unknown(self, key: str, known: Sequence[str]) -> UserError:
        """The error about a key that means nothing here."""
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(known)}."
        return self.wrong(key, "no such key", hint)

    def finish(self) -> None:
        """Every key was known, or UserError."""
        for key in self._left:
            raise self.unknown(key, self._known)

    def names(self) -> list[str]:
        """The keys not taken yet, where the file chooses them."""
        return list(self._left)

    def checked(self, key: str, check: Callable[[Any], _Value], value: Any) -> _Value:
        """What `check` makes of a value; what it refuses is an error about `key`."""
        try:
            return check(value)
        except InvalidOption as error:
            raise self.wrong(key, error.message, error.hint) from error

    def text(self, key: str, default: str | None) -> str | None:
        """A text that is not empty."""
        value = self._take(key, default)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise self.wrong(key, "must be a text")
        return value

    def path(self, key: str) -> Path:
        """A path, relative to the folder of the file."""
        found = self.optional_path(key)
        if found is None:
            raise self.wrong(key, "is missing")
        return found

    def optional_path(self, key: str) -> Path | None:
        """The same, or None where there is no such key."""
        text = self.text(key, None)
        if text is not None and "\0" in text:
            raise self.wrong(key, "is no path")
        return None if text is None else self._path.parent / Path(text).expanduser()

    def count(self, key: str, default: int) -> int:
        """A whole number from 1."""
        value = self._take(key, default)
        if type(value) is not int or not 1 <= value < _LARGEST:
            raise self.wrong(key, "must be a positive whole number")
        return value

    def seconds(self, key: str, default: float | None) -> float | None:
        """A length of time: 0 or more, at most a week."""
        value = self._take(key, default)
        if value is None:
            return None
        known = type(value) in (int, float) and math.isfinite(value)
        if not known or not 0 <= value <= LONGEST_SECONDS:
            raise self.wrong(key, f"must be seconds, from 0 to {LONGEST_SECONDS:.0f}")
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false; false where it is not said."""
        value = self._take(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "must be true or false")
        return value

    def values(
        self, key: str, check: Callable[[Any], _Value], default: tuple[_Value, ...]
    ) -> tuple[_Value, ...]:
        """A list of different values, each as `check` makes it."""
        if key not in self._left:
            self._known.append(key)
            return default
        if not isinstance(self._left[key], list):
            raise self.wrong(key, "must be a list")
        return self.some(key, check)

    def some(self, key: str, check: Callable[[Any], _Value]) -> tuple[_Value, ...]:
        """The same, or a single value."""
        value = self._take(key, [])
        listed = value if isinstance(value, list) else [value]
        if not listed:
            raise self.wrong(key, "is an empty list")
        values = tuple(self.checked(key, check, each) for each in listed)
        if len(set(values)) < len(values):
            raise self.wrong(key, "names something twice")
        return values

    def table(self, key: str) -> Table:
        """The table called `key`; an empty one where there is none."""
        value = self._take(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "must be a table")
        return Table(self._path, f"{self._name}.{key}" if self._name else key, value)

    def tables(self, key: str) -> list[Table]:
        """Tables under one name, each written as [[key]]."""
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise self.wrong(key, f"must be tables, each written as [[{key}]]")
        return [Table(self._path, f"{key}[{index}]", each) for index, each in enumerate(value)]

    def _take(self, key: str, default: Any) -> Any:
        self._known.append(key)
        return self._left.pop(key, default)
