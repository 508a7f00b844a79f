"""Patterns of names, and mappings that become rules and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.gguf.types import TENSOR_TYPES, tensor_type
from edgeslm.packager.quantize.rules import Rule, compress, matches, pattern_problem, rule_for


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("output.weight", ["output.weight"], ["output-weight", "a.output.weight"]),
        ("blk.*.attn_v.weight", ["blk.0.attn_v.weight"], ["blk.0.1.attn_v.weight", "blk.0.attn_v"]),
        ("**", ["a", "a.b", "line\nbreak"], []),
        ("blk.**.weight", ["blk.0.ffn.up.weight"], ["output.weight"]),
        ("ffn_*.weight", ["ffn_up.weight", "ffn_.weight"], ["ffn_up.a.weight"]),
        (
            "blk.{0..3,29}.x",
            ["blk.0.x", "blk.3.x", "blk.29.x"],
            ["blk.4.x", "blk.2.9.x", "blk.00.x"],
        ),
        ("{attn_q,attn_k}.w", ["attn_q.w", "attn_k.w"], ["attn_v.w", "attn_q,attn_k.w"]),
        ("{8..12}", ["8", "10", "12"], ["7", "13", "1"]),
        ("{ 1, 2 }", ["1", "2"], ["3"]),
        (r"a\*\{1\}\\", [r"a*{1}" + "\\"], ["ab{1}\\"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    assert pattern_problem(pattern) is None
    assert [name for name in yes if not matches(pattern, name)] == []
    assert [name for name in no if matches(pattern, name)] == []


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("", "1 to"),
        ("a" * 501, "1 to"),
        ("a{0..3", "{ that belongs to nothing"),
        ("a}", "} that belongs to nothing"),
        ("a\\", "belongs to nothing"),
        ("{3..1}", "backwards"),
        ("{0..99999}", "too long"),
        ("{}", "no number"),
        ("{a.b}", "'a.b'"),
        ("{1..}", "'1..'"),
        ("{01..3}", "'01..3'"),
        ("*a*b*c*d*", "stars"),
    ],
)
def test_malformed_patterns(pattern: str, words: str) -> None:
    assert words in (pattern_problem(pattern) or "")
    with pytest.raises(ValueError, match=r"\S"):
        matches(pattern, "a")


KINDS = st.sampled_from(sorted(TENSOR_TYPES.values(), key=lambda kind: kind.id)[:4])
ROLES = st.one_of(
    st.sampled_from(["attn_q.weight", "attn_k.weight", "ffn_up.weight", "x.attn_q.weight", "norm"]),
    st.text(alphabet="ab*{}\\.,_-\n01é", min_size=1, max_size=6),
)
NAMES = st.one_of(
    st.builds("blk.{}.{}".format, st.integers(0, 40), ROLES),
    st.sampled_from(["token_embd.weight", "output.weight", "blk.a.attn_q.weight", "blk.007.norm"]),
    ROLES,
)


@given(st.dictionaries(NAMES, KINDS, max_size=60))
def test_any_mapping_survives(types) -> None:
    rules = compress(types)
    assert {name: rule_for(rules, name).type for name in types} == types
    assert len(rules) <= len(types)


def test_rules_are_few_and_in_order() -> None:
    q4, q5, q8 = map(tensor_type, ("Q4_0", "Q5_1", "Q8_0"))
    types = {"token_embd.weight": q5}
    for layer in range(30):
        types[f"blk.{layer}.attn_q.weight"] = q4
        types[f"blk.{layer}.attn_k.weight"] = q4
        types[f"blk.{layer}.attn_v.weight"] = q8 if layer in (0, 1, 2, 5, 28, 29) else q5
        types[f"blk.{layer}.ffn_down.weight"] = q8 if layer == 7 else q4
    assert compress(types) == (
        Rule("token_embd.weight", q5),
        Rule("blk.{0..2,5,28,29}.attn_v.weight", q8),
        Rule("blk.7.ffn_down.weight", q8),
        Rule("blk.*.{attn_q,attn_k,ffn_down}.weight", q4),
        Rule("blk.*.attn_v.weight", q5),
    )


def test_the_first_rule_decides() -> None:
    rules = (Rule("blk.0.*", tensor_type("Q8_0")), Rule("**", tensor_type("Q4_0")))
    assert rule_for(rules, "blk.0.x") == rules[0]
    assert rule_for(rules, "blk.1.x") == rules[1]
    assert rule_for(rules[:1], "blk.1.x") is None
