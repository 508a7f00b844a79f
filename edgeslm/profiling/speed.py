"""Prefill and decode speed, measured the way llama-bench does it, so that both compare.

Prefill is bound by arithmetic: all tokens of a batch share one pass over the weights.
Decode is bound by memory: each token reads every weight once. They are timed apart, on
random tokens (which text makes no difference to the arithmetic), with a given number of tokens in
the KV cache, after one run of each that warms caches and clocks and is not counted. They take
turns, so that what slows the machine for a while slows both, and a part of the runs only. Where
runs differ so much that their median is not yet known well, more are added, in turn too, for four
minutes at most, or for as long as all of those before took. Sampling is not included; `edgeslm run`
reports the speed with it.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgeslm.llama.context import Context
from edgeslm.profiling.conditions import Observer
from edgeslm.profiling.instrument import Instrument
from edgeslm.profiling.measurement import Speed
from edgeslm.profiling.power import Stretch, is_long_enough, needed_seconds
from edgeslm.profiling.racing import spread
from edgeslm.profiling.steadiness import wants_more
from edgeslm.progress import Advance
from edgeslm.records import Statistic

_SEED = 0
_PROBE_PROMPT, _PROBE_TOKENS = 32, 4
_STRETCHES = 3
_SHORT_STRETCH_SECONDS = 10.0
_LONGEST_STRETCH_SECONDS = 60.0
_MORE_SECONDS = 240.0
"""Of runs that are added at a depth, unless those that were asked for took longer."""


@dataclass(frozen=True)
class Timed:
    """Counted runs of one kind, and the energy of stretches of it; none where nothing measures."""

    speed: Speed
    stretches: tuple[Stretch, ...]


@dataclass(frozen=True)
class TimedDepth:
    """Both kinds of runs from the same number of tokens in the cache."""

    prefill: Timed
    decode: Timed


@dataclass(frozen=True)
class _Kind:
    """One kind of run: how many tokens, and how to compute them."""

    tokens: int
    compute: Callable[[int], None]


class Runner:
    """Runs prefill and decode in turn on an open context.

    Args:
        context: At least as long as the deepest run.
        prompt_tokens: Of a prefill run.
        generated_tokens: Of a decode run.
        instrument: Read before and after each counted run.
        observer: Told of each counted run.
    """

    def __init__(
        self,
        context: Context,
        prompt_tokens: int,
        generated_tokens: int,
        instrument: Instrument,
        observer: Observer,
    ) -> None:
        self._context = context
        self._instrument = instrument
        self._observer = observer
        self._filled: int | None = None
        self._can_cut = True
        self._prefill = _Kind(prompt_tokens, self._prefill_run(prompt_tokens))
        self._decode = _Kind(generated_tokens, self._decode_run(generated_tokens))

    def warm_up(self, seconds: float, advance: Advance) -> None:
        """Decode for that long, uncounted: a processor that has rested boosts for a while.

        Args:
            seconds: From 0.
            advance: Told of each whole second.
        """
        began, told = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < seconds:
            self._time(self._decode, 0)
            advance(int(passed) - told)
            told = int(passed)

    def measure(
        self, depth: int, repeats: int, advance: Advance, *, most: int | None = None
    ) -> TimedDepth:
        """Time runs of each kind that start with `depth` tokens in the cache.

        Args:
            depth: From 0.
            repeats: Runs of each kind.
            advance: Told of each run.
            most: So many, while their median is not known well; None for no more than `repeats`.
        """
        kinds = (self._prefill, self._decode)
        seconds: dict[_Kind, list[float]] = {kind: [] for kind in kinds}
        stretches: dict[_Kind, list[Stretch]] = {kind: [] for kind in kinds}
        for kind in kinds:
            self._time(kind, depth)
            advance(1)
        for kind in self._turns(seconds, repeats, most or repeats):
            elapsed, stretch = self._counted(kind, depth)
            seconds[kind].append(elapsed)
            stretches[kind] += [] if stretch is None else [stretch]
            advance(1)
        prefill, decode = (
            Timed(
                speed_of(kind.tokens, seconds[kind]),
                self._long_enough(kind, depth, seconds[kind], stretches[kind]),
            )
            for kind in kinds
        )
        return TimedDepth(prefill, decode)

    def _turns(
        self, seconds: Mapping[_Kind, Sequence[float]], repeats: int, most: int
    ) -> Iterator[_Kind]:
        """Which kind is run next, as long as there is one; `seconds` are of those that were."""
        for _ in range(repeats):
            yield from seconds
        usual = sum(map(sum, seconds.values()))
        end = usual + max(usual, _MORE_SECONDS)
        while sum(map(sum, seconds.values())) < end:
            wanting = [kind for kind, runs in seconds.items() if wants_more(runs, most)]
            if not wanting:
                return
            yield from wanting

    def _counted(self, kind: _Kind, depth: int) -> tuple[float, Stretch | None]:
        self._fill(depth)
        with self._observer.counted():
            start = self._instrument.mark()
            elapsed = self._time(kind, depth)
            stretch = self._instrument.since(start, kind.tokens)
        return elapsed, stretch

    def _time(self, kind: _Kind, depth: int) -> float:
        """Seconds of one run; the cache is as before when it ends, where it can be cut."""
        self._fill(depth)
        self._filled = None
        started = time.perf_counter()
        kind.compute(depth)
        self._context.synchronize()
        elapsed = time.perf_counter() - started
        self._can_cut = self._context.forget(depth)
        self._filled = depth if self._can_cut else None
        return elapsed

    def _long_enough(
        self, kind: _Kind, depth: int, seconds: list[float], stretches: list[Stretch]
    ) -> tuple[Stretch, ...]:
        """The stretches; where the meter's reading changes too seldom for them, longer ones.

        A cache that cannot be cut has to be filled again before each run: nothing longer than
        a run is there without that.
        """
        period = self._instrument.period_seconds
        enough = is_long_enough(statistics.median(seconds), period)
        if enough or not stretches or not self._can_cut:
            return tuple(stretches)
        wanted = needed_seconds(period)
        count = _STRETCHES if wanted <= _SHORT_STRETCH_SECONDS else 1
        longer = [
            self._stretch(kind, depth, min(wanted, _LONGEST_STRETCH_SECONDS)) for _ in range(count)
        ]
        return tuple(each for each in longer if each is not None)

    def _stretch(self, kind: _Kind, depth: int, seconds: float) -> Stretch | None:
        """Runs without a pause until `seconds` have passed."""
        with self._observer.counted():
            start = self._instrument.mark()
            since, tokens = time.perf_counter(), 0
            while time.perf_counter() - since < seconds and self._instrument.failure is None:
                self._time(kind, depth)
                tokens += kind.tokens
            return self._instrument.since(start, tokens)

    def _fill(self, depth: int) -> None:
        """Leave exactly `depth` tokens in the KV cache; not timed."""
        if self._filled == depth:
            return
        self._context.forget()
        if depth:
            self._context.prefill(_random_tokens(self._context, depth))
            self._context.synchronize()
        self._filled = depth

    def _prefill_run(self, count: int) -> Callable[[int], None]:
        tokens = _random_tokens(self._context, count)

        def compute(depth: int) -> None:
            self._context.prefill(tokens, depth)

        return compute

    def _decode_run(self, count: int) -> Callable[[int], None]:
        tokens = _random_tokens(self._context, count)

        def compute(depth: int) -> None:
            for index, token in enumerate(tokens):
                self._context.step(token, depth + index)
                self._context.synchronize()

        return compute


def probe(context: Context) -> tuple[float, float]:
    """Roughly how fast it is, in tokens per second of prefill and decode.

    Everything is computed twice: the first time reads the weights from the disk.
    """
    tokens = _random_tokens(context, min(_PROBE_PROMPT, context.length // 2))
    for _ in range(2):
        context.forget()
        started = time.perf_counter()
        context.prefill(tokens)
        context.synchronize()
        reading = len(tokens) / (time.perf_counter() - started)
        started = time.perf_counter()
        for index in range(_PROBE_TOKENS):
            context.step(tokens[index % len(tokens)], len(tokens) + index)
            context.synchronize()
        writing = _PROBE_TOKENS / (time.perf_counter() - started)
    context.forget()
    return reading, writing


def speed_of(tokens: int, seconds: list[float]) -> Speed:
    """The record of runs of `tokens` tokens that took so long."""
    rates = [tokens / value for value in seconds]
    quartiles = (
        statistics.quantiles(rates, n=4, method="inclusive") if len(rates) > 1 else 3 * [rates[0]]
    )
    return Speed(
        tokens=tokens,
        tokens_per_second=Statistic.of(rates),
        seconds=Statistic.of(seconds),
        median_deviation=spread(rates),
        quartiles=(quartiles[0], quartiles[2]),
    )


def _random_tokens(context: Context, count: int) -> list[int]:
    generator = random.Random(_SEED)  # noqa: S311 - reproducible, not secret
    return [generator.randrange(context.model.vocabulary_size) for _ in range(count)]
