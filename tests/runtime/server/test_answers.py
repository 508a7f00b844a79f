"""What a step gives to several answers goes to the event loop together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.llama.context import ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.engine import Engine
from edgeslm.runtime.generation import Generation, GenerationOptions
from edgeslm.runtime.server.answers import Answers

_TOKENS = 40
_SLOTS = 4


@pytest.fixture
def engine(tiny_model: Path) -> Iterator[Engine]:
    options = ContextOptions(
        length=_SLOTS * 256, batch=32, sequences=_SLOTS, outputs=_SLOTS, unified=True
    )
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

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        wake = loop.call_soon_threadsafe
        monkeypatch.setattr(
            loop,
            "call_soon_threadsafe",
            lambda *call: wakes.append(1) or wake(*call),
        )
        heard, whole = await _all(Answers(engine, _asked(engine), ended.append))
        assert heard == whole
        assert all(whole.values())

    asyncio.run(ask())
    assert sum(len(answer.tokens) for answer in ended) > 2 * len(steps)
    assert 0 < len(wakes) <= len(steps)


def test_answers_whose_event_loop_is_gone_end_early(engine: Engine) -> None:
    kept: list[Any] = []

    async def ask() -> None:
        kept.append(Answers(engine, _asked(engine), lambda _: None))

    asyncio.run(ask())
    for ticket in kept[0].tickets:
        assert len(ticket.result(60).tokens) <= _TOKENS
    assert engine.open_requests == 0
