"""What is said in a conversation, and the form in which chat templates expect it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgeslm.errors import InvalidOption

ROLES = ("system", "user", "assistant", "tool")
_WORDS = frozenset(
    "type function name description parameters properties required items enum const default title "  # noqa: SIM905
    "format minimum maximum minItems maxItems minLength maxLength pattern anyOf allOf oneOf strict "
    "additionalProperties return id tool_calls tool_call_id arguments object array string integer "
    "number boolean null".split()
)
"""Of descriptions of tools. Templates look for them, and they spell no control token."""
_DEEPEST = 50
_PLAIN_ID = re.compile(r"[A-Za-z0-9]{1,64}")


@dataclass(frozen=True)
class ToolCall:
    """What an assistant wants a program to do.

    Attributes:
        name: Of the tool.
        arguments: A JSON object, as text.
        id: By which the tool's answer refers to it.
    """

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: One of `ROLES`.
        content: What was said.
        calls: What the assistant wants to be done.
        name: Of the tool that answers.
        call_id: Of the call that it answers.
    """

    role: str
    content: str
    calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    call_id: str | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidOption(f"not a role: {self.role!r}", hint=f"One of {', '.join(ROLES)}.")


def plain_message(message: Message) -> dict[str, Any]:
    """The message as templates expect it."""
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        plain["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {"name": call.name, "arguments": parsed_arguments(call.arguments)},
            }
            for call in message.calls
        ]
    if message.name is not None:
        plain["name"] = message.name
    if message.call_id is not None:
        plain["tool_call_id"] = message.call_id
    return plain


def parsed_arguments(text: str) -> Any:
    """Templates write JSON themselves; what is none, or nested without reason, stays text."""
    try:
        parsed = json.loads(text)
        return text if _is_deeper(parsed, _DEEPEST) else parsed
    except (ValueError, RecursionError):
        return text


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in inner)


def rewritten(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value whose texts are changed, also those of keys.

    The words that templates look for stay, and so do identifiers of letters and digits: some
    templates count their length.
    """
    if isinstance(value, str):
        return value if value in _WORDS else change(value)
    if isinstance(value, Mapping):
        return {
            rewritten(key, change): item if _is_plain_id(key, item) else rewritten(item, change)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [rewritten(item, change) for item in value]
    return value


def _is_plain_id(key: str, value: object) -> bool:
    return (
        key in ("id", "tool_call_id")
        and isinstance(value, str)
        and _PLAIN_ID.fullmatch(value) is not None
    )


def texts(value: Any) -> Iterator[str]:
    """All texts of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
