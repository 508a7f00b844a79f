"""Power sensors that the kernel shows under `/sys/class/hwmon`.

A sensor counts energy (`energyN_input`, microjoules), or shows power (`powerN_input`, or
`powerN_average` with its interval; microwatts), or, the INA219 and its relatives on old kernels,
only voltage and current (`in1_input`, millivolts; `curr1_input`, milliamperes). Counters come
first, since nothing escapes between two readings. Which rail a sensor sits on only its owner knows:
`source` has its label, and of several nobody but the user can say which one is the board's. The
INA3221 is in `rails`. (Documentation/hwmon/sysfs-interface.rst, ina2xx.rst)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters import base
from edgeslm.profiling.meters.base import Finding, Meter, Scope
from edgeslm.profiling.meters.sampled import SampledMeter
from edgeslm.profiling.meters.surroundings import permission_hint, read_integer, read_text
from edgeslm.records import Provenance

NAME = "hwmon"
_INA = re.compile(r"ina(2\d\d|700|780a?)$")
_SCOPES = {
    "power_meter": Scope.BOARD,  # ACPI's, of the whole machine
    "scmi_sensors": Scope.PACKAGE,  # firmware of Arm boards; which rail, the label says
    "fam15h_power": Scope.PACKAGE,
    "amd_energy": Scope.PACKAGE,
    "amdgpu": Scope.GPU,
}
"""By the driver's name; everything of the INA2xx family is taken for the board's input."""
_PERIOD_SECONDS = 0.1
_CHANNEL = re.compile(r"(energy|power)(\d{1,3})_(input|average)$")


@dataclass(frozen=True)
class _Channel:
    """One quantity of one sensor; `files` are the ones to read."""

    folder: Path
    number: str
    files: tuple[str, ...]


class HwmonEnergyMeter:
    """A counter of microjoules."""

    name = NAME
    provenance = Provenance.MEASURED
    period_seconds = _PERIOD_SECONDS

    def __init__(self, path: Path, scope: Scope, source: str) -> None:
        self._path = path
        self.scope = scope
        self.source = source
        self._last = read_integer(path)

    def read_joules(self) -> float:
        """Energy since the counter's own zero.

        Raises:
            MeasurementFailure: it cannot be read any more, or it has started again.
        """
        try:
            now = read_integer(self._path)
            if now < self._last:
                raise ValueError("it went back, and nobody says from where")
        except (OSError, ValueError) as error:
            raise MeasurementFailure(
                f"the counter {self._path} cannot be used any more: {error}",
                hint="Run the measurement again.",
            ) from error
        self._last = now
        return now / 1e6


def find(sysfs: Path) -> tuple[Finding, ...]:
    """Every power sensor of the machine whose sysfs is at `sysfs`."""
    channels = [
        (channel, name)
        for folder in sorted((sysfs / "class/hwmon").glob("hwmon*"))
        if _scope(name := read_text(folder / "name")) is not None
        for channel in _channels(folder, name)
    ]
    if not channels:
        return (base.absent(NAME, f"no power sensor under {sysfs / 'class/hwmon'}"),)
    return tuple(_open(channel, name, alone=len(channels) == 1) for channel, name in channels)


def _scope(name: str) -> Scope | None:
    return Scope.BOARD if _INA.match(name) else _SCOPES.get(name)


def _channels(folder: Path, name: str) -> list[_Channel]:
    """The best files of each channel of a sensor."""
    found: dict[str, tuple[str, ...]] = {}
    names = sorted(path.name for path in folder.iterdir())  # energy before power, average first
    for match in filter(None, map(_CHANNEL.match, names)):
        found.setdefault(match[2], (match[0],))
    if not found and _INA.match(name) and {"in1_input", "curr1_input"} <= set(names):
        found["1"] = ("in1_input", "curr1_input")
    return [_Channel(folder, number, files) for number, files in sorted(found.items())]


def _open(channel: _Channel, name: str, *, alone: bool) -> Finding:
    asked_by = NAME if alone else f"{NAME}:{channel.folder.name}:{channel.number}"
    try:
        meter = _meter(channel, name)
    except PermissionError as error:
        path = Path(error.filename or channel.folder)
        return base.forbidden(
            asked_by, f"{path} is there, but may not be read", permission_hint(path)
        )
    except (OSError, ValueError) as error:
        return base.failed(asked_by, f"{name} in {channel.folder} cannot be read: {error}")
    return base.found(meter, meter.source, name=asked_by)


def _meter(channel: _Channel, name: str) -> Meter:
    scope = _scope(name) or Scope.PACKAGE
    paths = [channel.folder / file for file in channel.files]
    source = f"{name}{_label(channel)}, {' x '.join(map(str, paths))}"
    if channel.files[0].startswith("energy"):
        return HwmonEnergyMeter(paths[0], scope, source)
    read_watts = _reader(paths)
    read_watts()
    return SampledMeter(NAME, scope, source, read_watts, period_seconds=_period(channel))


def _label(channel: _Channel) -> str:
    """The channel's own name, where its board gave it one."""
    kind = re.match("[a-z]+", channel.files[0])
    label = read_text(channel.folder / f"{kind[0] if kind else ''}{channel.number}_label")
    return f" {label!r}" if label else ""


def _period(channel: _Channel) -> float:
    """How long the sensor averages, where it says so (milliseconds)."""
    for name in (f"power{channel.number}_average_interval", "update_interval"):
        text = read_text(channel.folder / name)
        if text.isascii() and text.isdecimal() and 0 < int(text[:9]) <= 60_000:
            return max(int(text[:9]) / 1000, 0.01)
    return _PERIOD_SECONDS


def _reader(paths: list[Path]) -> Callable[[], float]:
    """Watts: microwatts of one file, or millivolts times milliamperes of two."""

    def read_watts() -> float:
        product = 1
        for path in paths:
            product *= read_integer(path)
        return product / 1e6

    return read_watts
