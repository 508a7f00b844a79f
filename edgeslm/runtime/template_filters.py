"""The filters, tests and functions that chat templates may use, each paid from an allowance."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn, Protocol

from jinja2 import TemplateError, pass_context
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.tests import TESTS

from edgeslm.errors import Exhausted
from edgeslm.runtime import allowance
from edgeslm.runtime.allowance import CALL, current

OWN = "edgeslm "
"""Begins the names of our filters; no template can write a space into one."""
_WIDEST_INDENT = 16
_MOST_PLACES = 20
_NOT_ASCII = re.compile("[^\x00-\x7f\U000f0000-\U000ffffd]")
"""But for the private-use characters, which may stand for others."""

_FREE = ("count", "d", "default", "first", "last", "length")
_ONCE_THROUGH = ("items", "list", "map", "reject", "rejectattr", "reverse", "select", "selectattr")
_WITH_ALL = (
    *("abs", "capitalize", "dictsort", "float", "groupby", "lower", "max", "min", "sort"),
    *("string", "title", "trim", "unique", "upper", "wordcount"),
)


class Marks(Protocol):
    """What templates look for in texts that are disguised.

    Attributes:
        border: What such a text begins and ends with, in front of what was said.
    """

    border: str

    def seen_in(self, text: str, mark: str) -> str:
        """The mark as it would stand in `text`."""

    def may_steer(self, text: str) -> bool:
        """Whether a control token may arise where `text` is put among others."""


class Undisguised:
    """Texts as they are."""

    border = ""

    def seen_in(self, _text: str, mark: str) -> str:
        """The mark itself."""
        return mark

    def may_steer(self, _text: str) -> bool:
        """There is nothing to steer."""
        return False


marks: ContextVar[Marks] = ContextVar("marks", default=Undisguised())  # noqa: B039  it has no state


def seen(text: str, mark: str, instead: str = "") -> str:
    """The mark as it stands in the text; what steers is never put where a text has a mark."""
    now = marks.get()
    return mark if now.may_steer(instead) else now.seen_in(text, mark)


def filters() -> dict[str, Callable[..., Any]]:
    """All filters by name."""
    found: dict[str, Callable[..., Any]] = {name: _free(FILTERS[name]) for name in _FREE}
    found |= {name: _once_through(FILTERS[name]) for name in _ONCE_THROUGH}
    found |= {name: _with_all(FILTERS[name]) for name in _WITH_ALL}
    found |= {
        "format": _format,
        "indent": _indent,
        "int": _int,
        "join": _join,
        "replace": _replace,
        "round": _round,
        "safe": _text,
        "sum": _sum,
        "tojson": to_json,
    }
    own: dict[str, Callable[..., Any]] = {
        "turns": allowance.turns,
        "made": _made,
        "concatenated": allowance.joined,
        "in": _in,
        "slice": allowance.sliced,
    }
    return found | {OWN + name: _at_run_time(function) for name, function in own.items()}


def tests() -> dict[str, Callable[..., Any]]:
    """All tests by name."""
    known: Mapping[str, Any] = TESTS
    own: Mapping[str, Any] = {"divisibleby": _divisible, "even": _even, "in": _in, "odd": _odd}
    return {name: own.get(name) or _test(test) for name, test in known.items()}


@pass_context
def said(_context: Context, value: Any) -> Any:
    """What a template writes, paid."""
    current().weigh(value)
    return value


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: Jinja's own escapes HTML, which templates don't want."""
    if indent is not None and not 0 <= indent <= _WIDEST_INDENT:
        raise Exhausted("indents too far")
    current().weigh(value)
    encoder = json.JSONEncoder(
        ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
    )
    text = encoder.encode(value) if indent is None else allowance.joined(encoder.iterencode(value))
    return _NOT_ASCII.sub(_escaped, text) if ensure_ascii else text


def _escaped(character: re.Match[str]) -> str:
    return json.dumps(character[0])[1:-1]


def raise_exception(message: str) -> NoReturn:
    """Refuse the messages."""
    raise TemplateError(message)


def strftime_now(pattern: str) -> str:
    """The date."""
    allowance.percent(pattern, "")
    return datetime.now().astimezone().strftime(pattern)


def _value_at(function: Callable[..., Any]) -> int:
    """Some filters are given their context, or the like, first."""
    return 1 if hasattr(function, "jinja_pass_arg") else 0


def _free(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def paid(*args: Any, **kwargs: Any) -> Any:
        current().spend(CALL)
        return function(*args, **kwargs)

    return paid


def _once_through(function: Callable[..., Any]) -> Callable[..., Any]:
    at = _value_at(function)

    @wraps(function)
    def paid(*args: Any, **kwargs: Any) -> Any:
        current().spend(CALL)
        current().size(args[at])
        args = (*args[:at], allowance.counted(args[at]), *args[at + 1 :])
        return function(*args, **kwargs)

    return paid


def _with_all(function: Callable[..., Any]) -> Callable[..., Any]:
    at = _value_at(function)

    @wraps(function)
    def paid(*args: Any, **kwargs: Any) -> Any:
        current().spend(CALL)
        value = allowance.counted(args[at])
        value = list(value) if value is not args[at] else value
        current().weigh(value)
        result = function(*args[:at], value, *args[at + 1 :], **kwargs)
        current().size(result)
        return result

    return paid


def _test(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def paid(*args: Any) -> Any:
        for each in args[_value_at(function) :] if len(args) > 1 else ():
            current().weigh(each)
        current().spend(1)
        return function(*args)

    return paid


def _at_run_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that Jinja does not apply while it compiles."""

    @pass_context
    def filtered(_context: Context, *args: Any) -> Any:
        return function(*args)

    return filtered


def _made(value: Any) -> Any:
    current().weigh(value)
    return value


def _in(item: Any, container: Any) -> bool:
    if isinstance(item, str) and isinstance(container, str):
        item = seen(container, item)
    return allowance.contains(item, container)


def _divisible(value: Any, by: Any) -> bool:
    allowance.calculated("%", value, by)
    return bool(value % by == 0)


def _even(value: Any) -> bool:
    return _divisible(value, 2)


def _odd(value: Any) -> bool:
    allowance.calculated("%", value, 2)
    return bool(value % 2 == 1)


def _int(value: Any, default: Any = 0, base: int = 10) -> Any:
    current().spend(CALL)
    if isinstance(value, str):
        allowance.numeral(value)
    return allowance.within_bits(FILTERS["int"](value, default, base))


def _text(value: Any) -> str:
    current().weigh(value)
    return str(value)


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    pattern = _text(value)
    allowance.percent(pattern, args or kwargs)
    text = pattern % (kwargs or args)
    current().text(text)
    return text


def _indent(value: Any, width: int = 4, first: bool = False, blank: bool = False) -> str:
    text = _text(value)
    allowance.padded("", width)
    allowance.replaced(text, "\n", "\n" + " " * width)
    return str(FILTERS["indent"](text, width, first, blank))


@pass_context
def _join(context: Context, value: Any, d: object = "", attribute: str | None = None) -> str:
    if attribute is not None:
        value = FILTERS["map"](context, value, attribute=attribute)
    return allowance.joined(allowance.counted(value), _text(d))


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, instead = _text(value), _text(new)
    return allowance.replaced(text, seen(text, _text(old), instead), instead, count)


def _round(value: Any, precision: int = 0, method: str = "common") -> Any:
    if abs(precision) > _MOST_PLACES:
        raise Exhausted("rounds to too many places")
    allowance.calculated("*", value, 10 ** max(precision, 0))
    return FILTERS["round"](value, precision, method)


@pass_context
def _sum(context: Context, value: Any, attribute: str | None = None, start: float = 0) -> Any:
    if attribute is not None:
        value = FILTERS["map"](context, value, attribute=attribute)
    total = start if isinstance(start, int | float) else 0
    for each in allowance.turns(value):
        allowance.calculated("*", total, 1)
        total += each
    return total
