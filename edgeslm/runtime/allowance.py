"""What a chat template may use up, and the operations that count against it.

A template is a program that came with a model from somewhere. Jinja's sandbox keeps it from
reaching anything, not from working without end or filling the memory. So each of its steps, and
each value it makes, costs units of an allowance: a few for a loop's turn or a call, one for 32
bytes. What could become large at once pays before it is made. Nothing here depends on a clock:
the same template with the same messages is refused everywhere, or nowhere.
"""

from __future__ import annotations

import re
import sys
from collections.abc import (
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    Sized,
    ValuesView,
)
from contextlib import contextmanager
from contextvars import ContextVar
from string import Formatter
from typing import Any, TypeVar

from jinja2.utils import Namespace

from edgeslm.errors import Exhausted

_T = TypeVar("_T")

LEAST_UNITS = 2_000_000
"""About a second of work, or 64 MB of text."""
_UNITS_PER_INPUT = 16
TURN, CALL, OPERATION, LOOK = 4, 12, 2, 2
"""Units of a loop's turn, of a call or filter, of an operator, of seeing a value in another."""

_MOST_BITS = 8192
_NUMERAL = re.compile(r"\s*[+-]?\w+\s*")
_TOO_LARGE = "calculates with numbers that are too large"
_DEEPEST = 200
_WIDEST = 999
_DIGITS = re.compile(r"\d{4,}|\*")


class Allowance:
    """What is left to one run of a template.

    Args:
        units: At the beginning.
    """

    def __init__(self, units: int = LEAST_UNITS) -> None:
        self._left = units

    @classmethod
    def for_input(cls, value: object) -> Allowance:
        """Enough for any honest template that is given `value`."""
        scale = cls(sys.maxsize)
        scale.weigh(value)
        return cls(LEAST_UNITS + _UNITS_PER_INPUT * (sys.maxsize - scale._left))

    def spend(self, units: int) -> None:
        """Take so many units.

        Raises:
            Exhausted: there are not so many left.
        """
        self._left -= units
        if self._left < 0:
            raise Exhausted

    def text(self, text: str, times: int = 1) -> None:
        """Pay for reading or writing a text so many times."""
        self.spend(1 + (sys.getsizeof(text) * max(times, 0) >> 5))

    def weigh(self, value: object) -> None:
        """Pay for a value with everything in it; what is in it twice is paid twice.

        Raises:
            Exhausted: it is too much, or nested too deep for Python's own functions.
        """
        if isinstance(value, str):
            self.text(value)
            return
        levels = [iter((value,))]
        while levels:
            item = next(levels[-1], levels)
            if item is levels:
                levels.pop()
            elif isinstance(item, str):
                self.text(item)
            else:
                inner = _inside(item)
                self.spend(LOOK)
                if inner is not None:
                    levels.append(iter(inner))
                    if len(levels) > _DEEPEST:
                        raise Exhausted("nests values too deep")

    def size(self, value: object) -> None:
        """Pay for a value without what is in it."""
        if isinstance(value, str):
            self.text(value)
        elif isinstance(value, Sized) and not isinstance(value, range):
            self.spend(1 + len(value))


def _inside(value: object) -> Iterable[object] | None:
    if isinstance(value, Mapping):
        return (each for pair in value.items() for each in pair)
    if isinstance(value, list | tuple | set | frozenset | KeysView | ValuesView | ItemsView):
        return value
    if isinstance(value, Namespace):
        return _inside(object.__getattribute__(value, "_Namespace__attrs"))
    return None


_current: ContextVar[Allowance] = ContextVar("allowance")


@contextmanager
def allowed(allowance: Allowance) -> Iterator[None]:
    """Everything in the block counts against `allowance`; each thread has its own."""
    token = _current.set(allowance)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Allowance:
    """What counts now."""
    return _current.get()


def turns(iterable: Iterable[_T]) -> Iterator[_T]:
    """The same, paid item by item."""
    allowance = current()
    for item in iterable:
        allowance.spend(TURN)
        yield item


def counted(value: Any) -> Any:
    """What can be gone through only once or is a range is paid while it is gone through."""
    return turns(value) if isinstance(value, Iterator | range) else value


def joining(parts: Iterable[_T], separator: str) -> list[_T]:
    """Pay for parts that are put together, not yet for what they make; the parts."""
    allowance = current()
    paid = []
    for part in parts:
        allowance.weigh(part)
        allowance.spend(OPERATION)
        paid.append(part)
    allowance.text(separator, len(paid))
    return paid


def joined(parts: Iterable[object], separator: str = "") -> str:
    """All of it as one text."""
    paid = joining(parts, separator)
    text = separator.join([part if isinstance(part, str) else str(part) for part in paid])
    current().text(text)
    return text


def replacing(text: str, old: str, new: str, count: int | None = None) -> int:
    """Pay for `text.replace(old, new, count)`; how often it replaces."""
    allowance = current()
    allowance.text(text)
    most = text.count(old) if count is None or count < 0 else min(count, text.count(old))
    allowance.text(new, most)
    return most


def replaced(text: str, old: str, new: str, count: int | None = None) -> str:
    """As `str.replace`."""
    return text.replace(old, new, replacing(text, old, new, count))


def sliced(value: Any, start: Any = None, stop: Any = None, step: Any = None) -> Any:
    """As `value[start:stop:step]`."""
    current().size(value)
    return value[start:stop:step]


def contains(item: Any, container: Any) -> bool:
    """As `item in container`."""
    allowance = current()
    if isinstance(container, Mapping):
        allowance.weigh(item)
    elif isinstance(container, str):
        allowance.text(container)
    else:
        container = list(turns(container))
        allowance.weigh([item])
        if not isinstance(item, str | int | float):
            allowance.weigh(container)
    return item in container


def within_bits(value: _T) -> _T:
    """The value, if it is no number that is too large to calculate with.

    Raises:
        Exhausted: it is one.
    """
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise Exhausted(_TOO_LARGE)
    return value


def calculated(operator: str, left: Any, right: Any) -> None:
    """Pay for an operator, whose result may be much larger than what it is made of.

    Raises:
        Exhausted: it is too large, or something that it is made of.
    """
    allowance = current()
    allowance.spend(OPERATION)
    within_bits(left)
    within_bits(right)
    if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        bits = bits * max(right, 1) if operator == "**" else bits + right.bit_length()
        if bits > _MOST_BITS:
            raise Exhausted(_TOO_LARGE)
    elif operator == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(many, str) and isinstance(times, int):
                allowance.text(many, times)
            elif isinstance(many, Sequence) and isinstance(times, int):
                allowance.spend(len(many) * max(times, 0))
    elif operator == "+":
        for each in (left, right):
            (allowance.weigh if isinstance(each, tuple) else allowance.size)(each)
    elif operator == "%" and isinstance(left, str):
        percent(left, right)


def numeral(text: str) -> None:
    """Return if a text may be read as a number.

    Raises:
        Exhausted: it is one of more digits than a number may have bits.
    """
    current().text(text)
    if len(text) > _MOST_BITS and _NUMERAL.fullmatch(text):
        raise Exhausted(_TOO_LARGE)


def percent(pattern: str, values: object) -> None:
    """Pay for `pattern % values`."""
    if _DIGITS.search(pattern):
        raise Exhausted("writes numbers too wide")
    allowance = current()
    for _ in range(pattern.count("%")):
        allowance.weigh(values)


def formatted(pattern: str, values: object) -> None:
    """Pay for `pattern.format(...)`."""
    allowance = current()
    for _, field, form, _ in Formatter().parse(pattern):
        if form and (_DIGITS.search(form) or "{" in form):
            raise Exhausted("writes numbers too wide")
        if field is not None:
            allowance.weigh(values)


def parted(text: str, separator: object) -> None:
    """Pay for a text that is cut at a separator, or at white space."""
    parts = text.count(separator) if isinstance(separator, str) and separator else len(text) >> 1
    current().spend(3 * parts)


def padded(text: str, width: Any) -> None:
    """Pay for a text that is filled up to `width`.

    Raises:
        Exhausted: it is too wide.
    """
    if not isinstance(width, int) or width > max(_WIDEST, len(text)):
        raise Exhausted("writes texts too wide")
    current().text(text)
