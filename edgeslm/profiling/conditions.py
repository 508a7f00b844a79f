"""What the machine was like while a model was measured, and what of it spoils the figures.

`Observer` reads the sensors before, just after each counted run and at the end, never inside a
timed window. `taints` judges what it saw; it is pure.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeslm.profiling import memory
from edgeslm.profiling.measurement import Conditions, Moment, Speed
from edgeslm.profiling.steadiness import DRIFTED, UNSURE, drift, median_error
from edgeslm.runtime.machine import CpuTimes, Sensors, cores_taken
from edgeslm.units import format_bytes

MOST_OTHER_CORES = 0.1
"""Of a core, on average over the counted runs; and before them."""
MOST_BUSY_CORES = 0.25
"""The same for the worst second: a neighbour that is busy for a part of the time."""
_WINDOW_SECONDS = 1.0
_LEAST_SECONDS = 0.3
"""Shorter than that, all runs together tell nothing of others."""
_LEAST_CLOCK = 0.7
"""Of the hardware's highest; all cores at once seldom reach that of one."""
_STEADY_CLOCK = 0.85
"""The lowest clock of the runs, of their highest."""
_FAST_RISE = 0.1
"""Degrees Celsius per second, over the second half of the runs."""
_LEAST_RISE = 2.0
_MOST_SWAPPED_IN = 1 << 20


@dataclass(frozen=True)
class Usage:
    """What this process had used up to a moment; None where nobody tells."""

    at: float
    times: CpuTimes | None
    swapped_in_bytes: int | None
    read_bytes: int | None
    major_faults: int


class Observer:
    """Collects what the sensors say. `start` before anything runs, `finish` at the end."""

    def __init__(self, sensors: Sensors, root: Path = Path("/")) -> None:
        self._sensors = sensors
        self._root = root
        self._began = time.perf_counter()
        self._during: list[Moment] = []
        self._runs: list[tuple[Usage, Usage]] = []
        self._before = self._moment()
        self._start = self._usage()
        self._others_before: float | None = None

    def rested(self) -> None:
        """The machine was left alone until now: what others took is of before the runs."""
        self._others_before, _ = others([_times((self._start, self._usage()))])

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Around a counted run: who else computed, what was read from the disk."""
        before = self._usage()
        yield
        self._runs.append((before, self._usage()))
        self._during.append(self._moment())

    def finish(self) -> Conditions:
        """All that was seen."""
        mean, worst = others([_times(run) for run in self._runs])
        return Conditions(
            before=self._before,
            during=tuple(self._during),
            after=self._moment(),
            cores=len(self._sensors.cores),
            other_cores_before=self._others_before,
            other_cores=mean,
            busiest_other_cores=worst,
            swapped_in_bytes=_sum(
                _difference(before.swapped_in_bytes, after.swapped_in_bytes)
                for before, after in self._runs
            ),
            read_bytes=_sum(
                _difference(before.read_bytes, after.read_bytes) for before, after in self._runs
            ),
            major_faults=sum(
                after.major_faults - before.major_faults for before, after in self._runs
            ),
            observed_seconds=sum(after.at - before.at for before, after in self._runs),
        )

    def _usage(self) -> Usage:
        return Usage(
            time.perf_counter(),
            self._sensors.cpu_times(),
            memory.swapped_in_bytes(self._root),
            memory.read_bytes(self._root),
            memory.major_faults(),
        )

    def _moment(self) -> Moment:
        heat, clock = self._sensors.heat(), self._sensors.clock()
        return Moment(
            seconds=time.perf_counter() - self._began,
            celsius=heat.celsius,
            limit_celsius=heat.limit_celsius,
            megahertz=None if clock is None else clock.megahertz,
            most_megahertz=None if clock is None else clock.most_megahertz,
            held_back=heat.held_back,
            since_boot=heat.since_boot,
        )


def others(
    runs: Sequence[tuple[CpuTimes | None, CpuTimes | None]],
) -> tuple[float | None, float | None]:
    """How many cores' time others took: on average over `runs`, and in the worst second.

    The kernel counts in hundredths of a second, so shorter runs are put together until they last
    a second; where all of them together do not, there is no worst one, and for a fraction of it no
    average. Programs of lower priority count too: they share memory, heat and power with ours.
    """
    taken = total = 0.0
    window_taken = window = 0.0
    worst: float | None = None
    for before, after in runs:
        if before is None or after is None:
            return None, None
        share, seconds = cores_taken(before, after), after.at - before.at
        cores_seconds = (share.others + share.polite) * seconds
        taken, total = taken + cores_seconds, total + seconds
        window_taken, window = window_taken + cores_seconds, window + seconds
        if window >= _WINDOW_SECONDS:
            worst = max(worst or 0.0, window_taken / window)
            window_taken = window = 0.0
    return (taken / total if total >= _LEAST_SECONDS else None), worst


def taints(conditions: Conditions, decode: Sequence[Speed], threads: int) -> tuple[str, ...]:
    """Sentences about what spoils the figures; none if nothing does.

    Args:
        conditions: What was seen.
        decode: The decode runs at each depth.
        threads: That computed.
    """
    return (
        *_by_others(conditions),
        *_by_throttling(conditions),
        *_by_clock(conditions, threads),
        *_by_warming(conditions),
        *_by_swapping(conditions),
        *_by_spread(decode),
        *_by_drift(decode),
    )


def _by_others(conditions: Conditions) -> Iterator[str]:
    before, mean = conditions.other_cores_before, conditions.other_cores
    worst = conditions.busiest_other_cores
    if before is not None and before > MOST_OTHER_CORES:
        yield f"other programs took the time of {before:.2f} cores before the runs"
    if mean is not None and mean > MOST_OTHER_CORES:
        yield f"other programs took the time of {mean:.2f} cores during the counted runs"
    elif worst is not None and worst > MOST_BUSY_CORES:
        yield f"other programs took the time of {worst:.2f} cores during a part of the counted runs"


def _by_throttling(conditions: Conditions) -> Iterator[str]:
    moments = (conditions.before, *conditions.during, conditions.after)
    now = sorted({name for each in moments for name in each.held_back})
    if now:
        yield f"the processor was held back: {', '.join(now)}"
    new = sorted({*conditions.after.since_boot} - {*conditions.before.since_boot} - {*now})
    if new:
        yield f"the processor was held back at some time during the runs: {', '.join(new)}"


def _by_clock(conditions: Conditions, threads: int) -> Iterator[str]:
    """Cores at rest lower the mean, so it says little of the hardware unless all computed."""
    clocks = [each.megahertz for each in conditions.during if each.megahertz is not None]
    most = conditions.after.most_megahertz
    if not clocks:
        return
    low, high = min(clocks), max(clocks)
    if low < _STEADY_CLOCK * high:
        yield f"the clock fell to {low:.0f} MHz during the runs, from {high:.0f} MHz"
    elif most is not None and threads >= conditions.cores and high < _LEAST_CLOCK * most:
        yield f"the clock stayed at {high:.0f} MHz of {most:.0f} MHz during the runs"


def _by_warming(conditions: Conditions) -> Iterator[str]:
    warm = [(each.seconds, each.celsius) for each in conditions.during if each.celsius is not None]
    half = warm[len(warm) // 2 :]
    if len(half) < 2:
        return
    (since, lower), (until, higher) = half[0], half[-1]
    rise, seconds = higher - lower, until - since
    if rise >= _LEAST_RISE and rise > _FAST_RISE * seconds:
        yield (
            f"the processor was still warming up: {rise:.0f} °C in the last {seconds:.0f} seconds "
            "of the runs"
        )


def _by_swapping(conditions: Conditions) -> Iterator[str]:
    swapped = conditions.swapped_in_bytes
    if swapped is not None and swapped > _MOST_SWAPPED_IN:
        yield f"{format_bytes(swapped)} came back from swap during the counted runs"


def _by_spread(decode: Sequence[Speed]) -> Iterator[str]:
    errors = [median_error(each.tokens_per_second.samples) for each in decode]
    worst = max((error for error in errors if error is not None), default=0.0)
    if worst > UNSURE:
        yield f"decode runs differ so much that their median is known to {worst:.0%} only"


def _by_drift(decode: Sequence[Speed]) -> Iterator[str]:
    drifts = [drift(each.tokens_per_second.samples) for each in decode]
    worst = max((each for each in drifts if each is not None), key=abs, default=0.0)
    if abs(worst) > DRIFTED:
        how = "faster" if worst > 0 else "slower"
        yield f"the second half of the decode runs was {abs(worst):.0%} {how} than the first"


def _times(run: tuple[Usage, Usage]) -> tuple[CpuTimes | None, CpuTimes | None]:
    return run[0].times, run[1].times


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _sum(values: Iterator[int | None]) -> int | None:
    """Of all; None if one is unknown, or there are none."""
    known = list(values)
    present = [value for value in known if value is not None]
    return sum(present) if known and len(present) == len(known) else None
