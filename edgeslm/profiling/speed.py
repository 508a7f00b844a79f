"""Prefill and decode speed, measured the way llama-bench does it, so that both compare.

Prefill is bound by arithmetic: all tokens of a batch share one pass over the weights.
Decode is bound by memory: each token reads every weight once. They are timed apart, on
random tokens (which text makes no difference to the arithmetic), from an empty KV cache or
at a given depth, after one run that warms caches and clocks and is not counted. Sampling
is not included; `edgeslm run` reports the speed with it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgeslm.llama.context import Context
from edgeslm.profiling.measurement import Settings, Speed
from edgeslm.profiling.meters import Meter
from edgeslm.progress import Advance
from edgeslm.records import Statistic

_SEED = 0


@dataclass(frozen=True)
class Timed:
    """Speed, and the energy of each counted run; None where nothing measures it."""

    speed: Speed
    joules: Statistic | None


def measure_prefill(
    context: Context, settings: Settings, meter: Meter | None, advance: Advance
) -> Timed:
    """Time `settings.repeats` prefills of `settings.prompt_tokens` tokens."""
    tokens = _random_tokens(context, settings.prompt_tokens)

    def run() -> None:
        context.prefill(tokens)

    return _repeat(context, run, settings.prompt_tokens, settings, meter, advance, depth=0)


def measure_decode(
    context: Context, settings: Settings, meter: Meter | None, advance: Advance
) -> Timed:
    """Time `settings.repeats` runs of `settings.generated_tokens` single-token steps."""
    tokens = _random_tokens(context, settings.generated_tokens)

    def run() -> None:
        for index, token in enumerate(tokens):
            context.step(token, settings.depth + index)
            context.synchronize()

    return _repeat(
        context, run, settings.generated_tokens, settings, meter, advance, depth=settings.depth
    )


def _repeat(
    context: Context,
    run: Callable[[], None],
    tokens: int,
    settings: Settings,
    meter: Meter | None,
    advance: Advance,
    *,
    depth: int,
) -> Timed:
    seconds: list[float] = []
    joules: list[float] = []
    for index in range(settings.repeats + 1):
        _fill(context, depth)
        before = meter.read_joules() if meter and index else 0.0
        started = time.perf_counter()
        run()
        context.synchronize()
        elapsed = time.perf_counter() - started
        if index:
            seconds.append(elapsed)
            joules += [meter.read_joules() - before] if meter else []
        advance(1)
    speed = Speed(
        tokens=tokens,
        tokens_per_second=Statistic.of(tokens / value for value in seconds),
        seconds=Statistic.of(seconds),
    )
    return Timed(speed, Statistic.of(joules) if joules else None)


def _fill(context: Context, depth: int) -> None:
    """Leave exactly `depth` tokens in the KV cache."""
    context.forget()
    if depth:
        context.prefill(_random_tokens(context, depth))
        context.synchronize()


def _random_tokens(context: Context, count: int) -> list[int]:
    generator = random.Random(_SEED)  # noqa: S311 - reproducible, not secret
    return [generator.randrange(context.model.vocabulary_size) for _ in range(count)]
