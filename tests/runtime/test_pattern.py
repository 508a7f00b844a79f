"""Patterns against Python's own expressions, with llama.cpp following the grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from grammars import accepts, open_session, says
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeslm.errors import InvalidOption
from edgeslm.llama.model import Model
from edgeslm.runtime.pattern import grammar_of_pattern


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Model]:
    with Model(tiny_model) as opened:
        yield opened


_ATOMS = st.sampled_from(
    [
        *(
            "a",
            "b",
            "é",
            "☃",
            ".",
            "-",
            "/",
            ":",
            '"',
            r"\.",
            r"\d",
            r"\w",
            r"\W",
            r"\\",
            r"\/",
            r"\n",
        ),
        *(
            "[ab]",
            "[^a]",
            "[a-c1-3]",
            r"[\d-]",
            r"[\]x]",
            "[.]",
            r"[^\n]",
            "[😀☃]",
            r"\x61",
            r"\u2603",
        ),
    ]
)


def _extended(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    quantifier = st.sampled_from(("", "*", "+", "?", "{2}", "{1,2}", "{0,1}", "{1,}", "*?"))
    group = st.builds("({}){}".format, inner, quantifier)
    silent = st.builds("(?:{}|{})".format, inner, inner)
    return st.one_of(group, silent, st.builds("{}{}".format, inner, inner))


_PATTERNS = st.recursive(
    st.builds("{}{}".format, _ATOMS, st.sampled_from(("", "*", "+", "?", "{2}", "{0,2}"))),
    _extended,
    max_leaves=5,
)
_TEXTS = st.text(st.sampled_from('ab1c2.-\\"/é☃😀]x: \n'), max_size=6)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(_PATTERNS, st.sampled_from(("", "^")), st.sampled_from(("", "$")), st.data())
def test_what_matches_is_allowed_and_nothing_else(
    model: Model, pattern: str, begin: str, end: str, data: st.DataObject
) -> None:
    whole = f"{begin}{pattern}{end}"
    grammar = f"root ::= {grammar_of_pattern(whole)}\n"
    expression = re.compile(begin + pattern + (r"\Z" if end else ""), re.ASCII)
    found = st.from_regex(expression)
    for text in data.draw(st.lists(st.one_of(found, _TEXTS), min_size=1, max_size=5)):
        # what would need an escape that is not made is never said
        if re.search(r"[\x7f-\x9f\ud800-\udfff]", text):
            continue
        inside = json.dumps(text, ensure_ascii=False)[1:-1]
        allowed = accepts(model, grammar, inside)
        if allowed:
            assert expression.search(text)
        elif not re.search(r"[\x00-\x1f]", text):
            assert not expression.search(text), (whole, text)


@pytest.mark.parametrize(
    "pattern", ["^[A-Z]{3}-[0-9]{2,4}$", "^(a|bc)+$", "x", "^$", "^\\w+@\\w+$"]
)
def test_what_is_said_matches(model: Model, pattern: str) -> None:
    with open_session(model) as session:
        for seed in range(5):
            said = says(session, f"root ::= {grammar_of_pattern(pattern)}", seed)
            assert said is None or re.search(pattern, json.loads(f'"{said}"'), re.ASCII)


@pytest.mark.parametrize(
    "pattern",
    [
        "(", ")", "a)", "[a", "[b-a]", "[]", "*", "a**", "a{", "a{x}", "a{3,2}", "a{99999}",
        "((a{0,50}){50})", "(a?){21}", "((a*){3}b?){7}",
        "(?=a)", "(?<n>a)", "(?!a)", "\\1", "\\b", "\\p{L}", "\\", "\\u12", "\\ud800", "a$b",
        "a^b", "(^a)",        "(a$)", "{2}", "(" * 60 + ")" * 60, "[^\\w\\W]",
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidOption, match=r"the pattern .* cannot be followed"):
        grammar_of_pattern(pattern)
