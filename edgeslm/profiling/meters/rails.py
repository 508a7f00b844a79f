"""The INA3221 of NVIDIA's Jetson boards: up to three rails a chip, each with a label.

The chip shows no power: it is `in[1-3]_input` (millivolts) times `curr[1-3]_input`
(milliamperes). `VDD_IN` (Orin, Xavier NX) and `POM_5V_IN` (Nano) are the input of the whole
module, and the other rails lie behind it: it counts alone, as the board. It leaves out the carrier
board. Where no rail is the input (AGX), all of them are added up, and that is less than the board.
A channel that is switched off, or not connected (`NC`), does not count.
(Documentation/hwmon/ina3221.rst)
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from edgeslm.profiling.meters import base
from edgeslm.profiling.meters.base import Finding, Scope
from edgeslm.profiling.meters.sampled import SampledMeter
from edgeslm.profiling.meters.surroundings import permission_hint, read_integer, read_text

NAME = "rails"
_CHIP = "ina3221"
_TOTALS = ("VDD_IN", "POM_5V_IN")
_PERIOD_SECONDS = 0.1
_CHANNELS = (1, 2, 3)


@dataclass(frozen=True)
class _Rail:
    label: str
    folder: Path
    channel: int

    def read_watts(self) -> float:
        """Voltage times current; an OSError where it cannot be read."""
        millivolts = read_integer(self.folder / f"in{self.channel}_input")
        milliamperes = read_integer(self.folder / f"curr{self.channel}_input")
        return millivolts * milliamperes / 1e6


def find(sysfs: Path) -> Finding:
    """The rails of the machine whose sysfs is at `sysfs`."""
    chips = sorted((sysfs / "class/hwmon").glob("hwmon*"))
    folders = [folder for folder in chips if read_text(folder / "name") == _CHIP]
    if not folders:
        return base.absent(NAME, f"no {_CHIP} under {sysfs / 'class/hwmon'}")
    try:
        rails = [
            rail
            for folder in folders
            for channel in _CHANNELS
            if _is_on(rail := _rail(folder, channel))
        ]
    except PermissionError as error:
        path = Path(error.filename or folders[0])
        return base.forbidden(NAME, f"{path} is there, but may not be read", permission_hint(path))
    except (OSError, ValueError) as error:
        return base.failed(NAME, f"the {_CHIP} cannot be read: {error}")
    if not rails:
        return base.failed(NAME, f"every channel of the {_CHIP} is switched off")
    meter = _meter(rails)
    return base.found(meter, meter.source)


def _rail(folder: Path, channel: int) -> _Rail:
    label = read_text(folder / f"in{channel}_label") or f"{folder.name} channel {channel}"
    return _Rail(label, folder, channel)


def _is_on(rail: _Rail) -> bool:
    if rail.label == "NC" or read_text(rail.folder / f"in{rail.channel}_enable") == "0":
        return False
    try:
        rail.read_watts()
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno == errno.ENODATA:  # how the driver says that it is off
            return False
        raise
    return True


def _meter(rails: list[_Rail]) -> SampledMeter:
    total = [rail for rail in rails if rail.label in _TOTALS]
    counted = total[:1] or rails
    names = " + ".join(rail.label for rail in counted)
    if total:
        what = f"{names}, the input of the module without its carrier board"
    else:
        what = f"the sum of {names}; no rail is the board's input"
    return SampledMeter(
        NAME,
        Scope.BOARD if total else Scope.PACKAGE,
        f"{_CHIP}, {what}",
        lambda: sum(rail.read_watts() for rail in counted),
        period_seconds=_PERIOD_SECONDS,
    )
