"""What the machine says of itself while a model runs: who else computes, how warm it is.

All files lie under `root`, so that a recorded tree gives the same answer as the board it was
recorded on. A Raspberry Pi's firmware tells in bits (`vcgencmd get_throttled`) what holds the
processor back, and what did since it was switched on; other boards show it as a cooling device
that is at work.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgeslm.files import small_text
from edgeslm.runtime.cores import allowed_cores

_FLAGS = {
    0: "undervoltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}
_SINCE_BOOT = 16
_VCGENCMD_SECONDS = 5
_OF_PROCESSOR = re.compile("cpu|soc|core|k10|package|x86_pkg|acpitz", re.IGNORECASE)
"""In the names of sensors; others sit in disks and radios."""
_COOLS_PROCESSOR = re.compile("^(thermal-)?cpufreq|^Processor$|^cpu", re.IGNORECASE)
"""Types of cooling devices that slow the processor; fans do not."""
_USUAL_LIMIT = 85.0
"""Degrees Celsius at which most boards begin to slow down, where they do not say."""
_SEEMS_REAL = (-30.0, 150.0)


@dataclass(frozen=True)
class Heat:
    """How warm the machine is and what that does to it; None where nothing tells.

    Attributes:
        celsius: The highest of the processor's sensors.
        limit_celsius: Where the board begins to slow down.
        held_back: What slows the processor at this moment.
        since_boot: What did since the machine was switched on; only a Raspberry Pi knows.
    """

    celsius: float | None
    limit_celsius: float
    held_back: tuple[str, ...]
    since_boot: tuple[str, ...]

    @property
    def presses(self) -> bool:
        """Whether the machine is too warm, or already held back."""
        return bool(self.held_back) or (
            self.celsius is not None and self.celsius >= self.limit_celsius
        )


@dataclass(frozen=True)
class Clock:
    """Mean clock of the allowed cores: now, and the highest that the hardware can.

    Of a core at rest it is low by design.
    """

    megahertz: float
    most_megahertz: float


@dataclass(frozen=True)
class CpuTimes:
    """Seconds of computing on the allowed cores so far.

    Attributes:
        at: When.
        all_seconds: Of everybody.
        own_seconds: Of this process.
        polite_seconds: Of programs that run at a lower priority than ours; 0 if ours is low.
    """

    at: float
    all_seconds: float
    own_seconds: float
    polite_seconds: float = 0.0


@dataclass(frozen=True)
class Taken:
    """How many cores' time was taken between two readings: by us, by others, by polite others."""

    own: float
    others: float
    polite: float = 0.0


class Sensors:
    """Reads them.

    Args:
        root: Where the system's files lie.
        cores: The cores that count; None for those this process may use.
        ask_firmware: Ask `vcgencmd` where no file tells about throttling; that starts a process.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        cores: Iterable[int] | None = None,
        *,
        ask_firmware: bool = False,
    ) -> None:
        self._root = root
        self.cores = allowed_cores() if cores is None else tuple(cores)
        self._ask_firmware = ask_firmware
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._names = {f"cpu{core}" for core in self.cores}

    def cpu_times(self) -> CpuTimes | None:
        """Who computed how long; None where the system does not say (only Linux does)."""
        try:
            with (self._root / "proc/stat").open(encoding="ascii") as file:
                ticks = [_busy_ticks(line, self._names) for line in file]
        except (OSError, ValueError):
            return None
        polite = 0 if os.nice(0) > 0 else sum(low for _, low in ticks)
        return CpuTimes(
            at=time.perf_counter(),
            all_seconds=sum(busy for busy, _ in ticks) / self._ticks,
            own_seconds=time.process_time(),
            polite_seconds=polite / self._ticks,
        )

    def heat(self) -> Heat:
        """How warm it is, and what that does."""
        held_back, since_boot = self._firmware()
        if not held_back and any(map(_positive, self._cooling)):
            held_back = ["throttled"]
        degrees = [each for zone in self._zones if (each := _degrees(zone / "temp")) is not None]
        return Heat(
            celsius=max(degrees, default=None),
            limit_celsius=self._limit,
            held_back=tuple(held_back),
            since_boot=tuple(since_boot),
        )

    def clock(self) -> Clock | None:
        """How fast the cores run; None where the system does not say."""
        now = self._mean_megahertz("scaling_cur_freq")
        most = self._mean_megahertz("cpuinfo_max_freq")
        return None if now is None or most is None else Clock(now, most)

    def _firmware(self) -> tuple[list[str], list[str]]:
        """What a Raspberry Pi's firmware, or its voltage monitor, says: now, and since boot."""
        for path in self._throttled:
            with suppress(OSError, ValueError):
                return parse_throttled(path.read_text())
        if self._ask_firmware:
            with suppress(OSError, ValueError, subprocess.SubprocessError):
                return parse_throttled(_vcgencmd())
        if any(map(_positive, self._voltage_alarms)):
            return ["undervoltage"], []
        return [], []

    @cached_property
    def _throttled(self) -> list[Path]:
        return list(self._root.glob("sys/devices/platform/soc*/soc*:firmware/get_throttled"))

    @cached_property
    def _voltage_alarms(self) -> list[Path]:
        names = self._root.glob("sys/class/hwmon/hwmon*/name")
        return [name.parent / "in0_lcrit_alarm" for name in names if small_text(name) == "rpi_volt"]

    @cached_property
    def _cooling(self) -> list[Path]:
        """How much each device slows the processor."""
        devices = self._root.glob("sys/class/thermal/cooling_device*")
        return [
            device / "cur_state"
            for device in devices
            if _COOLS_PROCESSOR.search(small_text(device / "type"))
        ]

    @cached_property
    def _zones(self) -> list[Path]:
        zones = sorted(self._root.glob("sys/class/thermal/thermal_zone*"))
        return [zone for zone in zones if is_of_processor(small_text(zone / "type"))]

    @cached_property
    def _limit(self) -> float:
        """The temperature at which the kernel slows the processor down."""
        trips = [
            _degrees(kind.with_name(kind.name.replace("_type", "_temp")))
            for zone in self._zones
            for kind in zone.glob("trip_point_*_type")
            if small_text(kind) == "passive"
        ]
        return max((degrees for degrees in trips if degrees is not None), default=_USUAL_LIMIT)

    def _mean_megahertz(self, name: str) -> float | None:
        folder = self._root / "sys/devices/system/cpu"
        texts = [small_text(folder / f"cpu{core}" / "cpufreq" / name) for core in self.cores]
        clocks = [int(text) for text in texts if text.isdecimal()]
        return sum(clocks) / len(clocks) / 1000 if clocks else None


def is_of_processor(sensor: str) -> bool:
    """Whether a temperature sensor of this name, or this type of zone, is the processor's."""
    return _OF_PROCESSOR.search(sensor) is not None


def parse_throttled(text: str) -> tuple[list[str], list[str]]:
    """What a Raspberry Pi's firmware says: "throttled=0x50005", or the bare number in hex.

    Returns:
        What holds the processor back now, and what did since it was switched on.

    Raises:
        ValueError: neither of the two.
    """
    bits = int(text.strip().removeprefix("throttled="), 16)
    now = [name for bit, name in _FLAGS.items() if bits >> bit & 1]
    since = [name for bit, name in _FLAGS.items() if bits >> (bit + _SINCE_BOOT) & 1]
    return now, since


def cores_taken(before: CpuTimes, after: CpuTimes) -> Taken:
    """How many cores' time was taken between two readings."""
    seconds = max(after.at - before.at, 1e-9)
    own = max(after.own_seconds - before.own_seconds, 0.0) / seconds
    polite = max(after.polite_seconds - before.polite_seconds, 0.0) / seconds
    everybody = max(after.all_seconds - before.all_seconds, 0.0) / seconds
    return Taken(own, max(everybody - own - polite, 0.0), polite)


def _busy_ticks(line: str, names: set[str]) -> tuple[int, int]:
    """Ticks in which a core of these was not idle, and those of them at low priority.

    Nothing for any other line of /proc/stat. Time that a hypervisor gave to others counts: the
    core was not ours.
    """
    name, *fields = line.split()
    if name not in names:
        return 0, 0
    user, nice, system, _idle, _waiting, *rest = map(int, fields[:8])
    return user + nice + system + sum(rest), nice


def _vcgencmd() -> str:
    return subprocess.run(
        ["vcgencmd", "get_throttled"],
        capture_output=True,
        text=True,
        check=True,
        timeout=_VCGENCMD_SECONDS,
        stdin=subprocess.DEVNULL,
    ).stdout


def _degrees(path: Path) -> float | None:
    """A temperature file of the kernel: thousandths of a degree Celsius."""
    try:
        value = int(small_text(path)) / 1000
    except ValueError:
        return None
    return value if _SEEMS_REAL[0] < value < _SEEMS_REAL[1] else None


def _positive(path: Path) -> bool:
    text = small_text(path)
    return text.isdecimal() and int(text) > 0
