"""A second model that guesses, and what happens when it is wrong."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeslm.errors import InvalidOption
from edgeslm.gguf.arrays import Numbers
from edgeslm.llama.context import Context, ContextOptions, DecodeAborted
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.draft_model import DraftModel, require_same_vocabulary
from edgeslm.runtime.engine import Engine
from edgeslm.runtime.generation import Generation, GenerationOptions
from edgeslm.runtime.session import Session
from edgeslm.testing import tiny_gguf

SHAPE = ContextOptions(
    length=256, batch=16, threads=1, outputs=16, kv_type="F32", flash_attention=False
)
GREEDY = GenerationOptions(60, (), SamplingOptions(temperature=0), speculate="always")
SEEDED = replace(GREEDY, sampling=SamplingOptions(temperature=0.5, seed=3))
PROMPT = "hello there was once"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    with Model(tiny_gguf(path, context_length=512)) as opened:
        yield opened


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("model") / "smaller.gguf"
    with Model(tiny_gguf(path, layers=1, context_length=512)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _never_unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise is never sure of anything."""
    monkeypatch.setattr("edgeslm.runtime.draft_model._SURE", 0.0)


def _answer(
    model: Model, options: GenerationOptions, draft: Model | None, prompt: str = PROMPT
) -> Generation:
    with Session(model, SHAPE, draft=draft) as session:
        return session.generate(model.tokenize(prompt), options)


@pytest.mark.parametrize("options", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_it_is_the_answer_without_it(
    model: Model, smaller: Model, options: GenerationOptions
) -> None:
    plain = _answer(model, replace(options, speculate="off"), None)
    for draft in (smaller, model):
        guessed = _answer(model, options, draft)
        assert guessed.tokens == plain.tokens
        assert guessed.drafted_tokens > 20


def test_the_model_itself_guesses_right(model: Model) -> None:
    guessed = _answer(model, GREEDY, model)
    assert guessed.accepted_tokens >= 50
    assert guessed.accepted_tokens == guessed.drafted_tokens


def test_a_draft_is_what_the_model_says(model: Model) -> None:
    """Whatever it was asked about before, and whatever of that was right."""
    with DraftModel(model, model, SHAPE) as draft, Context(model, SHAPE) as context:

        @settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(
            st.integers(0, 50),
            st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=5),
            st.integers(1, 5),
        )
        def check(seed: int, steps: list[tuple[int, bool]], count: int) -> None:
            text = [3 + (seed * 7 + index) % 200 for index in range(2 + seed)]
            draft.begin(0, text)
            for more, right in steps:
                guesses = draft.draft(0, text, count)
                text += [*guesses[:more], 5 if right else 6]
            assert draft.draft(0, text, count) == _greedy(context, text, count)

        check()


def _greedy(context: Context, text: list[int], count: int) -> tuple[int, ...]:
    context.forget()
    context.prefill(text)
    said: list[int] = []
    while len(said) < count:
        token = int(context.logits().argmax())
        if context.model.ends_generation(token):
            break
        said.append(token)
        context.step(token, len(text) + len(said) - 1)
    return tuple(said)


def test_several_at_once(model: Model, smaller: Model) -> None:
    shape = replace(SHAPE, length=3 * 256, sequences=3)
    words = ("hello", "the and in the", "no way", "why and how", "once")
    with Engine(model, shape, draft=smaller) as engine:
        tickets = [engine.submit(model.tokenize(word), GREEDY) for word in words * 2]
        answers = [ticket.result(60) for ticket in tickets]
    assert sum(answer.drafted_tokens for answer in answers) > 50
    for word, answer in zip(words * 2, answers, strict=True):
        plain = _answer(model, replace(GREEDY, speculate="off"), None, word)
        assert answer.tokens == plain.tokens


def test_one_that_is_given_up_while_it_reads(model: Model) -> None:
    with DraftModel(model, model, SHAPE) as draft:
        text = model.tokenize("the and " * 20)
        draft.begin(0, text)
        with pytest.raises(DecodeAborted):
            draft.draft(0, text, 4, cancelled=lambda: True)
        with Context(model, SHAPE) as context:
            assert draft.draft(0, text, 4) == _greedy(context, text, 4)


def test_one_that_is_not_sure_says_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeslm.runtime.draft_model._SURE", 1.1)
    with DraftModel(model, model, SHAPE) as draft:
        assert draft.draft(0, model.tokenize("hello"), 4) == ()
    assert _answer(model, GREEDY, model).tokens


def test_what_it_takes_grows_with_what_it_missed(model: Model) -> None:
    with DraftModel(model, model, SHAPE) as draft:
        text = model.tokenize("hello there")
        draft.begin(0, text)
        first = draft.seconds(0, len(text) + 1, 4, step=1.0)
        assert first == pytest.approx(4.0)
        assert draft.seconds(0, len(text) + 9, 4, step=1.0) == pytest.approx(8.0)
        draft.draft(0, text, 4)
        assert 0 < draft.seconds(0, len(text) + 1, 4, step=1e9) < 1e6


def test_another_vocabulary_is_refused(model: Model, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(model.path.read_bytes().replace(b"<|im_start|>", b"<|im_begin|>"))
    with Model(other) as opened, pytest.raises(InvalidOption, match="their vocabularies differ"):
        Session(model, SHAPE, draft=opened)


def test_vocabularies_are_compared_as_they_were_loaded(
    model: Model, smaller: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not as files that are read again, or lie there by now."""

    def refused(path: Path) -> None:
        raise AssertionError(path)

    for module in ("gguf.validation", "llama.model"):
        monkeypatch.setattr(f"edgeslm.{module}.read_header", refused)
    require_same_vocabulary(smaller, model)


@pytest.mark.parametrize("tokens", [300, 5000])
def test_a_vocabulary_of_any_length_is_compared(model: Model, smaller: Model, tokens: int) -> None:
    """Short lists are kept, of long ones a digest."""
    key = "tokenizer.ggml.token_type"
    headers = [
        replace(model.structure, metadata={**model.structure.metadata, key: types})
        for types in (_types(tokens, 1), _types(tokens, 1), _types(tokens, 3))
    ]
    pair = [copy(model), copy(smaller)]
    for last, fits in ((headers[1], True), (headers[2], False)):
        for each, header in zip(pair, (headers[0], last), strict=True):
            each._keep(header)
        with nullcontext() if fits else pytest.raises(InvalidOption, match="token_type"):
            require_same_vocabulary(pair[1], pair[0])


def _types(count: int, last: int) -> Sequence[int]:
    numbers = Numbers(struct.pack(f"<{count}i", *[1] * (count - 1), last), "i")
    return numbers if count > 4096 else tuple(numbers)
