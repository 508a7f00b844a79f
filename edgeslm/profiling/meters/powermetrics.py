"""Apple silicon: `powermetrics`, which only root may run.

It prints one property list after the other, with a zero byte in front of each but the first. Each
states the mean power of processor, graphics and neural engine (`processor.combined_power`,
milliwatts) over the time since the last one (`elapsed_ns`), so that their product is the energy of
that time. Memory, display and storage are not in it. Apple calls the figures estimates, not to be
compared between machines. (man powermetrics)
"""

from __future__ import annotations

import math
import plistlib
import subprocess
import threading
import time
import weakref
from collections.abc import Callable
from typing import IO, Any
from xml.parsers.expat import ExpatError

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters import base
from edgeslm.profiling.meters.base import Finding, Scope
from edgeslm.profiling.meters.surroundings import Surroundings
from edgeslm.records import Provenance

NAME = "powermetrics"
_PERIOD_SECONDS = 0.2
_FIRST_SECONDS = 10.0
"""So long the first list may take."""
_SILENT_SECONDS = 5.0
_MOST_BYTES = 1 << 22
"""A list has some tens of kilobytes; what grows beyond this is something else."""
_END = b"</plist>"


class PowermetricsMeter:
    """Adds up what the program prints; it starts with the first reading and ends with the meter.

    Args:
        command: What prints the lists.
        clock: Seconds, rising.
    """

    name = NAME
    scope = Scope.PACKAGE
    provenance = Provenance.ESTIMATED
    period_seconds = _PERIOD_SECONDS

    def __init__(
        self, command: tuple[str, ...], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._command = command
        self._clock = clock
        self._stream: _Stream | None = None
        self.source = (
            f"{' '.join(command)}: combined power of processor, graphics and neural engine, "
            "which Apple calls an estimate"
        )

    def read_joules(self) -> float:
        """Energy of all the time that was reported so far.

        Raises:
            MeasurementFailure: the program does not run, or has ended, or says nothing.
        """
        try:
            if self._stream is None:
                self._stream = _start(self, self._command, self._clock)
            return self._stream.joules()
        except (OSError, ValueError) as error:
            raise MeasurementFailure(
                f"powermetrics does not tell: {error}",
                hint="Run it by hand: sudo powermetrics --samplers cpu_power -n 1",
            ) from error


class _Stream:
    """What a running powermetrics has said so far."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._joules = 0.0
        self._heard: float | None = None
        self._failure: Exception | None = None

    def joules(self) -> float:
        """Waits for the first list only."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._heard is not None or self._failure is not None, _FIRST_SECONDS
            )
            if self._failure is not None:
                raise self._failure
            if self._heard is None:
                raise TimeoutError(f"it said nothing for {_FIRST_SECONDS:g} seconds")
            if self._clock() - self._heard > _SILENT_SECONDS:
                raise TimeoutError(f"it has been silent for more than {_SILENT_SECONDS:g} seconds")
            return self._joules

    def follow(self, output: IO[bytes]) -> None:
        """Read to the end; what is wrong is told to whoever asks for joules."""
        pending = b""
        try:
            while chunk := output.read1(1 << 16):  # type: ignore[attr-defined]
                *lists, pending = (pending + chunk).split(_END)
                for each in lists:
                    self._add(joules_of(each + _END))
                if len(pending) > _MOST_BYTES:
                    raise ValueError("what it prints is no property list")
            raise EOFError("it has ended")
        except (OSError, ValueError, EOFError) as error:
            failure = OSError(str(error)) if isinstance(error, EOFError) else error
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _add(self, joules: float) -> None:
        with self._changed:
            self._joules += joules
            self._heard = self._clock()
            self._changed.notify_all()


def find(here: Surroundings) -> Finding:
    """The energy of an Apple processor."""
    if here.system != "Darwin":
        return base.absent(NAME, "this is no Mac")
    program = here.program("powermetrics")
    if program is None:
        return base.absent(NAME, "powermetrics is not installed")
    if not here.is_root:
        return base.forbidden(
            NAME, "only root may run powermetrics", "Run the same command with sudo."
        )
    interval = str(round(_PERIOD_SECONDS * 1000))
    command = (program, "--samplers", "cpu_power", "--format", "plist", "-i", interval)
    meter = PowermetricsMeter(command)
    return base.found(meter, meter.source)


def joules_of(text: bytes) -> float:
    """The energy of one list.

    Raises:
        ValueError: it is none, or lacks a figure.
    """
    try:
        value: Any = plistlib.loads(text.lstrip(b"\0 \r\n\t"))
    except (ValueError, ExpatError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"no property list: {error}") from error
    except (RecursionError, OverflowError) as error:
        raise ValueError("no property list of powermetrics") from error
    processor = value.get("processor") if isinstance(value, dict) else None
    milliwatts = processor.get("combined_power") if isinstance(processor, dict) else None
    elapsed_nanoseconds = value.get("elapsed_ns") if isinstance(value, dict) else None
    joules = _number(milliwatts) / 1000 * (_number(elapsed_nanoseconds) / 1e9)
    if not math.isfinite(joules) or joules < 0:
        raise ValueError(f"{joules} joules")
    return joules


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("no combined_power, or no elapsed_ns: only Apple silicon has both")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError("figures beyond all measure") from error


def _start(
    meter: PowermetricsMeter, command: tuple[str, ...], clock: Callable[[], float]
) -> _Stream:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    weakref.finalize(meter, _end, process)
    stream = _Stream(clock)
    threading.Thread(
        target=stream.follow, args=(process.stdout,), name="meter-powermetrics", daemon=True
    ).start()
    return stream


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
