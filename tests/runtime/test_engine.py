"""Several answers at once are the answers that each would get alone."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from edgeslm.errors import InvalidOption, NativeFailure, UserError
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.engine import Engine
from edgeslm.runtime.generation import FinishReason, GenerationOptions
from edgeslm.runtime.job import Job
from edgeslm.runtime.scheduler import Scheduler
from edgeslm.runtime.session import Session

GREEDY = GenerationOptions(6, (), SamplingOptions(temperature=0))
WORDS = ("hello", "the and ", "there was once a", "in the " * 20, "no", "why and how")


def _shape(slots: int, length: int = 256, batch: int = 32) -> ContextOptions:
    return ContextOptions(length=slots * length, batch=batch, sequences=slots, outputs=slots)


@pytest.fixture
def engine(model: Model) -> Iterator[Engine]:
    with Engine(model, _shape(3)) as opened:
        yield opened


def _alone(model: Model, prompt: list[int], options: GenerationOptions) -> tuple[int, ...]:
    with Session(model, _shape(1)) as session:
        return session.generate(prompt, options).tokens


def _alone_text(model: Model, prompt: str) -> str:
    with Session(model, _shape(1)) as session:
        return session.generate(model.tokenize(prompt), GREEDY).text


def test_more_requests_than_slots(model: Model, engine: Engine) -> None:
    prompts = [model.tokenize(word) for word in WORDS * 2]
    tickets = [engine.submit(prompt, GREEDY) for prompt in prompts]
    answers = [ticket.result(60) for ticket in tickets]
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.tokens == _alone(model, prompt, GREEDY)
        assert answer.prompt_tokens == len(prompt)


def test_from_many_threads_each_hears_its_own(model: Model, engine: Engine) -> None:
    def ask(number: int) -> bool:
        pieces: list[str] = []
        sampling = SamplingOptions(temperature=3, seed=number)
        options = GenerationOptions(5 + number % 7, (), sampling)
        prompt = model.tokenize(WORDS[number % len(WORDS)])
        answer = engine.submit(prompt, options, on_text=pieces.append).result(60)
        return "".join(pieces) == answer.text and len(answer.tokens) <= 5 + number % 7

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(40)))


def test_a_beginning_that_another_slot_holds_is_not_computed_again(model: Model) -> None:
    system = model.tokenize("the and in " * 12)
    prompts = [[*system, *model.tokenize(word)] for word in WORDS[:3]]
    with Context(model, _shape(3)) as context:
        scheduler = Scheduler(context)
        jobs = [Job(prompt, GREEDY) for prompt in prompts]
        scheduler.submit(jobs[0])
        while not jobs[0].answering:
            scheduler.step()
        for job in jobs[1:]:
            scheduler.submit(job)
        while scheduler.step():
            pass
        scheduler.close()
    for job, prompt in zip(jobs, prompts, strict=True):
        assert job.result is not None
        assert job.result.tokens == _alone(model, prompt, GREEDY)
    reused = [job.result.reused_tokens for job in jobs if job.result]
    assert reused[0] == 0
    if not model.sliding_window:
        assert min(reused[1:]) >= len(system)


def test_one_that_is_cancelled_leaves_the_others_alone(model: Model, engine: Engine) -> None:
    begun = threading.Event()
    options = GenerationOptions(None, (), GREEDY.sampling)
    endless = engine.submit(model.tokenize("hello"), options, on_text=lambda _: begun.set())
    other = engine.submit(model.tokenize("the and "), GREEDY)
    assert begun.wait(30)
    endless.cancel()
    assert endless.result(30).finish_reason in (FinishReason.CANCELLED, FinishReason.LENGTH)
    assert other.result(30).tokens == _alone(model, model.tokenize("the and "), GREEDY)


def test_one_that_waits_can_be_cancelled(model: Model) -> None:
    with Context(model, _shape(1)) as context:
        scheduler = Scheduler(context)
        gone = threading.Event()
        first = Job(model.tokenize("hello"), GREEDY)
        second = Job(model.tokenize("the"), GREEDY, cancelled=gone.is_set)
        scheduler.submit(first)
        scheduler.submit(second)
        scheduler.step()
        gone.set()
        scheduler.step()
        assert second.result is not None
        assert second.result.finish_reason is FinishReason.CANCELLED
        assert second.result.prefill_seconds == 0
        assert not first.done
        while scheduler.step():
            pass
        assert first.result is not None
        scheduler.close()


def test_one_that_is_gone_when_it_is_cancelled(model: Model) -> None:
    """What is held back is given out at the end, to a reader who may not be there any more."""

    def gone(_text: str) -> None:
        raise ConnectionResetError

    with Context(model, _shape(2)) as context:
        scheduler = Scheduler(context)
        away = threading.Event()
        first = Job(model.tokenize("hello"), GREEDY)
        plain = _alone_text(model, "the and ")
        held = GenerationOptions(6, (plain + "?",), GREEDY.sampling)
        second = Job(model.tokenize("the and "), held, on_text=gone, cancelled=away.is_set)
        scheduler.submit(first)
        scheduler.submit(second)
        while not second.answering:
            scheduler.step()
        away.set()
        while scheduler.step():
            pass
        scheduler.close()
    assert isinstance(second.error, ConnectionResetError)
    assert first.result is not None
    assert first.result.tokens == _alone(model, model.tokenize("hello"), GREEDY)


def test_nobody_waits_for_one_that_cannot_begin(
    model: Model, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("edgeslm.runtime.scheduler.Sampler", broken)
        with pytest.raises(MemoryError):
            engine.submit(model.tokenize("hello"), GREEDY).result(30)
    assert engine.submit(model.tokenize("the"), GREEDY).result(30).tokens


def test_one_that_fails_leaves_the_others_alone(model: Model, engine: Engine) -> None:
    def gone(_text: str) -> None:
        raise ConnectionResetError

    bad = engine.submit(model.tokenize("hello"), GREEDY, on_text=gone)
    worse = GenerationOptions(6, (), SamplingOptions(grammar="root ::= nothing"))
    good = engine.submit(model.tokenize("the and "), GREEDY)
    with pytest.raises(InvalidOption):
        engine.submit(model.tokenize("hello"), worse).result(30)
    with pytest.raises(ConnectionResetError):
        bad.result(30)
    assert good.result(30).tokens == _alone(model, model.tokenize("the and "), GREEDY)


def test_full_slots_at_once(model: Model) -> None:
    """Every slot has its whole length, whatever the others take."""
    with Engine(model, _shape(2)) as engine:
        options = GenerationOptions(None, (), SamplingOptions(temperature=1, seed=1))
        prompts = [model.tokenize("the " * 50), model.tokenize("no " * 30)] * 2
        for ticket in [engine.submit(prompt, options) for prompt in prompts]:
            answer = ticket.result(120)
            whole = answer.prompt_tokens + len(answer.tokens)
            assert answer.finish_reason is FinishReason.STOP or whole == engine.length


def test_batches_larger_than_the_context(model: Model) -> None:
    """Three prompts at once of more tokens than llama.cpp takes in one call."""
    prompts = [model.tokenize(f"{number} and the " * 18) for number in range(3)]
    options = ContextOptions(length=512, batch=2048, sequences=4, outputs=4)
    with Engine(model, options) as engine:
        tickets = [engine.submit(prompt[:120], GREEDY) for prompt in prompts * 2]
        answers = [ticket.result(60).tokens for ticket in tickets]
    assert answers == [_alone(model, prompt[:120], GREEDY) for prompt in prompts] * 2


def test_what_does_not_fit_is_refused_at_once(model: Model, engine: Engine) -> None:
    with pytest.raises(UserError, match="the context holds 256"):
        engine.submit([1] * 256, GREEDY)
    with pytest.raises(UserError, match="empty"):
        engine.submit([], GREEDY)


def test_closing_cancels_and_frees(model: Model) -> None:
    engine = Engine(model, _shape(2))
    options = GenerationOptions(None, (), GREEDY.sampling)
    tickets = [engine.submit(model.tokenize("hello"), options) for _ in range(5)]
    engine.close()
    engine.close()
    reasons = {ticket.result(0).finish_reason for ticket in tickets}
    assert reasons <= {FinishReason.CANCELLED, FinishReason.LENGTH, FinishReason.STOP}
    with pytest.raises(NativeFailure, match="closed"):
        engine.submit(model.tokenize("hello"), GREEDY)


def test_a_failing_context_fails_all_and_goes_on(
    model: Model, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_options: object) -> None:
        raise NativeFailure("broken", hint="none")

    with monkeypatch.context() as patch:
        patch.setattr(engine.context, "decode", broken)
        tickets = [engine.submit(model.tokenize(word), GREEDY) for word in WORDS]
        for ticket in tickets:
            with pytest.raises(NativeFailure):
                ticket.result(30)
    answer = engine.submit(model.tokenize("hello"), GREEDY).result(30)
    assert answer.tokens == _alone(model, model.tokenize("hello"), GREEDY)


def test_random_comings_and_goings(model: Model) -> None:
    """Any history of slots gives the answer that a fresh context gives."""
    chance = random.Random(7)
    expected = {word: _alone(model, model.tokenize(word), GREEDY) for word in WORDS}
    with Engine(model, _shape(3)) as engine:
        for _ in range(30):
            words = chance.choices(WORDS, k=chance.randint(1, 5))
            tickets = [(word, engine.submit(model.tokenize(word), GREEDY)) for word in words]
            for _, ticket in chance.sample(tickets, chance.randint(0, 1)):
                ticket.cancel()
            for word, ticket in tickets:
                tokens = ticket.result(60).tokens
                assert tokens == expected[word][: len(tokens)]


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "in turns"])
def test_who_listens_is_told_once_a_step_before_the_next_is_computed(
    model: Model, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    decode = Context.decode

    def watched(context: Context, *given: object, **named: object) -> None:
        happened.append("decode")
        decode(context, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Context, "decode", watched)
    turn = threading.Lock() if shared else None
    with Engine(model, _shape(2), turn=turn) as engine:
        happened.clear()

        def tell() -> None:
            happened.append("told")

        def hear(_: str) -> None:
            if not happened or happened[-1] != "text":
                happened.append("text")
            engine.at_step_end(tell)

        prompts = [model.tokenize(text) for text in ("hello", "there was")]
        tickets = [engine.submit(prompt, GREEDY, on_text=hear) for prompt in prompts]
        for ticket in tickets:
            ticket.result(60)
    assert happened.count("told") == happened.count("text") > 2
    for before, after in itertools.pairwise(happened):
        assert before != "text" or after == "told"
