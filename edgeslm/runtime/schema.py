"""JSON schemas as grammars: whatever a model says then is JSON that fits.

A part of JSON Schema that cannot be followed is refused, not left out: who asks for a limit relies
on it. Two freedoms are taken, which make answers shorter and never wrong: properties come in the
order of the schema, and an object that lists some has no others unless it says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import unquote

from edgeslm.errors import InvalidOption
from edgeslm.runtime.gbnf import MOST_REPEATED, alternatives, literal, none_of, repeated
from edgeslm.runtime.pattern import grammar_of_pattern
from edgeslm.runtime.whole_numbers import between

Schema = Mapping[str, Any]

_DEEPEST = 64
_MOST_BEGINNINGS = 1000
_NOTES = frozenset(
    {"title", "description", "default", "examples", "example", "deprecated", "readOnly"}
    | {"writeOnly", "$schema", "$id", "$comment", "$defs", "definitions", "strict", "name"}
    | {"discriminator", "contentMediaType", "contentEncoding"}
)
"""Keys that say nothing about which JSON fits."""
_BY_TYPE = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "format"}),
    "number": frozenset({"minimum", "exclusiveMinimum", "format"}),
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
_WHITE = "white"
_BASE = {
    _WHITE: r'(" " | "\n" [ \t]{0,20})?',
    "char": r'[^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" code)',
    "code": "[0-9a-cA-Ce-fE-F] hex{3} | [dD] [0-7] hex{2}",
    "hex": "[0-9a-fA-F]",
    "string": r'"\"" char* "\""',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "integer": '"-"? natural',
    "natural": '"0" | [1-9] [0-9]{0,15}',
    "number": '"-"? unsigned',
    "unsigned": 'natural ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "object": f'"{{" {_WHITE} (pair ("," {_WHITE} pair)*)? "}}"',
    "pair": f'string {_WHITE} ":" {_WHITE} value',
    "array": f'"[" {_WHITE} (value ("," {_WHITE} value)*)? "]"',
    "value": f"(object | array | string | number | boolean | null) {_WHITE}",
    "year": "[0-9]{4}",
    "month": '"0" [1-9] | "1" [0-2]',
    "day": '"0" [1-9] | "1" [0-9] | "2" [0-8]',
    "clock": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? zone',
    "zone": '"Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]',
}
_FORMATS = {
    "date": 'year "-" month "-" day',
    "time": "clock",
    "date-time": 'year "-" month "-" day "T" clock',
    "uuid": 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
}
"""Others are notes, as the standard has it. Days end at the 28th: every month has those."""


def grammar_of_schema(schema: str) -> str:
    """The grammar, in GBNF, of JSON that fits a JSON schema.

    Args:
        schema: The schema as JSON text.

    Raises:
        InvalidOption: it is no schema, or has parts that cannot be followed.
    """
    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise InvalidOption(
            f"the schema is not valid JSON: {error}", hint="Write it as JSON."
        ) from error
    if not isinstance(parsed, dict | bool):
        raise InvalidOption("the schema is not a JSON object", hint='Such as {"type": "object"}.')
    return _Converter(parsed).grammar()


class _Converter:
    """Collects rules; each part of the schema becomes the text of one expression."""

    def __init__(self, root: Schema | bool) -> None:
        self._root = root
        self._rules: dict[str, str] = {}
        self._references: dict[str, str] = {}
        self._following: list[str] = []
        self._ways: dict[str, int] = {}

    def grammar(self) -> str:
        """All rules, `root` first."""
        root = f"{_WHITE} {self._any(self._root, '#', 0)}"
        rules = {"root": root, **self._rules, **_BASE}
        return "".join(f"{name} ::= {body}\n" for name, body in rules.items())

    def _any(self, schema: object, place: str, depth: int) -> str:
        """The expression for any JSON that fits, and white space after it."""
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, dict):
            _refuse(place, "is not a schema that something fits")
        if depth > _DEEPEST:
            _refuse(place, f"lies more than {_DEEPEST} levels deep")
        for key, convert in self._whole.items():
            if key in schema:
                values = key in ("enum", "const")
                others = schema.keys() - _NOTES - {key, "nullable", "type" if values else key}
                if others:
                    _refuse(place, f"has {key} beside {', '.join(sorted(others))}")
                told = _of_types(schema, key, place) if values else schema[key]
                return self._or_null(schema, convert(self, told, f"{place}/{key}", depth))
        return self._or_null(schema, self._typed(schema, place, depth))

    def _or_null(self, schema: Schema, body: str) -> str:
        return alternatives([body, f"null {_WHITE}"]) if schema.get("nullable") is True else body

    def _typed(self, schema: Schema, place: str, depth: int) -> str:
        types = schema.get("type", _implied(schema))
        types = [types] if isinstance(types, str) else types
        if types is None:
            _refuse_others(schema, frozenset(), place)
            return "value"
        if not isinstance(types, list) or not types:
            _refuse(place, "has a type that is neither a name nor a list of names")
        known = frozenset[str]()
        for name in types:
            if not isinstance(name, str) or name not in _BY_TYPE:
                _refuse(place, f"has the type {json.dumps(name)}")
            known |= _BY_TYPE[name]
        _refuse_others(schema, known | {"type", "nullable"}, place)
        convert = self._of_type
        return alternatives(
            f"{convert[name](self, schema, place, depth)} {_WHITE}" for name in types
        )

    # what a key alone says

    def _enum(self, values: object, place: str, _depth: int) -> str:
        if not isinstance(values, list) or not values:
            _refuse(place, "is no list of values")
        return alternatives(f"{_json(value)} {_WHITE}" for value in values)

    def _any_of(self, schemas: object, place: str, depth: int) -> str:
        if not isinstance(schemas, list) or not schemas:
            _refuse(place, "is no list of schemas")
        parts = [self._any(each, f"{place}/{at}", depth + 1) for at, each in enumerate(schemas)]
        if self._beginnings({"anyOf": schemas}, place) > _MOST_BEGINNINGS:
            _refuse(place, f"leaves more than {_MOST_BEGINNINGS} ways to begin")
        return alternatives(f"({part})" for part in parts)

    def _beginnings(self, schema: object, place: str) -> int:
        """Ways in which what fits may begin; llama.cpp follows all of them at once."""
        if not isinstance(schema, dict):
            return 1
        if "$ref" in schema:
            target = schema["$ref"]
            if target not in self._ways:
                self._ways[target] = 1  # as long as it is not known, where it leads back to itself
                self._ways[target] = self._beginnings(self._find(target, place), place)
            return self._ways[target]
        branches = schema.get("anyOf", schema.get("oneOf", schema.get("allOf")))
        if isinstance(branches, list):
            return sum(self._beginnings(each, place) for each in branches)
        return 1

    def _all_of(self, schemas: object, place: str, depth: int) -> str:
        if not isinstance(schemas, list) or len(schemas) != 1:
            _refuse(place, "joins several schemas")
        return self._any(schemas[0], f"{place}/0", depth + 1)

    def _reference(self, target: object, place: str, depth: int) -> str:
        if not isinstance(target, str) or not target.startswith("#"):
            _refuse(place, f"is {json.dumps(target)}; only what begins with # can be followed")
        if target in self._following:
            _refuse(place, "refers to itself and nothing else")
        if target not in self._references:
            name = self._references[target] = f"ref-{len(self._references)}"
            self._following.append(target)
            found = self._find(target, place)
            direct = isinstance(found, dict) and "$ref" in found
            if not direct:
                self._following.pop()
            self._rules[name] = self._any(found, target, depth + 1)
            if direct:
                self._following.pop()
        return self._references[target]

    def _find(self, target: str, place: str) -> object:
        found: object = self._root
        for step in target[1:].split("/")[1:]:
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isascii() and key.isdigit() and len(key) < 6:
                found = dict(enumerate(found)).get(int(key))
            else:
                found = found.get(key) if isinstance(found, dict) else None
            if found is None:
                _refuse(place, f"is {target}, which is not there")
        return found

    _whole: Mapping[str, Callable[[_Converter, Any, str, int], str]] = {
        "$ref": _reference,
        "const": _enum,
        "enum": _enum,
        "anyOf": _any_of,
        "oneOf": _any_of,
        "allOf": _all_of,
    }

    # what a type's keys say

    def _string(self, schema: Schema, place: str, _depth: int) -> str:
        least, most = _counts(schema, "minLength", "maxLength", place)
        pattern, form = schema.get("pattern"), schema.get("format")
        inner = _FORMATS.get(form) if isinstance(form, str) else None
        if pattern is not None:
            if not isinstance(pattern, str):
                _refuse(place, "has a pattern that is no text")
            if inner:
                _refuse(place, "has a pattern and a format")
            inner = grammar_of_pattern(pattern)
        if inner is None:
            inner = repeated("char", least, most)
        elif (least, most) != (0, None):
            _refuse(place, "has a pattern or format, and a length too")
        return rf'"\"" {inner} "\""'

    def _integer(self, schema: Schema, place: str, _depth: int) -> str:
        low = _bound(schema, "minimum", place)
        above = _bound(schema, "exclusiveMinimum", place)
        high = _bound(schema, "maximum", place)
        below = _bound(schema, "exclusiveMaximum", place)
        lowest = max(
            (each for each in (low, None if above is None else above + 1) if each is not None),
            default=None,
        )
        highest = min(
            (each for each in (high, None if below is None else below - 1) if each is not None),
            default=None,
        )
        if lowest is None and highest is None:
            return "integer"
        if lowest is not None and highest is not None and lowest > highest:
            _refuse(place, "has a minimum above its maximum")
        return between(lowest, highest)

    def _number(self, schema: Schema, place: str, _depth: int) -> str:
        keys = [key for key in ("minimum", "exclusiveMinimum") if key in schema]
        if not keys:
            return "number"
        if keys != ["minimum"] or schema["minimum"] != 0:
            _refuse(place, "limits a number; only integers can be, and numbers to a minimum of 0")
        return "unsigned"

    def _array(self, schema: Schema, place: str, depth: int) -> str:
        least, most = _counts(schema, "minItems", "maxItems", place)
        first = schema.get("prefixItems", [])
        if not isinstance(first, list):
            _refuse(place, "has prefixItems that are no list")
        if first:
            rest = schema.get("items", False)
            if rest is not False or least > len(first) or (most is not None and most < len(first)):
                _refuse(place, "has prefixItems and other items")
            items = [
                self._any(each, f"{place}/prefixItems/{at}", depth + 1)
                for at, each in enumerate(first)
            ]
            return f'"[" {_WHITE} ' + f' "," {_WHITE} '.join(items) + ' "]"'
        item = self._rule("item", self._any(schema.get("items", True), f"{place}/items", depth + 1))
        if most == 0:
            return f'"[" {_WHITE} "]"'
        more = repeated(
            f'("," {_WHITE} {item})', max(0, least - 1), None if most is None else most - 1
        )
        inner = f"({item} {more})" + ("" if least else "?")
        return f'"[" {_WHITE} {inner} "]"'

    def _object(self, schema: Schema, place: str, depth: int) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        others = schema.get("additionalProperties", not properties)
        if not isinstance(properties, dict):
            _refuse(place, "has properties that are no object")
        if not isinstance(required, list) or not all(isinstance(each, str) for each in required):
            _refuse(place, "has a required that is no list of names")
        missing = [name for name in required if name not in properties]
        if missing and others is False:
            _refuse(place, f"requires {missing[0]}, which is not among its properties")
        properties = {**properties, **dict.fromkeys(missing, others)}
        pairs = []
        for name, each in properties.items():
            value = self._any(each, f"{place}/properties/{name}", depth + 1)
            pair = f'{_json(name)} {_WHITE} ":" {_WHITE} {value}'
            pairs.append((self._rule("pair", pair), name in required))
        end = None
        if others is not False:
            value = self._any(others, f"{place}/additionalProperties", depth + 1)
            key = self._other_key(list(properties))
            end = self._rule("more", f'{key} {_WHITE} ":" {_WHITE} {value}')
        return f'"{{" {_WHITE} {self._pairs(pairs, end)} "}}"'

    def _pairs(self, pairs: Sequence[tuple[str, bool]], end: str | None) -> str:
        """Pairs in their order, those not required or not; then any number of `end`."""
        comma = f'"," {_WHITE}'
        rest = "" if end is None else f"({comma} {end})*"
        start = "" if end is None else f"({end} {rest})?"
        for pair, needed in reversed(pairs):
            if not needed and not start:
                start = f"({pair} {rest})?"
            else:
                start = f"{pair} {rest}" if needed else f"({pair} {rest} | {start})"
            rest = f"{comma} {pair} {rest}" if needed else f"({comma} {pair})? {rest}"
            start, rest = self._short(start), self._short(rest)
        return start or '""'

    def _short(self, body: str) -> str:
        """As it is, or the name of a rule: what is used twice must not grow twice as long."""
        return self._rule("some", body) if len(body) > 60 else body

    def _other_key(self, names: Sequence[str]) -> str:
        """A key that is none of `names`: without escapes, so that it cannot be one in disguise."""
        if not names:
            return "string"
        return rf'"\"" {self._unlike(frozenset(names), 0)} "\""'

    def _unlike(self, names: frozenset[str], at: int) -> str:
        """The rest of a key that has begun like all of `names`, and is none of them."""
        nexts: dict[str, set[str]] = {}
        for name in names:
            if len(name) > at:
                nexts.setdefault(name[at], set()).add(name)
        plain = none_of(())
        parts = [f"{none_of(nexts)} {plain}*"]
        for character, group in sorted(nexts.items()):
            if at > _DEEPEST or ord(character) < 0x20 or character in '"\\\x7f':
                continue  # no other key begins so, then
            parts.append(f"{literal(character)} {self._unlike(frozenset(group), at + 1)}")
        if all(len(name) > at for name in names):
            parts.append('""')
        return self._rule("key", " | ".join(parts))

    def _rule(self, kind: str, body: str) -> str:
        name = f"{kind}-{len(self._rules)}"
        self._rules[name] = body
        return name

    _of_type: Mapping[str, Callable[[_Converter, Schema, str, int], str]] = {
        "object": _object,
        "array": _array,
        "string": _string,
        "integer": _integer,
        "number": _number,
        "boolean": lambda *_: "boolean",
        "null": lambda *_: "null",
    }


def _implied(schema: Schema) -> str | None:
    """The type that a schema's keys are about; None if they are about none."""
    for name in ("object", "array", "string"):
        if not _BY_TYPE[name].isdisjoint(schema.keys() - {"format"}):
            return name
    return None


def _refuse_others(schema: Schema, known: frozenset[str], place: str) -> None:
    others = sorted(schema.keys() - known - _NOTES)
    if others:
        _refuse(place, f"has {', '.join(others)}")


def _of_types(schema: Schema, key: str, place: str) -> list[object]:
    """The values of an enum or const that are of the schema's types, if it has any."""
    values = schema["enum"] if key == "enum" else [schema["const"]]
    if not isinstance(values, list):
        _refuse(place, "has an enum that is no list")
    types = schema.get("type")
    if types is None:
        return values
    types = [types] if isinstance(types, str) else types
    fitting = [value for value in values if not _types_of(value).isdisjoint(types)]
    if not fitting:
        _refuse(place, f"has no value of {key} that is of its type")
    return fitting


def _types_of(value: object) -> frozenset[str]:
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return frozenset({"integer", "number"})
    names = {float: "number", str: "string", list: "array", dict: "object", type(None): "null"}
    return frozenset({names[type(value)]})


def _counts(schema: Schema, least: str, most: str, place: str) -> tuple[int, int | None]:
    low, high = schema.get(least, 0), schema.get(most)
    for key, value in ((least, low), (most, high)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            _refuse(place, f"has a {key} that is no count")
        if value > MOST_REPEATED:
            _refuse(place, f"has a {key} of {value}; {MOST_REPEATED} is the most")
    if high is not None and high < low:
        _refuse(place, f"has a {most} below its {least}")
    return low, high


def _bound(schema: Schema, key: str, place: str) -> int | None:
    value = schema.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        _refuse(place, f"has a {key} that is no whole number")
    if abs(value) >= 10**16:
        _refuse(place, f"has a {key} of more than 16 digits")
    return int(value)


def _json(value: object) -> str:
    return literal(json.dumps(value, ensure_ascii=False))


def _refuse(place: str, problem: str) -> NoReturn:
    raise InvalidOption(
        f"the schema cannot be followed: {place} {problem}",
        hint="Leave that out, and check the answer for it afterwards.",
    )
