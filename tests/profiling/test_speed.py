from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.profiling import speed
from edgeslm.profiling.conditions import Observer
from edgeslm.profiling.instrument import Instrument, Mark
from edgeslm.profiling.power import Stretch
from edgeslm.profiling.speed import Runner, _Kind, probe, speed_of
from edgeslm.runtime.machine import Sensors


class NotingInstrument(Instrument):
    """Notes how many tokens each counted run had."""

    def __init__(self) -> None:
        super().__init__(None)
        self.tokens: list[int] = []

    def since(self, start: Mark, tokens: int = 0) -> Stretch | None:
        self.tokens.append(tokens)
        return super().since(start, tokens)


class NotingContext(Context):
    """Notes where each prefill starts and how long it is."""

    prefills: list[tuple[int, int]]

    def prefill(self, tokens, start=0, **options):  # type: ignore[no-untyped-def]
        self.prefills.append((start, len(tokens)))
        super().prefill(tokens, start, **options)


@pytest.fixture
def context(tiny_model: Path) -> Iterator[NotingContext]:
    with Model(tiny_model) as model, NotingContext(model, ContextOptions(length=256)) as context:
        context.prefills = []
        yield context


def test_both_kinds_take_turns_after_a_warm_up(context: NotingContext) -> None:
    instrument, done = NotingInstrument(), []
    runner = Runner(context, 16, 4, instrument, Observer(Sensors()))
    found = runner.measure(0, 3, done.append)
    assert instrument.tokens == [16, 4, 16, 4, 16, 4]
    assert context.prefills == [(0, 16)] * 4
    assert sum(done) == 2 * (3 + 1)
    assert (found.prefill.speed.tokens, found.decode.speed.tokens) == (16, 4)
    assert len(found.decode.speed.seconds.samples) == 3
    assert found.decode.stretches == ()


def take(monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> None:
    """Have one run after the other take so long, by the clock."""
    left, run = iter(seconds), Runner._time

    def timed(self: Runner, kind: _Kind, depth: int) -> float:
        run(self, kind, depth)
        return next(left)

    monkeypatch.setattr(Runner, "_time", timed)


def test_runs_that_differ_get_more_of_them(
    context: NotingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument, done = NotingInstrument(), []
    runner = Runner(context, 16, 4, instrument, Observer(Sensors()))
    take(monkeypatch, [9.0, 9.0, 1.0, 1.0, 1.0, 1.2, 1.0, 1.5, *[1.2] * 9])
    found = runner.measure(0, 3, done.append, most=9)
    assert len(found.prefill.speed.seconds.samples) == 3
    assert found.decode.speed.seconds.samples == (1.0, 1.2, 1.5, 1.2, 1.2)
    assert sum(done) == 2 * (3 + 1) + 2
    assert instrument.tokens == [16, 4, 16, 4, 16, 4, 4, 4]


def test_runs_that_are_added_take_turns_and_have_an_end(
    context: NotingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runs(shortest: float) -> list[int]:
        instrument = NotingInstrument()
        runner = Runner(context, 16, 4, instrument, Observer(Sensors()))
        take(monkeypatch, [1.0, 1.0, *(shortest * 1.1 ** (number % 6) for number in range(100))])
        runner.measure(0, 3, lambda _: None, most=9)
        return instrument.tokens

    monkeypatch.setattr(speed, "_MORE_SECONDS", 20.0)
    assert runs(1.0) == [16, 4] * 9
    assert runs(4.0) == [16, 4] * 6  # no longer than those before


def test_a_warm_up_counts_for_nothing(context: NotingContext) -> None:
    instrument, told = NotingInstrument(), []
    runner = Runner(context, 16, 4, instrument, Observer(Sensors()))
    runner.warm_up(1.1, told.append)
    assert sum(told) == 1
    assert instrument.tokens == []


def test_the_cache_is_filled_once_for_each_depth(context: NotingContext) -> None:
    runner = Runner(context, 16, 4, Instrument(None), Observer(Sensors()))
    runner.measure(50, 2, lambda _: None)
    assert context.prefills == [(0, 50), *[(50, 16)] * 3]
    context.prefills.clear()
    runner.measure(20, 1, lambda _: None)
    assert context.prefills == [(0, 20), *[(20, 16)] * 2]


def test_a_cache_that_cannot_be_cut_is_filled_before_each_run(
    context: NotingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget = Context.forget
    monkeypatch.setattr(
        NotingContext,
        "forget",
        lambda self, start=0, **options: start == 0 and forget(self, start, **options),
    )
    runner = Runner(context, 16, 4, Instrument(None), Observer(Sensors()))
    runner.measure(50, 1, lambda _: None)
    assert context.prefills == [(0, 50), (50, 16), (0, 50), (0, 50), (50, 16), (0, 50)]


def test_a_probe_tells_both_speeds_and_leaves_nothing(context: NotingContext) -> None:
    reading, writing = probe(context)
    assert reading > writing > 0
    assert context.forget(0)


def test_spread_of_runs() -> None:
    found = speed_of(12, [1.0, 2.0, 3.0, 4.0, 6.0])
    assert found.tokens_per_second.samples == (12.0, 6.0, 4.0, 3.0, 2.0)
    assert found.tokens_per_second.median == 4.0
    assert found.median_deviation == 2.0
    assert found.quartiles == (3.0, 6.0)
    assert speed_of(12, [2.0]).quartiles == (6.0, 6.0)
