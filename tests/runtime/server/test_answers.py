"""What a step gives to several answers goes to the event loop together."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeslm.llama.context import ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.engine import Engine
from edgeslm.runtime.generation import FinishReason, Generation, GenerationOptions
from edgeslm.runtime.server.answers import Answers, Outbox
from edgeslm.runtime.server.doorbell import Doorbell

_TOKENS = 40
_SLOTS = 4


@pytest.fixture
def engine(tiny_model: Path) -> Iterator[Engine]:
    options = ContextOptions(length=_SLOTS * 256, batch=32, sequences=_SLOTS, outputs=_SLOTS)
    with Model(tiny_model) as model, Engine(model, options) as opened:
        yield opened


def _asked(engine: Engine) -> list[tuple[list[int], GenerationOptions]]:
    return [
        (
            engine.model.tokenize("hello there"),
            GenerationOptions(_TOKENS, (), SamplingOptions(seed=seed)),
        )
        for seed in range(_SLOTS)
    ]


def _answers(engine: Engine, on_end: Callable[[Generation], None]) -> Answers:
    return Answers(engine, Outbox(asyncio.get_running_loop()), _asked(engine), on_end)


async def _all(answers: Answers) -> tuple[dict[int, str], dict[int, str]]:
    """Texts put together of their pieces, and as the answers' ends have them."""
    heard = dict.fromkeys(range(_SLOTS), "")
    whole = {}
    async for piece in answers.pieces():
        heard[piece.choice] += piece.text
        if piece.end is not None:
            whole[piece.choice] = piece.end.text
    return heard, whole


def test_the_event_loop_is_woken_once_a_step(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[Generation] = []
    steps, wakes = [], []
    step = engine._scheduler.step
    monkeypatch.setattr(engine._scheduler, "step", lambda: steps.append(1) or step())

    ring = Doorbell.ring
    monkeypatch.setattr(Doorbell, "ring", lambda bell: wakes.append(1) or ring(bell))

    async def ask() -> None:
        heard, whole = await _all(_answers(engine, ended.append))
        assert heard == whole
        assert all(whole.values())

    asyncio.run(ask())
    assert sum(len(answer.tokens) for answer in ended) > 2 * len(steps)
    assert 0 < len(wakes) <= len(steps)


def test_answers_whose_event_loop_is_gone_end_early(engine: Engine) -> None:
    """The engine waits until it is, so that none of them can be complete by then."""
    gone = threading.Event()
    kept: list[Answers] = []

    async def ask() -> None:
        engine.run(lambda: gone.wait(60))
        kept.append(_answers(engine, lambda _: None))

    asyncio.run(ask())
    gone.set()
    for ticket in kept[0].tickets:
        answer = ticket.result(60)
        assert answer.finish_reason is FinishReason.CANCELLED
        assert len(answer.tokens) < _TOKENS
    assert engine.open_requests == 0


def test_event_loops_that_are_over_are_let_go(engine: Engine) -> None:
    """But for the last, that the engine spoke to when it stopped to wait."""

    async def ask() -> weakref.ref[asyncio.AbstractEventLoop]:
        await _all(_answers(engine, lambda _: None))
        return weakref.ref(asyncio.get_running_loop())

    loops = [asyncio.run(ask()) for _ in range(3)]
    gc.collect()
    assert [loop() for loop in loops[:2]] == [None, None]


def test_what_is_answered_is_freed_without_the_garbage_collector(engine: Engine) -> None:
    """It seldom looks at what is old, and each answer held an array as long as the vocabulary."""

    async def ask() -> list[weakref.ref[object]]:
        answers = _answers(engine, lambda _: None)
        await _all(answers)
        jobs = [ticket.job for ticket in answers.tickets]
        return [weakref.ref(each) for each in (answers, *answers.tickets, *jobs)]

    async def ask_often() -> list[weakref.ref[object]]:
        return [each for _ in range(3) for each in await ask()]

    gc.collect()
    gc.disable()
    try:
        asked = asyncio.run(ask_often())
        before_last = asked[: 2 * len(asked) // 3]
        assert before_last
        assert not [each() for each in before_last if each() is not None]
    finally:
        gc.enable()
