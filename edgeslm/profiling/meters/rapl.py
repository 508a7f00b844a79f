"""Running Average Power Limit: the energy counters of Intel and AMD processors.

Linux shows them as powercap zones, `/sys/class/powercap/intel-rapl:N`, each with a name, a
counter in microjoules and the value at which it starts again from zero. A processor package
is a zone `package-N`; its parts are zones of their own below it (`intel-rapl:N:M`) and already
counted in it, so only whole packages are summed. Kernels since 5.10 let only root read them.

`psys`, where there is one, claims the whole platform. It is right only if the machine's maker
wired and calibrated it, and there are machines where it counts next to nothing. So it is taken
only if it counts at least what the packages inside it count.

A counter of 2^32 microjoule steps goes round once in about 20 minutes at 200 W: read it more
often than that, since two rounds between readings look like one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters import base
from edgeslm.profiling.meters.base import Finding, Scope
from edgeslm.profiling.meters.surroundings import permission_hint, read_integer, read_text
from edgeslm.records import Provenance

_NAME = "rapl"
_PLATFORM = "psys"
_COMPARED_SECONDS = 0.05


@dataclass
class _Zone:
    """One counter; `rounds` is how often it has started again."""

    folder: Path
    range_microjoules: int
    last_microjoules: int
    rounds: int = 0

    def read_microjoules(self) -> int:
        """The counter as if it had never started again."""
        now = read_integer(self.folder / "energy_uj")
        if now < self.last_microjoules:
            self.rounds += 1
        self.last_microjoules = now
        return now + self.rounds * self.range_microjoules


class RaplMeter:
    """The sum over zones: all processor packages, or the platform."""

    provenance = Provenance.MEASURED
    period_seconds = 0.001

    def __init__(
        self, zones: list[_Zone], *, name: str = _NAME, scope: Scope = Scope.PACKAGE
    ) -> None:
        self.name = name
        self.scope = scope
        self._zones = zones
        folders = " + ".join(str(zone.folder) for zone in zones)
        what = "RAPL" if scope is Scope.PACKAGE else "RAPL, the platform as its maker wired it"
        self.source = f"{what}, {folders}"

    def read_joules(self) -> float:
        """Energy of all zones since each counter's own zero.

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


def find(sysfs: Path, *, sleep: Callable[[float], None] = time.sleep) -> tuple[Finding, ...]:
    """The platform, where there is one, then the processor packages of the machine at `sysfs`."""
    packages = _open_all(_NAME, Scope.PACKAGE, _zones(sysfs, "package-"), sysfs)
    folders = _zones(sysfs, _PLATFORM)
    if not folders:
        return (packages,)
    platform = _open_all(_PLATFORM, Scope.BOARD, folders[:1], sysfs)
    return _credible(platform, packages, sleep), packages


def _open_all(name: str, scope: Scope, folders: list[Path], sysfs: Path) -> Finding:
    if not folders:
        return base.absent(name, f"no processor package under {sysfs / 'class/powercap'}")
    try:
        zones = [_open(folder) for folder in folders]
    except PermissionError as error:
        path = Path(error.filename or folders[0])
        every = path.parent.with_name("intel-rapl:*") / path.name
        return base.forbidden(
            name, f"{path} is there, but only root may read it", permission_hint(every)
        )
    except (OSError, ValueError) as error:
        return base.failed(name, f"there are counters, but they cannot be read: {error}")
    what = f"{len(zones)} processor package(s)" if scope is Scope.PACKAGE else "the platform"
    return base.found(RaplMeter(zones, name=name, scope=scope), what)


def _credible(platform: Finding, packages: Finding, sleep: Callable[[float], None]) -> Finding:
    """The platform, unless it counts less than the processor in it."""
    if platform.meter is None or packages.meter is None:
        return platform
    try:
        before = platform.meter.read_joules(), packages.meter.read_joules()
        sleep(_COMPARED_SECONDS)
        all_joules = platform.meter.read_joules() - before[0]
        part_joules = packages.meter.read_joules() - before[1]
    except MeasurementFailure as error:
        return base.failed(_PLATFORM, error.message)
    if part_joules <= all_joules and all_joules > 0:
        return platform
    return base.failed(
        _PLATFORM,
        f"it counted {all_joules:g} J while the processor alone counted {part_joules:g} J: "
        "it is not calibrated on this machine",
    )


def _zones(sysfs: Path, name: str) -> list[Path]:
    """Zones whose name begins with `name`, in their order."""
    folders = sorted((sysfs / "class/powercap").glob("intel-rapl:*"))
    return [folder for folder in folders if read_text(folder / "name").startswith(name)]


def _open(folder: Path) -> _Zone:
    return _Zone(
        folder=folder,
        range_microjoules=read_integer(folder / "max_energy_range_uj"),
        last_microjoules=read_integer(folder / "energy_uj"),
    )
