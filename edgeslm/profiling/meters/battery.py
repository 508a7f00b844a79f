"""Batteries, while they are all that feeds the machine.

The kernel shows each as `/sys/class/power_supply/NAME`: `power_now` in microwatts, or `current_now`
in microamperes and `voltage_now` in microvolts. Some drivers give a discharging current as
negative, some as positive: the sign says nothing, `status` does. Only a discharging battery tells
what the machine draws; plugged in, or charging, it does not. Batteries of a mouse or a keyboard
have the scope `Device` and are none of ours. Fuel gauges renew their figure every few seconds,
some only twice a minute. (Documentation/ABI/testing/sysfs-class-power)
"""

from __future__ import annotations

from pathlib import Path

from edgeslm.profiling.meters import base
from edgeslm.profiling.meters.base import Finding, Scope
from edgeslm.profiling.meters.sampled import SampledMeter
from edgeslm.profiling.meters.surroundings import permission_hint, read_integer, read_text

NAME = "battery"
_PERIOD_SECONDS = 5.0
_SAMPLE_SECONDS = 1.0
_UNPLUG = "Unplug the power supply, and measure while the battery discharges."


def find(sysfs: Path) -> Finding:
    """The batteries of the machine whose sysfs is at `sysfs`."""
    folders = _batteries(sysfs)
    if not folders:
        return base.absent(NAME, f"no battery under {sysfs / 'class/power_supply'}")
    if _is_fed(sysfs):
        return base.absent(NAME, "it is plugged in, so the battery does not tell", _UNPLUG)
    try:
        _watts(folders)
    except PermissionError as error:
        path = Path(error.filename or folders[0])
        return base.forbidden(NAME, f"{path} is there, but may not be read", permission_hint(path))
    except _NotDischarging as error:
        return base.absent(NAME, str(error), _UNPLUG)
    except (OSError, ValueError) as error:
        return base.failed(NAME, f"it does not tell its power: {error}")
    source = "discharging " + " + ".join(str(folder) for folder in folders)
    meter = SampledMeter(
        NAME,
        Scope.BOARD,
        source,
        lambda: _watts(folders),
        period_seconds=_PERIOD_SECONDS,
        sample_seconds=_SAMPLE_SECONDS,
    )
    return base.found(meter, source)


class _NotDischarging(ValueError):
    """What the battery shows now is not what the machine draws."""


def _batteries(sysfs: Path) -> list[Path]:
    """Those of the machine itself."""
    supplies = sorted((sysfs / "class/power_supply").glob("*"))
    return [
        folder
        for folder in supplies
        if read_text(folder / "type") == "Battery" and read_text(folder / "scope") != "Device"
    ]


def _is_fed(sysfs: Path) -> bool:
    """Whether a plug or a USB cable brings power."""
    return any(
        read_text(folder / "type") in ("Mains", "USB", "Wireless")
        and read_text(folder / "scope") != "Device"
        and read_text(folder / "online") not in ("", "0")
        for folder in (sysfs / "class/power_supply").glob("*")
    )


def _watts(folders: list[Path]) -> float:
    """What all batteries give, in watts.

    Raises:
        _NotDischarging: one charges, or none discharges.
    """
    states = [read_text(folder / "status") for folder in folders]
    if "Charging" in states:
        raise _NotDischarging("a battery is charging")
    if "Discharging" not in states:
        raise _NotDischarging(f"no battery is discharging, but {' and '.join(states).lower()}")
    return sum(
        _watts_of(folder)
        for folder, state in zip(folders, states, strict=True)
        if state == "Discharging"
    )


def _watts_of(folder: Path) -> float:
    try:
        return abs(read_integer(folder / "power_now")) / 1e6
    except FileNotFoundError:
        microamperes = abs(read_integer(folder / "current_now"))
        return microamperes * read_integer(folder / "voltage_now") / 1e12
