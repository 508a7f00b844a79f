"""The power management chip of a Raspberry Pi 5, which knows volts and amperes of twelve rails.

`vcgencmd pmic_read_adc` prints one line each for a rail's current and its voltage:

     VDD_CORE_A current(7)=0.94657990A
     VDD_CORE_V volt(15)=0.72097620V

The sum of their products is less than what the board draws: losses, USB and whatever hangs on the
5 V header are not in it, and the current of the input is not measured (`EXT5V_V` has no partner).
Somebody compared the sum with the plug: watts at the wall are 1.1451 times the sum plus 0.5879,
found on one board, from averages of 50 seconds. So the figure is labelled as estimated.
(jfikar/RPi5-power)
"""

from __future__ import annotations

import re
from collections.abc import Callable

from edgeslm.profiling.meters import base
from edgeslm.profiling.meters.base import Finding, Scope
from edgeslm.profiling.meters.sampled import SampledMeter
from edgeslm.profiling.meters.surroundings import Surroundings, read_text, run
from edgeslm.records import Provenance

NAME = "pmic"
_FACTOR, _OFFSET_WATTS = 1.1451, 0.5879
_PERIOD_SECONDS = 0.5
"""Starting `vcgencmd` takes some milliseconds of a core: not more often than this."""
_LINE = re.compile(
    r"^\s*(\w{1,40})_([AV]) (?:current|volt)\(\d{1,3}\)=(-?\d{1,6}(?:\.\d{1,12})?)[AV]\s*$",
    re.ASCII | re.MULTILINE,
)
_BOARD = "Raspberry Pi"
_MEASURING = re.compile(r"Raspberry Pi (Compute Module )?5")
"""Raspberry Pi 5, 500, Compute Module 5; older boards measure no current."""


def find(here: Surroundings) -> Finding:
    """The rails of a Raspberry Pi 5."""
    model = read_text(here.root / "proc/device-tree/model").strip("\0\n ")
    if not model.startswith(_BOARD):
        return base.absent(NAME, f"this is no {_BOARD}")
    program = here.program("vcgencmd")
    if program is None:
        return base.absent(
            NAME,
            "vcgencmd is not installed",
            "On Raspberry Pi OS: sudo apt install raspi-utils",
        )
    command = (program, "pmic_read_adc")
    try:
        watts, count = rail_watts(run(*command))
    except OSError as error:
        if not _MEASURING.search(model):
            return base.absent(NAME, f"{model} does not measure its current")
        return base.failed(
            NAME,
            f"{model} does not tell: {error}",
            "Your user must be in the group video: sudo usermod -aG video $USER, then log in anew.",
        )
    except ValueError as error:
        return base.absent(NAME, f"{model} does not measure its current: {error}")
    source = (
        f"vcgencmd pmic_read_adc, {_FACTOR} x the sum of V x A of {count} rails + "
        f"{_OFFSET_WATTS} W (fit of one board, for watts at the wall); the sum is {watts:.3g} W now"
    )
    meter = SampledMeter(
        NAME,
        Scope.BOARD,
        source,
        _reader(command),
        period_seconds=_PERIOD_SECONDS,
        provenance=Provenance.ESTIMATED,
    )
    return base.found(meter, source)


def rail_watts(text: str) -> tuple[float, int]:
    """The sum of volts times amperes over all rails that have both, and how many those are.

    Raises:
        ValueError: there is none.
    """
    figures = {(rail, unit): float(value) for rail, unit, value in _LINE.findall(text)}
    watts = [
        value * figures[rail, "V"]
        for (rail, unit), value in figures.items()
        if unit == "A" and (rail, "V") in figures
    ]
    if not watts:
        raise ValueError("vcgencmd names no rail with both volts and amperes")
    return sum(watts), len(watts)


def wall_watts(rails: float) -> float:
    """Watts at the plug, from the sum over the rails."""
    return _FACTOR * rails + _OFFSET_WATTS


def _reader(command: tuple[str, ...]) -> Callable[[], float]:
    def read_watts() -> float:
        return wall_watts(rail_watts(run(*command))[0])

    return read_watts
