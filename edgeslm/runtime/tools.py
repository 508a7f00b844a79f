"""Tools that a model may call: how it is told of them, and how its calls are found in an answer.

Models differ in how they write a call. What most small ones learnt is understood: a JSON object
with the tool's name and its arguments, alone, in a list, or between `<tool_call>` and
`</tool_call>`. A model whose template says nothing of tools is told the last form in words.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeslm.errors import InvalidOption
from edgeslm.runtime.messages import Message, ToolCall
from edgeslm.runtime.schema import grammar_of_schema

OPENING, CLOSING = "<tool_call>", "</tool_call>"
_LIST_MARK = "[TOOL_CALLS]"
_BETWEEN = re.compile(
    rf"(?:[\s;,]|{re.escape(_LIST_MARK)}|{re.escape(OPENING)}|{re.escape(CLOSING)})*"
)
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DEEPEST = 64
_ID_LENGTH = 9
"""Some templates accept no other."""

_TOLD = """You may call tools. To call one, answer with nothing but
<tool_call>
{"name": "NAME", "arguments": {...}}
</tool_call>
and its result will be given to you. The tools, each with the JSON schema of its arguments:
"""


@dataclass(frozen=True)
class Tool:
    """Something that a program offers to a model.

    Attributes:
        name: Letters, digits, `_`, `-` and `.`.
        description: What it does.
        parameters: The JSON schema of its arguments: lists and objects in each other, 64 at most.

    Raises:
        InvalidOption: it has no such name, or no such parameters.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidOption(
                f"not a tool's name: {self.name[:80]!r}",
                hint="1 to 64 letters, digits, underscores, hyphens or dots.",
            )
        if self.parameters.get("type", "object") != "object":
            raise InvalidOption(
                f"the arguments of {self.name} are no object", hint='Their type is "object".'
            )
        if _levels(self.parameters) > _DEEPEST:
            raise InvalidOption(
                f"the parameters of {self.name} are nested more than {_DEEPEST} levels deep",
                hint="Describe its arguments by a flatter schema.",
            )

    def described(self) -> dict[str, Any]:
        """As templates expect it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters or {"type": "object", "properties": {}},
        }
        return {"type": "function", "function": function}


def spelled_out(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The conversation for a template that knows neither tools nor calls nor their results."""
    told = list(map(_as_text, messages))
    if tools:
        lines = "".join(f"{json.dumps(tool.described()['function'])}\n" for tool in tools)
        system = [message.content for message in told if message.role == "system"]
        told = [message for message in told if message.role != "system"]
        told.insert(0, Message("system", "\n\n".join([*system, _TOLD + lines])))
    return _joined(told)


def grammar_of_calls(tools: Sequence[Tool]) -> str:
    """The grammar of an answer that calls one of `tools` and does nothing else.

    Raises:
        InvalidOption: the schema of a tool's arguments cannot be followed.
    """
    schemas = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": _schema(tool, place)},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool, place in zip(tools, _places(len(tools)), strict=True)
    ]
    rules = grammar_of_schema(json.dumps({"anyOf": schemas}))
    body = rules.removeprefix("root ::= ")
    return f'root ::= "{OPENING}" call "{CLOSING}"\ncall ::= {body}'


class CallFinder:
    """Tells calls from text while an answer comes.

    Args:
        tools: What may be called.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._names = {tool.name for tool in tools}
        self._held = ""
        self._begun = False
        self._calling = False

    def feed(self, text: str) -> str:
        """More of the answer; what of it is surely text for the reader."""
        self._held += text
        if self._calling or not self._names:
            return self._release(0 if self._calling else len(self._held))
        if not self._begun:
            start = self._held.lstrip()
            if not start or any(_compatible(start, mark) for mark in (OPENING, _LIST_MARK)):
                self._calling = start.startswith((OPENING, _LIST_MARK))
                return ""
            if start[0] in "{[":
                self._calling = True
                return ""
            self._begun = True
        at = self._held.find(OPENING)
        self._calling = at >= 0
        return self._release(at if self._calling else len(self._held) - _uncertain(self._held))

    def finish(self) -> tuple[str, tuple[ToolCall, ...]]:
        """The rest of the answer: text, or calls."""
        held, self._held = self._held, ""
        calls = _calls(held, self._names)
        return ("", calls) if calls else (held, ())

    def _release(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text


def _compatible(text: str, mark: str) -> bool:
    return text.startswith(mark) or mark.startswith(text)


def _uncertain(text: str) -> int:
    """Length of the longest end of `text` with which a call may begin."""
    for length in range(min(len(OPENING) - 1, len(text)), 0, -1):
        if OPENING.startswith(text[-length:]):
            return length
    return 0


def _calls(text: str, names: set[str]) -> tuple[ToolCall, ...]:
    """The calls that `text` consists of; none if there is anything in it that is no call."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    found: list[ToolCall] = []
    at = _between_calls(text, 0)
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return ()
        for each in value if isinstance(value, list) else [value]:
            call = _call(each, names)
            if call is None:
                return ()
            found.append(call)
        at = _between_calls(text, at)
    return tuple(found)


def _between_calls(text: str, at: int) -> int:
    """Where the next call begins."""
    match = _BETWEEN.match(text, at)
    return match.end() if match else at


def _refuse_constant(name: str) -> None:
    """Infinity and the like are no JSON, though Python reads them."""
    raise ValueError(name)


def _call(value: object, names: set[str]) -> ToolCall | None:
    if not isinstance(value, dict) or value.get("name") not in names:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, dict):
        return None
    letters = string.ascii_letters + string.digits
    number = "".join(secrets.choice(letters) for _ in range(_ID_LENGTH))
    try:
        written = json.dumps(arguments, allow_nan=False)  # a number may be too large for Python
    except ValueError:
        return None
    return ToolCall(value["name"], written, number)


def _places(count: int) -> list[str]:
    return [f"#/anyOf/{number}/properties/arguments" for number in range(count)]


def _schema(tool: Tool, place: str) -> Any:
    """Of its arguments, which are always an object; its references lead to where it stands."""
    return _moved(tool.parameters, place) or {"type": "object", "additionalProperties": False}


def _levels(value: object) -> int:
    """How many lists and objects lie in each other, `value` included; counted to one too many."""
    level, inner = 0, [value]
    while level <= _DEEPEST:
        inner = [each for each in inner if isinstance(each, dict | list)]
        if not inner:
            break
        level += 1
        inner = [item for each in inner for item in _items(each)]
    return level


def _items(value: Any) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value


def _moved(value: Any, place: str) -> Any:
    if isinstance(value, dict):
        return {
            key: place + item[1:]
            if key == "$ref" and isinstance(item, str) and item.startswith("#")
            else _moved(item, place)
            for key, item in value.items()
        }
    return [_moved(item, place) for item in value] if isinstance(value, list) else value


def _as_text(message: Message) -> Message:
    if message.role == "tool":
        name = f" of {message.name}" if message.name else ""
        return Message("user", f"The result{name}: {message.content}")
    if not message.calls:
        return message
    calls = "\n".join(
        f'{OPENING}\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n{CLOSING}'
        for call in message.calls
    )
    return Message(message.role, f"{message.content}\n{calls}".strip())


def _joined(messages: Sequence[Message]) -> list[Message]:
    """The same, without two of one role in a row: many templates refuse that."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1].role == message.role != "system":
            message = Message(message.role, f"{joined.pop().content}\n\n{message.content}")
        joined.append(message)
    return joined
