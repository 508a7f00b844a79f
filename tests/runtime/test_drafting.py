"""An answer with drafts is the answer without them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgeslm.errors import InvalidOption
from edgeslm.llama.context import ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.engine import Engine
from edgeslm.runtime.generation import FinishReason, Generation, GenerationOptions
from edgeslm.runtime.session import Session

SHAPE = ContextOptions(
    length=256, batch=64, threads=1, outputs=16, kv_type="F32", flash_attention=False
)
"""In 32 bits it hardly matters how many tokens are computed together."""
GREEDY = GenerationOptions(40, (), SamplingOptions(temperature=0))
PROMPTS = ("the and in the and in the", "hello there, hello there", "no way " * 12)

SAMPLINGS = {
    "greedy": SamplingOptions(temperature=0),
    "seeded": SamplingOptions(temperature=0.7, seed=5),
    "hot": SamplingOptions(
        temperature=4,
        top_k=0,
        min_p=0,
        seed=6,
        frequency_penalty=2,
        logit_bias=((70, 50.0), (71, 50.0), (72, 50.0)),
    ),
    "xtc": SamplingOptions(temperature=0.7, seed=7, xtc_probability=0.5, xtc_threshold=0.02),
    "penalties": SamplingOptions(
        temperature=0.5, seed=8, repeat_penalty=1.1, presence_penalty=0.2, frequency_penalty=0.1
    ),
    "dry": SamplingOptions(temperature=0.3, seed=9, dry_multiplier=0.4),
    "bias": SamplingOptions(temperature=0.5, seed=10, logit_bias=((70, 6.0), (71, 6.0))),
    "grammar": SamplingOptions(temperature=0.5, seed=11, grammar='root ::= ("the" | "and" | " ")+'),
}


def _answer(
    model: Model, prompt: str, options: GenerationOptions, speculate: Any, **more: Any
) -> Generation:
    with Session(model, SHAPE) as session:
        options = replace(options, speculate=speculate)
        return session.generate(model.tokenize(prompt), options, **more)


def _same(one: Generation, other: Generation) -> bool:
    return (one.tokens, one.text, one.finish_reason) == (
        other.tokens,
        other.text,
        other.finish_reason,
    )


@pytest.mark.parametrize("name", SAMPLINGS)
def test_it_is_the_answer_without_drafts(model: Model, name: str) -> None:
    drafted = 0
    for prompt in PROMPTS:
        options = GenerationOptions(120, (), SAMPLINGS[name])
        plain = _answer(model, prompt, options, "off")
        guessed = _answer(model, prompt, options, "always")
        assert _same(guessed, plain)
        assert 0 <= guessed.accepted_tokens <= guessed.drafted_tokens
        assert guessed.accepted_tokens <= len(guessed.tokens)
        assert (plain.drafted_tokens, plain.accepted_tokens) == (0, 0)
        drafted += guessed.drafted_tokens
    assert drafted


def test_right_guesses_are_counted(model: Model) -> None:
    """A greedy model of noise runs in circles."""
    answers = [
        _answer(model, prompt, replace(GREEDY, max_tokens=200), "always") for prompt in PROMPTS
    ]
    assert max(answer.accepted_tokens for answer in answers) > 50


@pytest.mark.parametrize("most", range(1, 24))
def test_it_ends_where_it_is_to_end(model: Model, most: int) -> None:
    options = replace(GREEDY, max_tokens=most)
    plain = _answer(model, PROMPTS[0], options, "off")
    guessed = _answer(model, PROMPTS[0], options, "always")
    assert _same(guessed, plain)
    assert len(guessed.tokens) == most


def test_it_ends_where_the_context_ends(model: Model) -> None:
    options = replace(GREEDY, max_tokens=None)
    plain = _answer(model, PROMPTS[0], options, "off")
    guessed = _answer(model, PROMPTS[0], options, "always")
    assert _same(guessed, plain)
    assert guessed.prompt_tokens + len(guessed.tokens) == 256


def test_it_ends_at_a_stop_string(model: Model) -> None:
    whole = _answer(model, PROMPTS[0], GREEDY, "off").text
    for start in range(0, len(whole) - 3, 5):
        options = replace(GREEDY, stops=(whole[start : start + 3],))
        plain = _answer(model, PROMPTS[0], options, "off")
        assert plain.finish_reason is FinishReason.STOP
        assert _same(_answer(model, PROMPTS[0], options, "always"), plain)


def test_it_ends_at_the_end_token(model: Model) -> None:
    bias = ((model.eos or 0, 7.0),)
    options = GenerationOptions(200, (), SamplingOptions(temperature=1, seed=3, logit_bias=bias))
    plain = _answer(model, PROMPTS[0], options, "off")
    assert plain.finish_reason is FinishReason.STOP
    assert _same(_answer(model, PROMPTS[0], options, "always"), plain)


def test_scores_are_those_of_each_token(model: Model) -> None:
    def jobs(speculate: Any) -> Any:
        with Engine(model, SHAPE) as engine:
            options = replace(GREEDY, scores=3, score_prompt=True, speculate=speculate)
            ticket = engine.submit(model.tokenize(PROMPTS[0]), options)
            ticket.result(60)
            return ticket.job

    plain, guessed = jobs("off"), jobs("always")
    assert guessed.drafted_tokens
    for kind in ("scores", "prompt_scores"):
        ours, theirs = getattr(guessed, kind), getattr(plain, kind)
        assert [score.token for score in ours] == [score.token for score in theirs]
        assert [score.logprob for score in ours] == pytest.approx(
            [score.logprob for score in theirs], abs=1e-4
        )
        for one, other in zip(ours, theirs, strict=True):
            assert [token for token, _ in one.alternatives] == [
                token for token, _ in other.alternatives
            ]


def test_several_at_once(model: Model) -> None:
    names = ("greedy", "seeded", "penalties", "grammar", "bias")
    shape = replace(SHAPE, length=3 * 256, sequences=3)
    options = [GenerationOptions(60, (), SAMPLINGS[name], speculate="always") for name in names]
    with Engine(model, shape) as engine:
        tickets = [
            engine.submit(model.tokenize(prompt), each) for each in options for prompt in PROMPTS
        ]
        answers = [ticket.result(60) for ticket in tickets]
    assert sum(answer.drafted_tokens for answer in answers)
    expected = [_answer(model, prompt, each, "off") for each in options for prompt in PROMPTS]
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in expected]


def test_what_was_wrong_is_not_in_the_cache(model: Model) -> None:
    """What another answer takes over from this one is what was said."""
    hot = GenerationOptions(60, (), SAMPLINGS["hot"], speculate="always")
    with Session(model, SHAPE) as session:
        prompt = model.tokenize(PROMPTS[0])
        first = session.generate(prompt, hot)
        assert first.accepted_tokens < first.drafted_tokens
        longer = [*prompt, *first.tokens, *model.tokenize(" and")]
        second = session.generate(longer, replace(GREEDY, speculate="off"))
    assert second.reused_tokens >= len(prompt) + len(first.tokens) - 1
    with Session(model, SHAPE) as fresh:
        assert fresh.generate(longer, replace(GREEDY, speculate="off")).tokens == second.tokens


def test_nothing_is_computed_twice(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with Session(model, SHAPE) as session:
        decode, computed = session.context.decode, []

        def counted(batch: Any, **more: Any) -> None:
            computed.append(len(batch))
            decode(batch, **more)

        monkeypatch.setattr(session.context, "decode", counted)
        hot = GenerationOptions(60, (), SAMPLINGS["hot"], speculate="always")
        answer = session.generate(model.tokenize(PROMPTS[0]), hot)
    steps = len(answer.tokens) - 1 - answer.accepted_tokens
    assert sum(computed) == answer.prompt_tokens + steps + answer.drafted_tokens


@pytest.mark.parametrize("most", [1, 6, 7, 8, 20])
def test_the_user_can_stop_in_the_middle_of_a_draft(model: Model, most: int) -> None:
    def stopped(speculate: Any) -> Generation:
        pieces: list[str] = []
        return _answer(
            model,
            PROMPTS[0],
            GREEDY,
            speculate,
            on_text=pieces.append,
            cancelled=lambda: len(pieces) >= most,
        )

    plain = stopped("off")
    assert plain.finish_reason is FinishReason.CANCELLED
    assert _same(stopped("always"), plain)


def test_a_reader_who_leaves_in_the_middle_of_a_draft(model: Model) -> None:
    count = 0

    def leave(_text: str) -> None:
        nonlocal count
        count += 1
        if count == 12:
            raise ConnectionResetError

    with Session(model, SHAPE) as session:
        options = replace(GREEDY, speculate="always")
        with pytest.raises(ConnectionResetError):
            session.generate(model.tokenize(PROMPTS[0]), options, on_text=leave)
        again = session.generate(model.tokenize(PROMPTS[0]), options)
    assert again.tokens == _answer(model, PROMPTS[0], GREEDY, "off").tokens


def test_a_cache_that_cannot_be_cut(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is computed again, once; then nothing is guessed any more."""
    with Session(model, SHAPE) as session:
        forget, cuts = session.context.forget, []

        def stubborn(start: int = 0, *, sequence: int = 0) -> bool:
            if start:
                cuts.append(start)
                return False
            return forget(sequence=sequence)

        monkeypatch.setattr(session.context, "forget", stubborn)
        hot = GenerationOptions(60, (), SAMPLINGS["hot"], speculate="always")
        answer = session.generate(model.tokenize(PROMPTS[0]), hot)
    assert len(cuts) == 1
    assert answer.tokens == _answer(model, PROMPTS[0], hot, "off").tokens


def test_one_row_of_logits_leaves_no_room(model: Model) -> None:
    with Session(model, replace(SHAPE, outputs=1)) as session:
        answer = session.generate(model.tokenize(PROMPTS[0]), replace(GREEDY, speculate="always"))
    assert answer.drafted_tokens == 0
    assert answer.tokens == _answer(model, PROMPTS[0], GREEDY, "off").tokens


@pytest.mark.parametrize("sampling", [SamplingOptions(temperature=0), SamplingOptions(seed=1)])
def test_by_itself_it_leaves_alone_what_is_to_be_the_same_again(
    model: Model, sampling: SamplingOptions
) -> None:
    """How much is drafted depends on the time."""
    options = GenerationOptions(150, (), sampling)
    assert _answer(model, PROMPTS[0], options, "auto").drafted_tokens == 0
    guessed = _answer(model, PROMPTS[0], options, "on")
    assert guessed.tokens == _answer(model, PROMPTS[0], options, "off").tokens


def test_other_words_are_refused() -> None:
    with pytest.raises(InvalidOption, match="speculate"):
        GenerationOptions(speculate="sometimes")  # type: ignore[arg-type]
