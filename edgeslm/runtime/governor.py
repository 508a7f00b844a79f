"""How many threads to use on this machine: to begin with, and while it runs.

Decoding is bound by memory bandwidth and every thread waits for the slowest, so neither a
second thread per core nor the small cores of a big.LITTLE board help. Other programs and heat
change what is best while a model runs; `Governor` sees that between steps, and `pace` decides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil

from edgeslm.llama.context import Context
from edgeslm.runtime.cores import SYSFS_CPU, clusters, quota_cores
from edgeslm.runtime.machine import CpuTimes, Heat, Sensors, cores_taken, is_of_processor
from edgeslm.runtime.pace import COLLAPSED, Limits, Observation, Work, cooler, full, next_pace

_WINDOW = 2.0
"""Seconds between two looks at the machine."""
_FIRST_WINDOW = 0.3
_HEAT_EVERY = 5.0
_REST, _LONG_REST = 0.5, 10.0
"""Seconds without a step: a window of its own, in which only others compute; too long for one."""
_IN_A_ROW = 3
_FEW_TOKENS = 16
"""Steps of so many tokens or fewer only take answers on, and are compared with each other."""
_LEAST_SECONDS = 1e-9
_FORGET = 1.02
"""What a step takes at best is forgotten by this factor a window: a longer context costs more."""


def default_threads(sysfs: Path = SYSFS_CPU, root: Path = Path("/")) -> int:
    """Fast cores this process may use, each counted once; no more than a container is given."""
    fast = clusters(sysfs)[0]
    physical = psutil.cpu_count(logical=False) or len(fast.cores)
    quota = quota_cores(root)
    most = fast.physical if quota is None else min(fast.physical, int(quota))
    return max(1, min(most, physical))


@dataclass
class _Window:
    """What happened since the last look."""

    since: float
    times: CpuTimes | None
    asked_seconds: float = 0.0
    """Of computing, if no thread ever waited for a core."""
    seconds: dict[int, list[float]] = field(default_factory=dict)
    """Of each step of few tokens, by how many those are."""
    slowness: float = 0.0
    """The most times as long as usual that several steps in a row took."""

    @property
    def work(self) -> dict[int, Work]:
        """Steps of few tokens, by how many those are."""
        return {tokens: Work(len(all_), sum(all_)) for tokens, all_ in self.seconds.items()}


class Governor:
    """Sets the threads of a context between its steps. No thread of its own: at rest it is nothing.

    Args:
        decode: Most threads for a step of one token.
        prefill: Most threads for a step of many.
        set_threads: Called with both when they change.
        sensors: What tells of the machine.
        cores: How many cores there are; None for as many as the sensors watch.
        clock: Seconds.
    """

    def __init__(
        self,
        decode: int,
        prefill: int,
        set_threads: Callable[[int, int], None],
        sensors: Sensors,
        *,
        cores: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._most = (decode, prefill)
        self._limits = Limits(len(sensors.cores) if cores is None else cores, max(self._most))
        self._pace = full(self._limits)
        self._set_threads = set_threads
        self._sensors = sensors
        self._clock = clock
        self._began = self._ended = clock()
        self._tokens = 0
        self._window = _Window(self._ended, sensors.cpu_times())
        self._due = _FIRST_WINDOW
        self._usual: dict[tuple[int, int], float] = {}
        self._slow_steps = 0
        self._heat: Heat | None = None
        self._heat_at = -math.inf

    @property
    def threads(self) -> tuple[int, int]:
        """For decode and prefill, now."""
        decode, prefill = self._most
        return min(decode, self._pace.threads), min(prefill, self._pace.threads)

    def watching(self, tokens: int) -> AbstractContextManager[None]:
        """A block that computes one step of so many tokens."""
        self._tokens = tokens
        return self

    def __enter__(self) -> None:
        self._began = self._clock()
        rest = self._began - self._ended
        if rest <= _REST:
            return
        if rest > _LONG_REST:
            self._begin_window(self._began, _FIRST_WINDOW)
        else:
            self._look(self._began)
        self._began = self._clock()  # what the look took is no part of the step

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = now = self._clock()
        if kind is None:
            self._note(now - self._began)
        if now - self._window.since >= self._due:
            self._look(now)

    def _note(self, seconds: float) -> None:
        """Take a step into account; one of few tokens is compared with the best of its kind."""
        window, (decode, prefill) = self._window, self.threads
        window.asked_seconds += seconds * (decode if self._tokens == 1 else prefill)
        if self._tokens > _FEW_TOKENS:
            return
        window.seconds.setdefault(self._tokens, []).append(seconds)
        kind = (self._pace.threads, self._tokens)
        usual = max(self._usual.get(kind, seconds), _LEAST_SECONDS)
        self._usual[kind] = min(usual, seconds)
        self._slow_steps = self._slow_steps + 1 if seconds >= COLLAPSED * usual else 0
        if self._slow_steps < _IN_A_ROW:
            return
        if not window.slowness:  # look at this time only, and soon
            self._begin_window(self._ended, _FIRST_WINDOW)
        self._window.slowness = max(self._window.slowness, seconds / usual)

    def _look(self, now: float) -> None:
        """End the window, and do what follows from it."""
        before = self.threads
        times = self._sensors.cpu_times()
        self._pace = next_pace(self._pace, self._observation(now, times), self._limits)
        if self.threads != before:
            self._slow_steps = 0
            self._set_threads(*self.threads)
        if self._window.slowness:  # seen to; if it goes on, it is how things are now
            self._usual.clear()
        self._usual = {kind: seconds * _FORGET for kind, seconds in self._usual.items()}
        self._window = _Window(now, times)
        self._due = _WINDOW

    def _begin_window(self, now: float, due: float) -> None:
        self._window = _Window(now, self._sensors.cpu_times())
        self._due = due

    def _observation(self, now: float, times: CpuTimes | None) -> Observation:
        window = self._window
        seconds = max(now - window.since, 1e-9)
        taken = cores_taken(window.times, times) if window.times and times else None
        heat = self._latest_heat(now)
        return Observation(
            seconds=seconds,
            own_cores=taken.own if taken else None,
            asked_cores=window.asked_seconds / seconds,
            other_cores=taken.others if taken else None,
            polite_cores=taken.polite if taken else 0.0,
            slowness=window.slowness or None,
            work=window.work,
            too_warm=heat.presses,
            cool=not heat.held_back and cooler(heat.celsius, heat.limit_celsius),
        )

    def _latest_heat(self, now: float) -> Heat:
        if self._heat is None or now - self._heat_at >= _HEAT_EVERY:
            self._heat, self._heat_at = self._sensors.heat(), now
        return self._heat


def governor_of(context: Context, cores: Collection[int] | None = None) -> Governor | None:
    """What sets the threads of a context; None where there is one thread, and nothing to set.

    Args:
        context: Whose steps it watches.
        cores: Those that its threads are kept on; None for all that this thread may use.
    """
    decode, prefill = context.threads
    if max(decode, prefill) < 2:
        return None
    sensors = Sensors(cores=cores)
    quota = quota_cores()
    count = float(len(sensors.cores)) if quota is None else min(len(sensors.cores), quota)
    return Governor(decode, prefill, context.set_threads, sensors, cores=count)


def machine_figures() -> dict[str, float]:
    """What this process takes of the machine, and how warm that is, where it can be read."""
    figures = {"resident_bytes": float(psutil.Process().memory_info().rss)}
    temperature = _temperature()
    if temperature is not None:
        figures["temperature_celsius"] = temperature
    return figures


def _temperature() -> float | None:
    """The highest of the processor's sensors."""
    read = getattr(psutil, "sensors_temperatures", None)
    found = (read() if read else {}).items()
    return max(
        (each.current for name, sensors in found if is_of_processor(name) for each in sensors),
        default=None,
    )
