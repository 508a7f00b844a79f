"""How fast a model writes when it writes for long: what is left of the peak once it is warm.

A board without a fan holds its highest clock for a minute or two. Decode runs without a pause, at
one depth of context, so that nothing but the machine changes; speed, temperature and clock are
noted window by window.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgeslm.errors import InvalidOption
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.profiling.tuning import is_busy, others_between
from edgeslm.progress import bar
from edgeslm.records import Statistic
from edgeslm.runtime.cores import pinned
from edgeslm.runtime.machine import Clock, Heat, Sensors
from edgeslm.runtime.tuned import DEFAULT_KV_TYPE, Settled, settle

_WINDOWS = 120
"""At most so many; none is shorter than a second."""
_STRETCH = 64
"""Tokens until the cache is cut back to where it was."""
_PROMPT = 32
_LEAST_SECONDS, _MOST_SECONDS = 3.0, 86_400.0


@dataclass(frozen=True)
class Window:
    """A part of the run; `since` in seconds from its start."""

    since: float
    tokens_per_second: float
    heat: Heat
    clock: Clock | None


@dataclass(frozen=True)
class Sustained:
    """What was seen.

    Attributes:
        seconds: How long it ran.
        tokens: How many were written.
        threads: For decode.
        peak: Tokens per second of the best window.
        sustained: Of the windows of the last third.
        heat_before, heat_after: Just before, and just after.
        clock_before, clock_after: The same; at rest a clock is low by design.
        hottest_celsius: The most of all windows; None where nothing tells.
        lowest_megahertz: The least of all windows.
        held_back: All that slowed the processor at the time of some window.
        other_cores: How many cores' time other programs took; None if nobody tells.
        windows: One after the other.
    """

    seconds: float
    tokens: int
    threads: int
    peak: float
    sustained: Statistic
    heat_before: Heat
    heat_after: Heat
    clock_before: Clock | None
    clock_after: Clock | None
    hottest_celsius: float | None
    lowest_megahertz: float | None
    held_back: tuple[str, ...]
    other_cores: float | None
    windows: tuple[Window, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the figures may be wrong."""
        if self.other_cores is None or not is_busy(self.other_cores):
            return ()
        taken = f"{self.other_cores:.1f}"
        return (f"other programs took the time of {taken} cores meanwhile: run it again",)


def run_sustained(
    path: Path,
    seconds: float,
    sensors: Sensors | None = None,
    *,
    settled: Settled | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Sustained:
    """Have the model at `path` write for `seconds`.

    Args:
        path: A GGUF file.
        seconds: From 3 to a day.
        sensors: What tells of the machine; None for this one's.
        settled: What it runs with, whatever its length; None for what it runs with here.
        clock: Seconds.

    Raises:
        InvalidOption: that is too short to tell anything, or no such time.
        EdgeslmError: the model cannot be loaded, or a run failed.
    """
    _check_seconds(seconds)
    sensors = sensors or Sensors(ask_firmware=True)
    with Model(path) as model:
        if settled is None:
            usual = ContextOptions()
            settled = settle(model.header, usual, threads=None, kv_type=DEFAULT_KV_TYPE)
        options = replace(settled.options, length=_PROMPT + _STRETCH)
        with pinned(settled.cores), Context(model, options) as context:
            write = _writer(context)
            write()
            heat, clocked, times = sensors.heat(), sensors.clock(), sensors.cpu_times()
            windows, tokens = _windows(write, seconds, sensors, clock)
            end, heat_after, clocked_after = sensors.cpu_times(), sensors.heat(), sensors.clock()
    last_third = [each.tokens_per_second for each in windows[-max(1, len(windows) // 3) :]]
    degrees = [each.heat.celsius for each in windows if each.heat.celsius is not None]
    clocks = [each.clock.megahertz for each in windows if each.clock is not None]
    return Sustained(
        seconds=seconds,
        tokens=tokens,
        threads=options.threads,
        peak=max(each.tokens_per_second for each in windows),
        sustained=Statistic.of(last_third),
        heat_before=heat,
        heat_after=heat_after,
        clock_before=clocked,
        clock_after=clocked_after,
        hottest_celsius=max(degrees, default=None),
        lowest_megahertz=min(clocks, default=None),
        held_back=tuple(sorted({name for each in windows for name in each.heat.held_back})),
        other_cores=others_between(times, end),
        windows=tuple(windows),
    )


def _check_seconds(seconds: float) -> None:
    hint = f"At least {_LEAST_SECONDS:g}; boards need some 600 to get warm."
    if seconds < _LEAST_SECONDS:
        raise InvalidOption(f"{seconds:g} seconds are too short to tell what lasts", hint=hint)
    if not seconds <= _MOST_SECONDS:  # nor is it no number at all
        raise InvalidOption(f"{seconds:g} seconds are no time to write for", hint=hint)


def _writer(context: Context) -> Callable[[], None]:
    """Writes one token at each call, always at about the same depth."""
    context.prefill([index % context.model.vocabulary_size for index in range(_PROMPT)])
    position = _PROMPT

    def write() -> None:
        nonlocal position
        if position == _PROMPT + _STRETCH:
            if not context.forget(_PROMPT):  # a memory that cannot be cut
                context.forget()
                context.prefill([0] * _PROMPT)
            position = _PROMPT
        context.step(position % context.model.vocabulary_size, position)
        context.synchronize()
        position += 1

    return write


def _windows(
    write: Callable[[], None], seconds: float, sensors: Sensors, clock: Callable[[], float]
) -> tuple[list[Window], int]:
    """Write for `seconds`; what each window shows, and how many tokens came.

    The sensors are read between two windows, and that counts to neither.
    """
    width = max(1.0, seconds / _WINDOWS)
    windows: list[Window] = []
    total = count = 0
    with bar("Writing without a pause", round(seconds), unit="s") as advance:
        start = since = clock()
        while True:
            write()
            count += 1
            now = clock()
            if now - since < width:
                continue
            speed = count / (now - since)
            windows.append(Window(since - start, speed, sensors.heat(), sensors.clock()))
            total += count
            done = round(since - start)
            count, since = 0, clock()
            advance(round(since - start) - done)
            if since - start >= seconds - width / 2:
                return windows, total
