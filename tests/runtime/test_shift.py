"""A full context: the older half goes, its beginning stays, and the answer goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.engine import Engine
from edgeslm.runtime.generation import FinishReason, GenerationOptions
from edgeslm.runtime.session import Session
from edgeslm.testing import tiny_gguf

ENDLESS = SamplingOptions(temperature=0, logit_bias=((0, -100), (1, -100), (2, -100)))
"""Never ends by itself."""


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Model]:
    with Model(tiny_model) as opened:
        yield opened


def test_an_answer_goes_on_beyond_the_context(model: Model) -> None:
    prompt = model.tokenize("hello there, what is new? " * 4)
    options = GenerationOptions(700, sampling=ENDLESS, keep=20, shift=True)
    with Session(model, ContextOptions(length=256, threads=1)) as session:
        answer = session.generate(prompt, options)
        assert (len(answer.tokens), answer.finish_reason) == (700, FinishReason.LENGTH)
        again = session.generate(prompt, options)
        # what was computed in the company of dropped tokens is not taken for the prompt's
        assert again.reused_tokens == 20
        assert len(again.tokens) == 700


def test_without_a_number_of_tokens_it_ends_after_a_context_full(model: Model) -> None:
    prompt = model.tokenize("hello there " * 5)
    options = GenerationOptions(sampling=ENDLESS, shift=True)
    with Session(model, ContextOptions(length=256, threads=1)) as session:
        assert len(session.generate(prompt, options).tokens) == 256


def test_until_it_is_full_nothing_changes(model: Model) -> None:
    prompt = model.tokenize("hello there")
    with Session(model, ContextOptions(length=256, threads=1)) as session:
        plain = session.generate(prompt, GenerationOptions(sampling=ENDLESS))
        shifted = session.generate(prompt, GenerationOptions(600, sampling=ENDLESS, shift=True))
    assert len(plain.tokens) == 256 - len(prompt)
    assert shifted.tokens[: len(plain.tokens)] == plain.tokens


def test_the_moved_tokens_stand_where_they_are_expected(model: Model) -> None:
    with Context(model, ContextOptions(length=256, threads=1)) as context:
        context.prefill(list(range(10, 110)))
        assert context.shift(10, 40)
        assert context.forget(60) is True
        context.step(9, 60)


def test_a_model_that_cannot_shift_ends_its_answer(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "window.gguf", architecture="gemma3")
    context = ContextOptions(length=512, batch=64, ubatch=64, threads=1)
    with Model(path) as model, Session(model, context) as session:
        assert not session.context.can_shift
        prompt = model.tokenize("hello")
        answer = session.generate(prompt, GenerationOptions(900, sampling=ENDLESS, shift=True))
    assert (len(answer.tokens), answer.finish_reason) == (512 - len(prompt), FinishReason.LENGTH)


def test_neighbours_that_share_a_beginning_are_left_alone(model: Model) -> None:
    """What moves in one slot moves in none that copied its beginning from it."""
    common = model.tokenize("you are a helper who answers in rhymes " * 3)
    prompts = [common + model.tokenize(text) for text in ("one", "two")]
    context = ContextOptions(length=512, threads=1, sequences=2, outputs=2)
    hot = replace(ENDLESS, temperature=3, seed=7, top_k=0, min_p=0)
    short_options = GenerationOptions(100, sampling=hot)
    with Engine(model, context) as engine:
        alone = engine.submit(prompts[1], short_options).result(60)
    with Engine(model, context) as engine:
        engine.submit(prompts[0], GenerationOptions(1, sampling=ENDLESS)).result(60)
        long = engine.submit(
            prompts[0], GenerationOptions(500, sampling=ENDLESS, keep=10, shift=True)
        )
        # a neighbour is busy all the time that the other one answers
        neighbours = [engine.submit(prompts[1], short_options) for _ in range(12)]
        for neighbour in neighbours:
            assert neighbour.result(60).tokens[:20] == alone.tokens[:20]
        assert len(long.result(60).tokens) == 500
        again = engine.submit(prompts[1], short_options).result(60)
        assert again.tokens[:20] == alone.tokens[:20]
