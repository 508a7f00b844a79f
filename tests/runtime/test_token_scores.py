"""Scores are the model's own probabilities, whatever was made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeslm.errors import InvalidOption
from edgeslm.llama.context import Batch, Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.engine import Engine
from edgeslm.runtime.generation import GenerationOptions
from edgeslm.runtime.token_scores import score

EXACT = ContextOptions(kv_type="F32", flash_attention=False)
TEXT = "there was once a small model that counted to ten and then "


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Model]:
    with Model(tiny_model) as opened:
        yield opened


def _all_logprobs(model: Model, tokens: list[int]) -> np.ndarray:
    """Computed at once, in double precision; shape (tokens, vocabulary)."""
    options = replace(EXACT, length=512, outputs=512)
    with Context(model, options) as context:
        batch = Batch(len(tokens))
        for position, token in enumerate(tokens):
            batch.add(token, position, logits=True)
        context.decode(batch)
        logits = context.all_logits(len(tokens)).astype(np.float64)
        batch.close()
    logits -= logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


@pytest.mark.parametrize("rows", [2, 3, 64])
def test_prompt_and_answer(model: Model, rows: int) -> None:
    options = replace(EXACT, length=1024, batch=32, sequences=2, outputs=rows)
    sampling = SamplingOptions(temperature=2, top_k=3, repeat_penalty=1.5, seed=1)
    asked = GenerationOptions(8, (), sampling, scores=3, score_prompt=True)
    prompts = [model.tokenize(TEXT), model.tokenize(TEXT + TEXT)]
    with Engine(model, options) as engine:
        tickets = [engine.submit(prompt, asked) for prompt in prompts * 2]
        answers = [ticket.result(60) for ticket in tickets]
    for ticket, answer, prompt in zip(tickets, answers, prompts * 2, strict=True):
        expected = _all_logprobs(model, [*prompt, *answer.tokens])
        scores = [*ticket.job.prompt_scores, *ticket.job.scores]
        assert [each.token for each in scores] == [*prompt[1:], *answer.tokens]
        assert answer.reused_tokens == 0
        for row, each in zip(expected, scores, strict=False):
            assert each.logprob == pytest.approx(row[each.token], abs=2e-3)
            logprobs = [logprob for _, logprob in each.alternatives]
            assert logprobs == pytest.approx(sorted(row)[:-4:-1], abs=2e-3)
            assert logprobs == pytest.approx(
                row[[token for token, _ in each.alternatives]], abs=2e-3
            )


def test_only_the_prompt(model: Model) -> None:
    prompt = model.tokenize(TEXT)
    with Engine(model, ContextOptions(length=256)) as engine:
        ticket = engine.submit(prompt, GenerationOptions(0, score_prompt=True))
        answer = ticket.result(60)
        again = engine.submit(prompt, GenerationOptions(1))
        assert again.result(60).reused_tokens == len(prompt) - 1
    assert (answer.text, answer.tokens, answer.finish_reason.value) == ("", (), "length")
    assert len(ticket.job.prompt_scores) == len(prompt) - 1
    assert not ticket.job.scores


def test_ties_come_in_the_order_of_their_ids() -> None:
    result = score(np.zeros(4, np.float32), 2, 9)
    assert [token for token, _ in result.alternatives] == [0, 1, 2, 3]
    assert result.logprob == pytest.approx(np.log(0.25))


@pytest.mark.parametrize("options", [{"scores": -1}, {"scores": 101}, {"max_tokens": 0}])
def test_what_cannot_be_asked_for(options: dict[str, int]) -> None:
    with pytest.raises(InvalidOption):
        GenerationOptions(**options)
