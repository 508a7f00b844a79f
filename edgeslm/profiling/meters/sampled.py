"""Watts into joules: an instrument that shows power only is read by a thread and integrated.

Between two samples power is taken to change evenly (the trapezoid rule). Each reading takes a
sample of its own, so that the ends of what is measured are not those of the last period. The
thread starts with the first reading and ends with the meter.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import weakref
from collections.abc import Callable

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters.base import Scope
from edgeslm.records import Provenance

_LONGEST_GAP_SECONDS = 5.0
"""A pause longer than this, and than several periods, hides what was drawn: a suspended machine."""
_GAP_PERIODS = 5


class Integral:
    """Energy under the samples taken so far; safe to use from several threads.

    Args:
        read_watts: Takes one sample; OSError or ValueError end it for good.
        longest_gap_seconds: Samples further apart than this are no measurement.
        clock: Seconds, rising.
    """

    def __init__(
        self,
        read_watts: Callable[[], float],
        *,
        longest_gap_seconds: float = _LONGEST_GAP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_watts = read_watts
        self._longest_gap = longest_gap_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._last: tuple[float, float] | None = None
        self._joules = 0.0
        self.failure: Exception | None = None

    def sample(self) -> float:
        """Take a sample; joules since the first one.

        Raises:
            OSError: this sample or an earlier one could not be taken.
            ValueError: what was read is no power.
        """
        with self._lock:
            if self.failure is not None:
                raise self.failure
            try:
                self._add()
            except (OSError, ValueError) as error:
                self.failure = error
                raise
            return self._joules

    def _add(self) -> None:
        before = self._clock()
        watts = self._read_watts()
        at = (before + self._clock()) / 2
        if not math.isfinite(watts):
            raise ValueError(f"{watts} is no power in watts")
        watts = max(watts, 0.0)  # noise around nothing
        if self._last is not None:
            since, watts_then = self._last
            if at - since > self._longest_gap:
                raise ValueError(f"nothing was read for {at - since:.1f} seconds")
            self._joules += (at - since) * (watts + watts_then) / 2
        self._last = at, watts


class SampledMeter:
    """A power meter as an energy meter.

    Args:
        name: What it is called.
        scope: What its watts include.
        source: What is read.
        read_watts: Reads the power now, in watts; raises OSError or ValueError when it cannot.
        period_seconds: How often the instrument renews its figure.
        sample_seconds: How often to read it; default: as often as it changes.
        provenance: MEASURED, unless its watts are arithmetic.
        clock: Seconds, rising.
    """

    def __init__(
        self,
        name: str,
        scope: Scope,
        source: str,
        read_watts: Callable[[], float],
        *,
        period_seconds: float,
        sample_seconds: float | None = None,
        provenance: Provenance = Provenance.MEASURED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.scope = scope
        self.source = source
        self.provenance = provenance
        self.period_seconds = period_seconds
        self._every = period_seconds if sample_seconds is None else sample_seconds
        gap = max(_LONGEST_GAP_SECONDS, _GAP_PERIODS * self._every)
        self._integral = Integral(read_watts, longest_gap_seconds=gap, clock=clock)
        self._stop: threading.Event | None = None

    def read_joules(self) -> float:
        """Energy since the first reading.

        Raises:
            MeasurementFailure: the sensor could not be read, now or at some time since then.
        """
        try:
            joules = self._integral.sample()
        except (OSError, ValueError) as error:
            self.close()
            raise MeasurementFailure(
                f"the power meter {self.name} cannot be read any more: {error}",
                hint="Look at the meter, then run the measurement again.",
            ) from error
        self._start()
        return joules

    def close(self) -> None:
        """End the thread; without it the meter is read only when asked."""
        if self._stop is not None:
            self._stop.set()

    def _start(self) -> None:
        if self._stop is not None:
            return
        self._stop = threading.Event()
        weakref.finalize(self, self._stop.set)
        threading.Thread(
            target=_keep_sampling,
            args=(self._integral, self._every, self._stop),
            name=f"meter-{self.name}",
            daemon=True,
        ).start()


def _keep_sampling(integral: Integral, every_seconds: float, stop: threading.Event) -> None:
    """Until told to stop, or until a sample fails: the next reading says so."""
    with contextlib.suppress(OSError, ValueError):
        while not stop.wait(every_seconds):
            integral.sample()
