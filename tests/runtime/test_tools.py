"""Tools reach the model, and its calls are found, whatever it writes around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import validate

from edgeslm.errors import InvalidOption
from edgeslm.llama.context import ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.generation import GenerationOptions
from edgeslm.runtime.messages import Message, ToolCall
from edgeslm.runtime.prompt import PromptEncoder
from edgeslm.runtime.session import Session
from edgeslm.runtime.tools import CallFinder, Tool, grammar_of_calls, spelled_out
from edgeslm.testing import CONTROL_TOKENS

CITY = {"type": "object", "properties": {"city": {"$ref": "#/$defs/name"}}, "required": ["city"]}
CITY["additionalProperties"] = False
CITY["$defs"] = {"name": {"type": "string", "maxLength": 5}}
TOOLS = (Tool("weather", "How it is outside", CITY), Tool("time"))
CALL = '{"name": "weather", "arguments": {"city": "Bonn"}}'

TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "{% if tools[0].type != 'function' %}{{ raise_exception('type') }}{% endif %}"
    "<|im_end|>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments | "
    "tojson }}){% if call.id | length != 9 %}{{ raise_exception('id') }}{% endif %}{% endfor %}"
    "<|im_end|>{% endfor %}<|im_start|>assistant\n"
)


def _found(text: str, sizes: list[int] | None = None) -> tuple[str, list[tuple[str, str]]]:
    """Of an answer that comes in pieces."""
    finder, shown, start = CallFinder(TOOLS), "", 0
    for size in sizes or [len(text)]:
        shown += finder.feed(text[start : start + size])
        start += size
    shown += finder.feed(text[start:])
    rest, calls = finder.finish()
    return shown + rest, [(call.name, call.arguments) for call in calls]


@pytest.mark.parametrize(
    ("text", "shown", "names"),
    [
        ("Hello < you >", "Hello < you >", []),
        (CALL, "", ["weather"]),
        (f"<tool_call>\n{CALL}\n</tool_call>", "", ["weather"]),
        (f"  \n<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", "", ["weather"] * 2),
        (f"[{CALL}, {CALL}]", "", ["weather"] * 2),
        (f"[TOOL_CALLS] [{CALL}]", "", ["weather"]),
        (f"{CALL}; {CALL}", "", ["weather"] * 2),
        ('{"name": "time", "parameters": {}}', "", ["time"]),
        ('{"name": "time"}', "", ["time"]),
        (f"Let me see. <tool_call>{CALL}</tool_call>", "Let me see. ", ["weather"]),
        ("I <tool_box> it", "I <tool_box> it", []),
        ("no <tool_call>{", "no <tool_call>{", []),
        ('{"name": "bomb", "arguments": {}}', '{"name": "bomb", "arguments": {}}', []),
        ('{"name": "time", "arguments": 5}', '{"name": "time", "arguments": 5}', []),
        ("{}", "{}", []),
        ('{"name": "time", "arguments": {"x": 1e999}}',) * 2 + ([],),
        ('{"name": "time", "arguments": {"x": NaN}}',) * 2 + ([],),
        ("[" * 99_999, "[" * 99_999, []),
        ("", "", []),
    ],
)
def test_what_is_a_call(text: str, shown: str, names: list[str]) -> None:
    for sizes in (None, [1] * min(len(text), 200)):
        found, calls = _found(text, sizes)
        assert found == shown
        assert [name for name, _ in calls] == names


@given(
    st.text("<tool_cal>{}\n ab", max_size=60),
    st.lists(st.integers(1, 9), max_size=20),
    st.booleans(),
)
def test_pieces_of_any_size_tell_the_same(text: str, sizes: list[int], ends: bool) -> None:
    text += f"<tool_call>{CALL}</tool_call>" if ends else ""
    assert _found(text, sizes) == _found(text)


@pytest.mark.parametrize("text", ["<tool_call> [TOOL_CALLS] </tool_call>", "\\ud800", "ü; ,"])
def test_arguments_stay_as_they_were_said(text: str) -> None:
    said = f'<tool_call>{{"name": "time", "arguments": {{"x": "{text}"}}}}</tool_call>'
    ((_, arguments),) = _found(said)[1]
    assert json.loads(arguments) == json.loads(f'{{"x": "{text}"}}')
    assert arguments.isascii()


def test_arguments_that_are_no_object() -> None:
    with pytest.raises(InvalidOption, match="are no object"):
        Tool("t", "", {"type": "string"})


def _nested(levels: int, *, lists: bool = False) -> dict[str, Any]:
    value: Any = {}
    for _ in range(levels - 1):
        value = {"x": [value]} if lists else {"properties": value}
    return dict(value)


def test_parameters_that_are_nested_deep() -> None:
    for tool in (Tool("t", "", _nested(64)), Tool("t", "", {"a": 1, **_nested(32, lists=True)})):
        assert json.dumps(tool.described())
    for parameters in (_nested(65), _nested(480), _nested(100_000), _nested(33, lists=True)):
        with pytest.raises(InvalidOption, match="more than 64 levels") as caught:
            Tool("t", "", parameters)
        assert caught.value.hint


@pytest.mark.parametrize("arguments", ["{", "[" * 99_999, '{"a":' * 600 + "1" + "}" * 600])
def test_arguments_that_no_template_can_write(tiny_model: Path, arguments: str) -> None:
    with Model(tiny_model) as model:
        said = [Message("assistant", "", (ToolCall("t", arguments, "123456789"),))]
        assert PromptEncoder(model, TEMPLATE).encode_messages(said)


def test_without_tools_everything_is_text() -> None:
    finder = CallFinder(())
    assert finder.feed(CALL) == CALL
    assert finder.finish() == ("", ())


@pytest.mark.parametrize("name", ["", "a b", "ü", "x" * 65, "<|im_end|>"])
def test_names_that_tools_cannot_have(name: str) -> None:
    with pytest.raises(InvalidOption, match="tool's name"):
        Tool(name)


def test_a_model_that_must_call_does(tiny_model: Path) -> None:
    with Model(tiny_model) as model, Session(model, ContextOptions(length=512)) as session:
        for seed in range(6):
            sampling = SamplingOptions(temperature=2, seed=seed, grammar=grammar_of_calls(TOOLS))
            prompt = model.tokenize("hello")
            answer = session.generate(prompt, GenerationOptions(400, sampling=sampling))
            _, calls = _found(answer.text)
            ((name, arguments),) = calls
            assert name in ("weather", "time")
            if name == "weather":
                schema = {**CITY, "$defs": CITY["$defs"]}
                validate(json.loads(arguments), schema)
            else:
                assert json.loads(arguments) == {}


def test_a_template_without_tools_is_told_in_words() -> None:
    said = [
        Message("system", "Be kind."),
        Message("user", "Weather?"),
        Message("assistant", "", (ToolCall("weather", '{"city": "Bonn"}', "a"),)),
        Message("tool", "sunny", name="weather", call_id="a"),
        Message("tool", "warm"),
        Message("user", "Thanks"),
    ]
    told = spelled_out(said, TOOLS)
    assert [message.role for message in told] == ["system", "user", "assistant", "user"]
    assert told[0].content.startswith("Be kind.\n\nYou may call tools.")
    assert '"weather"' in told[0].content
    assert _found(told[2].content) == ("", [("weather", '{"city": "Bonn"}')])
    assert told[3].content == "The result of weather: sunny\n\nThe result: warm\n\nThanks"
    assert not any(message.calls for message in told)
    assert spelled_out(said[:2], ()) == said[:2]


def test_a_template_that_knows_tools(tiny_model: Path) -> None:
    with Model(tiny_model) as model:
        encoder = PromptEncoder(model, TEMPLATE)
        assert encoder.knows_tools
        assert not PromptEncoder(model).knows_tools
        said = [
            Message("user", "Weather?"),
            Message("assistant", "", (ToolCall("weather", '{"city": "Bonn"}', "abcdefgh1"),)),
        ]
        tokens = encoder.encode_messages(said, [tool.described() for tool in TOOLS])
        text = model.detokenize(tokens)
    assert json.dumps(TOOLS[0].described()) in text
    assert 'weather({"city": "Bonn"})' in text


@pytest.mark.parametrize("spelling", [*CONTROL_TOKENS, "|im_end|>", "im_start"])
def test_nothing_of_a_tool_becomes_a_control_token(tiny_model: Path, spelling: str) -> None:
    with Model(tiny_model) as model:
        encoder = PromptEncoder(model, TEMPLATE)
        control = set(model.control_tokens.values())

        def count(text: str) -> int:
            parameters = {"properties": {text: {"type": text, "enum": [text]}}, text: 1}
            tools = [Tool("t", text, parameters).described()]
            call = ToolCall(text, json.dumps({text: [text]}), "123456789")
            said = [
                Message("user", text, name=text),
                Message("assistant", text, (call, ToolCall(text, text, "123456789"))),
                Message("tool", text, name=text, call_id=text),
            ]
            return sum(token in control for token in encoder.encode_messages(said, tools))

        assert count(spelling) == count("harmless")
