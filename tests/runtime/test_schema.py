"""Schemas against jsonschema: what a senseless model says fits, and what fits may be said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from grammars import accepts, open_session, says
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeslm.errors import InvalidOption
from edgeslm.llama.model import Model
from edgeslm.runtime.schema import grammar_of_schema
from edgeslm.runtime.session import Session

_NAMES = st.sampled_from(("a", "ab", "abc", "b", "größe", 'say "hi"', "x\\y", "", "☃"))
_VALUES = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text('ab\n"', max_size=2))
_LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.just({"type": ["integer", "null"]}),
    st.builds(
        lambda low, n: {"type": "integer", "minimum": low, "maximum": low + n},
        st.integers(-300, 300),
        st.integers(0, 300),
    ),
    st.builds(
        lambda low, n: {"type": "string", "minLength": low, "maxLength": low + n},
        st.integers(0, 3),
        st.integers(0, 3),
    ),
    st.builds(lambda values: {"enum": values}, st.lists(_VALUES, min_size=1, max_size=3)),
    st.builds(lambda value: {"const": value, "title": "note"}, _VALUES),
    st.sampled_from(("date", "time", "date-time", "uuid")).map(
        lambda name: {"type": "string", "format": name}
    ),
    st.just({"type": "string", "pattern": "^[a-c]{1,3}$"}),
    st.just({"type": "number", "minimum": 0}),
    st.just({"$ref": "#/$defs/leaf"}),
)


@st.composite
def _objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(_NAMES, inner, max_size=3))
    required = [name for name in properties if draw(st.booleans())]
    others = draw(st.sampled_from((None, False, {"type": "boolean"})))
    extra = {} if others is None else {"additionalProperties": others}
    return {"type": "object", "properties": properties, "required": required, **extra}


@st.composite
def _arrays(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    least, more = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    return {"type": "array", "items": draw(inner), "minItems": least, "maxItems": least + more}


_SCHEMAS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        _objects(inner),
        _arrays(inner),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
        inner.map(lambda part: {"allOf": [part]}),
        st.lists(inner, min_size=1, max_size=2).map(
            lambda parts: {
                "type": "array",
                "prefixItems": parts,
                "items": False,
                "minItems": len(parts),
                "maxItems": len(parts),
            }
        ),
    ),
    max_leaves=5,
).map(lambda schema: {**schema, "$defs": {"leaf": {"type": "boolean"}}})


@pytest.fixture(scope="module")
def session(tiny_model: Path) -> Iterator[Session]:
    with Model(tiny_model) as model, open_session(model) as opened:
        yield opened


def _fits(value: object, schema: Any) -> bool:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    return jsonschema.Draft202012Validator(schema, format_checker=checker).is_valid(value)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(_SCHEMAS, st.integers(0, 99))
def test_whatever_is_said_fits(session: Session, schema: Any, seed: int) -> None:
    said = says(session, grammar_of_schema(json.dumps(schema)), seed)
    if said is not None:
        assert _fits(json.loads(said), schema), said


@st.composite
def _instances(draw: st.DrawFn, schema: Any) -> Any:
    """A value that fits, of the order and with the properties that are allowed."""
    if "$ref" in schema:
        return draw(st.booleans())
    for key in ("anyOf", "allOf"):
        if key in schema:
            return draw(_instances(draw(st.sampled_from(schema[key]))))
    if "enum" in schema or "const" in schema:
        return draw(st.sampled_from(schema.get("enum", [schema.get("const")])))
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return draw(_OF_TYPE[draw(st.sampled_from(kinds))](schema))


@st.composite
def _some_array(draw: st.DrawFn, schema: Any) -> list[Any]:
    if "prefixItems" in schema:
        return [draw(_instances(part)) for part in schema["prefixItems"]]
    count = draw(st.integers(schema["minItems"], schema["maxItems"]))
    return [draw(_instances(schema["items"])) for _ in range(count)]


@st.composite
def _some_object(draw: st.DrawFn, schema: Any) -> dict[str, Any]:
    properties = schema["properties"]
    value = {
        name: draw(_instances(part))
        for name, part in properties.items()
        if name in schema["required"] or draw(st.booleans())
    }
    if schema.get("additionalProperties", not properties):
        others = st.sampled_from(("a", "aa", "abcd", "z", "", "gr"))
        for name in draw(st.lists(others, max_size=2)):
            if name not in properties:
                value[name] = draw(st.booleans())
    return value


def _some_text(schema: Any) -> st.SearchStrategy[str]:
    if "pattern" in schema:
        return st.text("abc", min_size=1, max_size=3)
    if "format" in schema:
        return st.just(_FORMATTED[schema["format"]])
    return st.text('aé☃😀"\\\n', min_size=schema["minLength"], max_size=schema["maxLength"])


_FORMATTED = {
    "date": "2024-02-28",
    "time": "23:59:59Z",
    "date-time": "2024-12-01T00:00:00.5+02:00",
    "uuid": "12345678-9abc-DEF0-1234-56789abcdef0",
}
_OF_TYPE: dict[str, Callable[[Any], st.SearchStrategy[Any]]] = {
    "array": _some_array,
    "object": _some_object,
    "string": _some_text,
    "integer": lambda schema: st.integers(schema.get("minimum", -5), schema.get("maximum", 5)),
    "number": lambda _: st.sampled_from((0, 1, 2.5, 1e-7, 1e20)),
    "boolean": lambda _: st.booleans(),
    "null": lambda _: st.none(),
}


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_fits_may_be_said(session: Session, data: st.DataObject) -> None:
    schema = data.draw(_SCHEMAS)
    value = data.draw(_instances(schema))
    assert _fits(value, schema)
    grammar = grammar_of_schema(json.dumps(schema))
    for layout in ({}, {"separators": (",", ":")}, {"indent": 2}):
        text = json.dumps(value, ensure_ascii=False, **layout)  # type: ignore[arg-type]
        assert accepts(session.model, grammar, text), text


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (True, ['{"a": [1, null, "x", -2.5e3]}', "0", '""'],
         ["", "{", "[1,]", '{"a"}', "01", "nul", "NaN", "1e999", "[1 2]"]),
        ({}, ["true"], ["True"]),
        ({"type": "object"}, ['{"a": {}}', "{}"], ["[]", "{1: 2}"]),
        ({"type": "string"}, ['"a\\u00e9\\n"', '"☃"'], ['"\n"', '"\\ud800"', '"\\x"', '"a', "a"]),
        ({"type": "integer", "exclusiveMinimum": 3}, ["4", "100"], ["3", "-4", "4.0"]),
        ({"type": "integer", "maximum": 0, "format": "int32"}, ["0", "-7"], ["1", "-0"]),
        ({"type": "string", "nullable": True}, ["null", '"x"'], ["0"]),
        ({"properties": {"a": True}, "required": ["b"], "additionalProperties": {"type": "null"}},
         ['{"b": null}', '{"a": 1, "b": null, "c": null}'],
         ['{"a": 1}', '{"b": 1}', '{"c": null}', '{"b": null, "a": 1}']),
        ({"properties": {"ab": True}, "additionalProperties": {"type": "null"}},
         ['{"a": null}', '{"abc": null}', '{"": null}', '{"ab": 1}'],
         ['{"a": 1}', '{"a": null, "ab": 1}', '{"\\u0061b": null}']),
        ({"properties": {"ab": {"type": "integer"}}, "additionalProperties": {"type": "null"}},
         ['{"ab": 1}', '{"a": null, "b": null}'], ['{"ab": null}', '{"ab": 1, "ab": null}']),
        ({"enum": ["a", 1, None], "type": ["string", "null"]}, ['"a"', "null"], ["1"]),
        ({"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": {"const": {"k": [1]}}}},
         ['{"k": [1]}'], ['{"k":[1]}', "1"]),
        ({"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
          "required": ["next"]}, ['{"next": {"next": null}}'], ['{"next": 1}', "{}"]),
    ],
)  # fmt: skip
def test_single_schemas(session: Session, schema: Any, good: list[str], bad: list[str]) -> None:
    grammar = grammar_of_schema(json.dumps(schema))
    for text in good:
        assert accepts(session.model, grammar, text), text
    for text in bad:
        assert not accepts(session.model, grammar, text), text


@pytest.mark.parametrize("count", [400, 2000])
def test_high_counts(session: Session, count: int) -> None:
    grammar = grammar_of_schema(json.dumps({"type": "string", "maxLength": count}))
    assert accepts(session.model, grammar, '"' + "a" * count + '"')
    assert not accepts(session.model, grammar, '"' + "a" * (count + 1) + '"')


def test_many_optional_properties_stay_small(session: Session) -> None:
    properties = {f"property{number}": {"type": "boolean"} for number in range(200)}
    grammar = grammar_of_schema(json.dumps({"properties": properties}))
    assert len(grammar) < 60_000
    assert accepts(session.model, grammar, '{"property3": true, "property198": false}')
    assert not accepts(session.model, grammar, '{"property198": true, "property3": false}')


def _doubling(levels: int) -> str:
    """Each level is one of two of the next: a short text of many meanings."""
    parts: dict[str, object] = {
        f"r{level}": {"anyOf": [{"$ref": f"#/$defs/r{level + 1}"}] * 2} for level in range(levels)
    }
    return json.dumps({"$ref": "#/$defs/r0", "$defs": {**parts, f"r{levels}": {"type": "null"}}})


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("3", "not a JSON object"),
        ("false", "# is not a schema that something fits"),
        ('{"type": "array", "minItems": 1000000000}', "minItems of 1000000000; 2000 is the most"),
        ('{"type": "string", "maxLength": 1e300}', "maxLength that is no count"),
        ('{"type": "string", "minLength": 3, "maxLength": 2}', "maxLength below its minLength"),
        ('{"anyOf": [{"type": "string", "pattern": "^a{9999999999}$"}]}', "cannot be followed"),
        (_doubling(28), "leaves more than 1000 ways to begin"),
        ('{"$ref": "https://example.com/schema.json"}', "only what begins with #"),
        ('{"$ref": "#/nowhere"}', "#/nowhere, which is not there"),
        ('{"$ref": "#"}', "refers to itself and nothing else"),
        ('{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}', "refers to itself"),
        ('{"type": "unheard-of"}', 'has the type "unheard-of"'),
        ('{"type": 3}', "neither a name nor a list"),
        ('{"type": "array", "items": 3}', "#/items is not a schema"),
        ('{"type": "array", "uniqueItems": true}', "has uniqueItems"),
        ('{"type": "string", "minimum": 3}', "has minimum"),
        ('{"type": "number", "maximum": 3}', "has maximum"),
        ('{"type": "number", "minimum": 1}', "only integers can be"),
        ('{"type": "integer", "minimum": 1.5}', "no whole number"),
        ('{"type": "integer", "minimum": 1e30}', "more than 16 digits"),
        ('{"type": "integer", "minimum": 2, "maximum": 1}', "minimum above its maximum"),
        ('{"anyOf": [true], "properties": {}}', "anyOf beside properties"),
        ('{"anyOf": []}', "no list of schemas"),
        ('{"allOf": [true, true]}', "joins several"),
        ('{"enum": []}', "no list of values"),
        ('{"enum": [1], "minimum": 3}', "enum beside minimum"),
        ('{"enum": [1], "type": "string"}', "no value of enum that is of its type"),
        ('{"properties": {"a": {}}, "required": ["b"]}', "requires b, which is not among"),
        ('{"required": "a"}', "no list of names"),
        ('{"not": {}}', "has not"),
        ('{"items": ' * 100 + "{}" + "}" * 100, "64 levels deep"),
        ('{"prefixItems": [true], "minItems": 2}', "prefixItems and other items"),
    ],
)
def test_schemas_that_cannot_be_followed(schema: str, message: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        grammar_of_schema(schema)
    assert message in str(caught.value)
