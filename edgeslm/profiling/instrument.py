"""A meter in use: readings around stretches of time, and what is left when it dies midway."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters import Meter
from edgeslm.profiling.power import Stretch

_PARTS = 5


@dataclass(frozen=True)
class Mark:
    """The meter's reading at some moment; None where there is no meter, or not any more."""

    joules: float | None
    seconds: float


class Instrument:
    """Reads `meter`; a meter that fails once is not asked again, and nothing else is lost.

    Args:
        meter: None reads as a meter that gives nothing.
        clock: Seconds that always rise.
    """

    def __init__(
        self, meter: Meter | None, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.meter = meter
        self.failure: str | None = None
        """Why the meter could not be read any more."""
        self._clock = clock

    @property
    def period_seconds(self) -> float:
        """How often the reading changes; 0 without a meter, or where it changes all the time."""
        return 0.0 if self.meter is None else self.meter.period_seconds

    @property
    def tells_idle_from_busy(self) -> bool:
        """Whether there is an instrument behind it, and not a constant times the clock."""
        return self.meter is not None and self.period_seconds > 0 and self.failure is None

    def mark(self) -> Mark:
        """Read now."""
        if self.meter is None or self.failure is not None:
            return Mark(None, self._clock())
        try:
            joules = self.meter.read_joules()
        except MeasurementFailure as failure:
            self.failure = failure.message
            return Mark(None, self._clock())
        return Mark(joules, self._clock())

    def since(self, start: Mark, tokens: int = 0) -> Stretch | None:
        """The stretch of `tokens` from `start` until now; None where a reading is missing."""
        end = self.mark()
        if start.joules is None or end.joules is None:
            return None
        return Stretch(end.joules - start.joules, end.seconds - start.seconds, tokens)

    def rest(
        self, seconds: float, *, sleep: Callable[[float], None] = time.sleep
    ) -> tuple[Stretch, ...]:
        """The idle baseline in parts, of a machine that is left alone for `seconds`."""
        parts = []
        start = self.mark()
        for _ in range(_PARTS):
            sleep(seconds / _PARTS)
            part, start = self.since(start), self.mark()
            if part is not None:
                parts.append(part)
        return tuple(parts)
