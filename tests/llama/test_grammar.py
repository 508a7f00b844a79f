"""Answers that follow a grammar, whatever the model would rather say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeslm.errors import InvalidOption, NativeFailure
from edgeslm.llama.context import ContextOptions
from edgeslm.llama.grammar import Grammar
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.generation import FinishReason, Generation, GenerationOptions
from edgeslm.runtime.schema import grammar_of_schema
from edgeslm.runtime.session import Session


@pytest.fixture(scope="module")
def session(tiny_model: Path) -> Iterator[Session]:
    with Model(tiny_model) as model, Session(model, ContextOptions(length=512)) as opened:
        yield opened


def _answer(session: Session, grammar: str, seed: int = 1, tokens: int = 300) -> Generation:
    """Of a model that talks nonsense, and hot."""
    sampling = SamplingOptions(temperature=2, top_p=1, min_p=0, seed=seed, grammar=grammar)
    prompt = session.model.tokenize("hello")
    return session.generate(prompt, GenerationOptions(tokens, sampling=sampling))


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        ('root ::= "yes" | "no"', "yes|no"),
        ("root ::= [0-9]{4} [a-f]?", "[0-9]{4}[a-f]?"),
        ('root ::= item ("," item){2}\nitem ::= "größer" | "☃" | "😀"', "((größer|☃|😀),?){3}"),
    ],
)
@pytest.mark.parametrize("temperature", [0, 2])
def test_the_answer_follows_it(
    session: Session, grammar: str, pattern: str, temperature: float
) -> None:
    sampling = SamplingOptions(temperature=temperature, seed=3, grammar=grammar)
    prompt = session.model.tokenize("hello")
    answer = session.generate(prompt, GenerationOptions(100, sampling=sampling))
    assert re.fullmatch(pattern, answer.text)
    assert answer.finish_reason is FinishReason.STOP


def test_what_the_model_likes_best_is_taken_where_it_is_allowed(session: Session) -> None:
    prompt = session.model.tokenize("hello")
    free = session.generate(prompt, GenerationOptions(8, sampling=SamplingOptions(temperature=0)))
    open_minded = SamplingOptions(temperature=0, grammar="root ::= [^☃]*")
    bound = session.generate(prompt, GenerationOptions(8, sampling=open_minded))
    assert bound.tokens == free.tokens


@pytest.mark.parametrize("likely", [1, 8, 64])
def test_the_likeliest_are_asked_first_and_change_nothing(
    session: Session, monkeypatch: pytest.MonkeyPatch, likely: int
) -> None:
    prompt = session.model.tokenize("hello")
    grammars = ("root ::= [a-z]{20}", "root ::= [^a-z]{20}", 'root ::= ("größer" | "☃" | "-"){9}')

    def answers(temperature: float) -> list[Generation]:
        sampling = [
            SamplingOptions(temperature=temperature, seed=4, grammar=grammar)
            for grammar in grammars
        ]
        return [session.generate(prompt, GenerationOptions(80, sampling=each)) for each in sampling]

    expected = [answer.tokens for answer in answers(0)]
    monkeypatch.setattr("edgeslm.llama.sampler._LIKELY", likely)
    assert [answer.tokens for answer in answers(0)] == expected
    patterns = ("[a-z]{20}", "[^a-z]{20}", "(größer|☃|-){9}")
    for answer, pattern in zip(answers(2), patterns, strict=True):
        assert re.fullmatch(pattern, answer.text)
    everything = SamplingOptions(
        temperature=10, top_k=0, top_p=1, min_p=0, seed=1, grammar="root ::= [a-z]{200}"
    )
    answer = session.generate(prompt, GenerationOptions(300, sampling=everything))
    assert len(set(answer.text)) > 20  # not only those that are likely


def test_control_tokens_are_no_text(session: Session) -> None:
    """Or what is written would not be what the grammar saw."""
    name = next(iter(session.model.control_tokens))
    answer = _answer(session, f"root ::= {json.dumps(name)}")
    assert answer.text == name
    assert not set(answer.tokens) & set(session.model.control_tokens.values())


def test_a_character_that_is_begun_can_be_ended(session: Session) -> None:
    """Each byte is likely here, also those that begin what is no character."""
    for seed in range(20):
        answer = _answer(session, "root ::= [\U0000d000-\U0000e000]{10}", seed)
        assert re.fullmatch("[\ud000-\ud7ff\ue000]{10}", answer.text)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_mix_of_alternatives(session: Session, data: st.DataObject) -> None:
    word = st.text("ab☃ -", min_size=1, max_size=3)
    words = data.draw(st.lists(word, min_size=1, max_size=4))
    alternatives = " | ".join(json.dumps(each, ensure_ascii=False) for each in words)
    answer = _answer(session, f"root ::= ({alternatives}){{2}}", data.draw(st.integers(0, 99)))
    assert answer.text in {first + second for first in words for second in words}


def test_text_that_no_token_makes_is_an_error(session: Session) -> None:
    with pytest.raises(NativeFailure, match="no tokens for"):
        _answer(session, "root ::= <[99999]>")
    assert _answer(session, 'root ::= "a"').text == "a"  # the session lives on


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ('root ::= "a', "unexpected end of input"),
        ("root ::= other", "Undefined rule identifier 'other'"),
        ('other ::= "a"', "does not contain a 'root' symbol"),
        ('root ::= root "a"', "left recursion"),
        ('root ::= "a\0b"', "null character"),
        ('root ::= "\ud800"', "not valid text"),
        ("root ::= " + "(" * 100_000, "nested more than 500 deep"),
        ("root ::= " + '")" (' * 5000, "or more than 4000"),
        ("\n".join(f"r{i} ::= r{i + 1}" for i in range(5000)), "more than 4000 rules"),
        ("root ::= " + "[" * 250_000, "unexpected end of input"),
        ("root ::= #" + "x" * 300_000, "300010 bytes"),
        ('root ::= "a"{100000}', "repetitions exceeds"),
        ("root ::= " + '"a"{0,2000} ' * 60, "repetitions that add up to 120000"),
        ("root ::= " + "[a-z] # {9}\n{ 2000 } " * 60, "repetitions that add up to 120000"),
        ("root ::= " + "x{2000,} " * 60 + '\nx ::= "a"', "repetitions that add up to 120000"),
        ('root ::= "' + "x" * 10_000 + '"{2000}', "repetitions that add up to 626000"),
        ("root ::= [" + "x" * 10_000 + "]{0,2000}", "repetitions that add up to 626000"),
        ('root ::= "a"{' + "9" * 5000 + "}", "repetitions that add up to 999999999"),
    ],
)
def test_grammars_that_cannot_be_used(
    session: Session, source: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidOption, match=re.escape(message)):
        Grammar(session.model, source)
    assert capfd.readouterr().err == ""


def test_a_schema_whose_counts_are_small_but_many(session: Session) -> None:
    texts = {"type": "array", "prefixItems": [{"type": "string", "maxLength": 2000}] * 60}
    with pytest.raises(InvalidOption, match="add up to 120") as caught:
        Grammar(session.model, grammar_of_schema(json.dumps(texts)))
    assert "maxLength" in (caught.value.hint or "")


def test_a_grammar_that_takes_too_long(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeslm.llama.grammar._MOST_SECONDS", 0.0)
    with pytest.raises(NativeFailure, match="too many ways"):
        _answer(session, 'root ::= "a" root "b" | "a" root "c" | "a"')
    monkeypatch.undo()
    assert _answer(session, 'root ::= "a"').text == "a"


def test_parentheses_that_are_text_do_not_nest(session: Session) -> None:
    answer = _answer(session, 'root ::= "' + "(" * 600 + '"', tokens=510)
    assert answer.text == "(" * len(answer.text)


def test_braces_that_are_text_do_not_repeat(session: Session) -> None:
    source = 'root ::= "{9999}" [{] "x"{2} # {99999} {99999}\n'
    assert _answer(session, source).text == "{9999}{xx"


def test_as_often_as_is_allowed(session: Session) -> None:
    source = "root ::= " + '"a"{0,2000} ' * 50
    assert set(_answer(session, source, tokens=20).text) <= {"a"}


def test_as_deep_as_is_allowed(session: Session) -> None:
    assert _answer(session, "root ::= " + "(" * 500 + '"a"' + ")" * 500).text == "a"
