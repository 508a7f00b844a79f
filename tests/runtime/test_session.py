from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.errors import InvalidOption, UserError
from edgeslm.llama.context import ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.generation import FinishReason, GenerationOptions
from edgeslm.runtime.session import Session
from edgeslm.testing import tiny_gguf

GREEDY = SamplingOptions(temperature=0)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Model]:
    with Model(tiny_model) as opened:
        yield opened


@pytest.fixture
def session(model: Model) -> Iterator[Session]:
    with Session(model, ContextOptions(length=256, threads=1)) as opened:
        yield opened


def test_the_answer_is_what_was_streamed(model: Model, session: Session) -> None:
    pieces: list[str] = []
    answer = session.generate(
        model.tokenize("hello"), GenerationOptions(12, (), GREEDY), on_text=pieces.append
    )
    assert "".join(pieces) == answer.text
    assert len(answer.tokens) == 12
    assert answer.finish_reason is FinishReason.LENGTH
    assert model.detokenize(answer.tokens) == answer.text


def test_the_same_seed_gives_the_same_answer(model: Model, session: Session) -> None:
    prompt = model.tokenize("hello there")
    hot = GenerationOptions(10, (), SamplingOptions(temperature=5, top_k=0, min_p=0, seed=7))
    first = session.generate(prompt, hot)
    again = session.generate(prompt, hot)
    other = session.generate(
        prompt, GenerationOptions(10, (), SamplingOptions(temperature=5, top_k=0, min_p=0, seed=8))
    )
    assert first.tokens == again.tokens
    assert first.seed == 7
    assert other.tokens != first.tokens


def test_what_the_cache_holds_is_not_computed_again(model: Model, session: Session) -> None:
    prompt = model.tokenize("the the the the and so on")
    options = GenerationOptions(5, (), GREEDY)
    cold = session.generate(prompt, options)
    warm = session.generate(prompt, options)
    assert (cold.reused_tokens, warm.reused_tokens) == (0, len(prompt) - 1)
    assert warm.tokens == cold.tokens
    longer = [*prompt, *cold.tokens, *model.tokenize(" more")]
    assert session.generate(longer, options).reused_tokens == len(prompt) + 4


def test_a_reused_cache_gives_what_a_fresh_one_gives(model: Model, session: Session) -> None:
    options = GenerationOptions(8, (), GREEDY)
    session.generate(model.tokenize("shared start, then this"), options)
    prompt = model.tokenize("shared start, then that")
    reused = session.generate(prompt, options)
    with Session(model, ContextOptions(length=256, threads=1)) as fresh:
        assert reused.tokens == fresh.generate(prompt, options).tokens
    assert reused.reused_tokens > 0


def test_a_sliding_window_that_has_moved_on_is_computed_again(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "gemma.gguf", architecture="gemma3", context_length=1024)
    options = GenerationOptions(4, (), GREEDY)
    with Model(path) as model, Session(model, ContextOptions(length=1024, batch=32)) as session:
        assert model.sliding_window
        text = "the and the in " * 40
        session.generate(model.tokenize(text + " one way"), options)
        prompt = model.tokenize(text[:60] + " another way")
        answer = session.generate(prompt, options)
        with Session(model, ContextOptions(length=1024, batch=32)) as fresh:
            assert fresh.generate(prompt, options).tokens == answer.tokens


def test_stop_strings_end_the_answer(model: Model, session: Session) -> None:
    prompt = model.tokenize("hello")
    whole = session.generate(prompt, GenerationOptions(12, (), GREEDY))
    stop = whole.text[3:5]
    answer = session.generate(prompt, GenerationOptions(12, (stop,), GREEDY))
    assert answer.finish_reason is FinishReason.STOP
    assert answer.text == whole.text[: whole.text.index(stop)]


def test_the_user_can_stop_an_answer_and_go_on(model: Model, session: Session) -> None:
    prompt = model.tokenize("hello")
    pieces: list[str] = []
    answer = session.generate(
        prompt,
        GenerationOptions(200, (), GREEDY),
        on_text=pieces.append,
        cancelled=lambda: len(pieces) >= 6,
    )
    assert answer.finish_reason is FinishReason.CANCELLED
    assert 6 <= len(answer.tokens) < 200
    after = session.generate(prompt, GenerationOptions(4, (), GREEDY))
    assert after.tokens == answer.tokens[:4]


def test_the_user_can_stop_the_prefill(model: Model, session: Session) -> None:
    prompt = model.tokenize("the and " * 30)
    answer = session.generate(prompt, GenerationOptions(4, (), GREEDY), cancelled=lambda: True)
    assert answer.finish_reason is FinishReason.CANCELLED
    assert answer.tokens == ()
    assert session.generate(prompt, GenerationOptions(4, (), GREEDY)).reused_tokens == 0


def test_an_answer_ends_where_the_context_ends(model: Model, session: Session) -> None:
    prompt = model.tokenize("hello")
    answer = session.generate(prompt, GenerationOptions(None, (), GREEDY))
    assert answer.finish_reason is FinishReason.LENGTH
    assert len(prompt) + len(answer.tokens) == session.context.length


def test_prompts_that_cannot_be_run_are_refused(model: Model, session: Session) -> None:
    with pytest.raises(UserError, match="empty"):
        session.generate([], GenerationOptions())
    with pytest.raises(UserError, match="the context holds 256"):
        session.generate([1] * 300, GenerationOptions())
    with pytest.raises(InvalidOption):
        GenerationOptions(0)


def test_an_answer_that_fails_leaves_a_usable_session(model: Model, session: Session) -> None:
    def fail(_text: str) -> None:
        raise RuntimeError("the terminal is gone")

    prompt = model.tokenize("hello")
    with pytest.raises(RuntimeError):
        session.generate(prompt, GenerationOptions(8, (), GREEDY), on_text=fail)
    assert session.generate(prompt, GenerationOptions(4, (), GREEDY)).tokens
