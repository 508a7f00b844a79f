"""Running Average Power Limit: the energy counters of Intel and AMD processors.

Linux shows them as powercap zones, `/sys/class/powercap/intel-rapl:N`, each with a name, a
counter in microjoules and the value at which it starts again from zero. A processor package
is a zone `package-N`; its parts are zones of their own below it (`intel-rapl:N:M`) and already
counted in it, so only whole packages are summed. `psys`, where there is one, claims the whole
platform, but is right only if the machine's maker wired and calibrated it: it is left out.
Kernels since 5.10 let only root read the counters.

A counter of 2^32 microjoule steps goes round once in about 20 minutes at 200 W: read it more
often than that, since two rounds between readings look like one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters.base import Scope
from edgeslm.records import Provenance


@dataclass
class _Zone:
    """One package's counter; `rounds` is how often it has started again."""

    folder: Path
    range_microjoules: int
    last_microjoules: int
    rounds: int = 0

    def read_microjoules(self) -> int:
        """The counter as if it had never started again."""
        now = _integer(self.folder / "energy_uj")
        if now < self.last_microjoules:
            self.rounds += 1
        self.last_microjoules = now
        return now + self.rounds * self.range_microjoules


class RaplMeter:
    """The sum over all processor packages."""

    name = "rapl"
    scope = Scope.PACKAGE
    provenance = Provenance.MEASURED
    period_seconds = 0.001

    def __init__(self, zones: list[_Zone]) -> None:
        self._zones = zones
        folders = " + ".join(str(zone.folder) for zone in zones)
        self.source = f"RAPL, {folders}"

    def read_joules(self) -> float:
        """Energy of all packages since each counter's own zero.

        Raises:
            MeasurementFailure: a counter cannot be read any more.
        """
        try:
            return sum(zone.read_microjoules() for zone in self._zones) / 1e6
        except (OSError, ValueError) as error:
            raise MeasurementFailure(
                f"the RAPL counter cannot be read any more: {error}",
                hint="Run the measurement again.",
            ) from error


def find(sysfs: Path) -> tuple[RaplMeter | None, str]:
    """The RAPL meter of the machine whose sysfs is at `sysfs`, and why (not)."""
    folders = _packages(sysfs)
    if not folders:
        return None, f"rapl: no processor package under {sysfs / 'class/powercap'}"
    try:
        zones = [_open(folder) for folder in folders]
    except PermissionError as error:
        return None, f"rapl: {error.filename} is there, but only root may read it"
    except (OSError, ValueError) as error:
        return None, f"rapl: there are counters, but they cannot be read: {error}"
    return RaplMeter(zones), f"rapl: {len(zones)} processor package(s)"


def _packages(sysfs: Path) -> list[Path]:
    """Zones that are a whole processor package, in their order."""
    found = []
    for folder in sorted((sysfs / "class/powercap").glob("intel-rapl:*")):
        name = folder / "name"
        if name.is_file() and name.read_text(errors="replace").startswith("package-"):
            found.append(folder)
    return found


def _open(folder: Path) -> _Zone:
    return _Zone(
        folder=folder,
        range_microjoules=_integer(folder / "max_energy_range_uj"),
        last_microjoules=_integer(folder / "energy_uj"),
    )


def _integer(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
