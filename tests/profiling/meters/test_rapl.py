"""RAPL counters replayed from sysfs trees: sums, wraparound, and why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from unprivileged import as_nobody, open_folder

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters import find_meter, rapl
from edgeslm.profiling.meters.base import Finding, Meter, Scope, State
from edgeslm.profiling.meters.surroundings import Surroundings
from edgeslm.records import Provenance

RANGE = 262_143_328_850
"""max_energy_range_uj as a Core i7 shows it."""


def zone(root: Path, folder: str, name: str, microjoules: int) -> Path:
    path = root / "sys/class/powercap" / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return path


def add(path: Path, microjoules: int) -> None:
    """Let the counter run on, starting again from zero at the end of its range."""
    counter = path / "energy_uj"
    counter.write_text(f"{(int(counter.read_text()) + microjoules) % RANGE}\n")


def look(root: Path) -> Finding:
    """What is found of the processor packages."""
    finding = rapl.find(root / "sys", sleep=lambda _seconds: None)[-1]
    assert finding.name == "rapl"
    return finding


def found(root: Path) -> Meter:
    finding = look(root)
    assert finding.meter is not None, finding.reason
    return finding.meter


def test_one_package(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    meter = found(tmp_path)
    before = meter.read_joules()

    add(package, 12_500_000)

    assert meter.read_joules() - before == pytest.approx(12.5)
    assert meter.scope is Scope.PACKAGE
    assert meter.provenance is Provenance.MEASURED
    assert str(package) in meter.source


def test_packages_are_summed_and_their_parts_and_psys_are_not(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 10)
    part = zone(tmp_path, "intel-rapl:0:0", "core", 10)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 10)
    platform = zone(tmp_path, "intel-rapl:2", "psys", 10)
    memory_mapped = zone(tmp_path, "intel-rapl-mmio:0", "package-0", 10)
    meter = found(tmp_path)
    before = meter.read_joules()

    add(first, 1_000_000)
    add(second, 2_000_000)
    for other in (part, platform, memory_mapped):
        add(other, 50_000_000)

    assert meter.read_joules() - before == pytest.approx(3.0)


def test_counters_go_round_between_readings(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 1_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 0)
    meter = found(tmp_path)
    before = meter.read_joules()

    add(first, 3_000_000)
    add(second, 4_000_000)
    once = meter.read_joules()
    add(first, RANGE - 500_000)
    twice = meter.read_joules()

    assert once - before == pytest.approx(7.0)
    assert twice - once == pytest.approx((RANGE - 500_000) / 1e6)


def test_no_powercap_at_all(tmp_path: Path) -> None:
    (finding,) = rapl.find(tmp_path / "sys")

    assert (finding.meter, finding.state) == (None, State.ABSENT)
    assert "no processor package" in finding.reason


def test_a_platform_zone_is_no_package(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "psys", 1)

    assert look(tmp_path).meter is None


def platform(root: Path, platform_microjoules: int, package_microjoules: int) -> Finding:
    """What is found of psys on a machine that counts this much while it is looked at."""
    package = zone(root, "intel-rapl:0", "package-0", RANGE - 1000)
    psys = zone(root, "intel-rapl:1", "psys", RANGE - 1000)

    def sleep(_seconds: float) -> None:
        add(psys, platform_microjoules)
        add(package, package_microjoules)

    finding, packages = rapl.find(root / "sys", sleep=sleep)
    assert (finding.name, packages.name) == ("psys", "rapl")
    assert packages.meter is not None
    return finding


def test_the_platform_is_the_board(tmp_path: Path) -> None:
    meter = platform(tmp_path, 400_000, 150_000).meter
    assert meter is not None
    before = meter.read_joules()
    add(tmp_path / "sys/class/powercap/intel-rapl:1", 2_000_000)

    assert meter.read_joules() - before == pytest.approx(2.0)
    assert (meter.name, meter.scope) == ("psys", Scope.BOARD)
    assert meter.provenance is Provenance.MEASURED


@pytest.mark.parametrize(("all_of_it", "package"), [(100_000, 150_000), (0, 150_000), (0, 0)])
def test_a_platform_that_counts_less_than_its_part_is_not_believed(
    all_of_it: int, package: int, tmp_path: Path
) -> None:
    finding = platform(tmp_path, all_of_it, package)

    assert (finding.meter, finding.state) == (None, State.FAILED)
    assert "not calibrated" in finding.reason


def test_a_counter_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (package / "energy_uj").unlink()
    (package / "energy_uj").mkdir()

    finding = look(tmp_path)

    assert (finding.meter, finding.state) == (None, State.FAILED)
    assert str(package / "energy_uj") in finding.reason


def test_a_counter_that_only_root_may_read_says_how_to_read_it() -> None:
    with open_folder() as root:
        package = zone(root, "intel-rapl:0", "package-0", 1)
        (package / "energy_uj").chmod(0)

        said = as_nobody(lambda: str(look(root)))

    assert "FORBIDDEN" in said
    assert f"{package / 'energy_uj'} is there, but only root may read it" in said
    assert f"sudo chmod a+r {package.parent}/intel-rapl:*/energy_uj" in said


@pytest.mark.parametrize("content", ["", "many\n"])
def test_a_counter_that_is_no_number_is_no_meter(tmp_path: Path, content: str) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (package / "energy_uj").write_text(content)

    finding = look(tmp_path)

    assert (finding.meter, finding.state) == (None, State.FAILED)
    assert "cannot be read" in finding.reason


def test_a_counter_that_disappears_is_a_measurement_failure(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    meter = found(tmp_path)
    (package / "energy_uj").unlink()

    with pytest.raises(MeasurementFailure) as caught:
        meter.read_joules()

    assert str(package / "energy_uj") in caught.value.message


def test_the_energy_between_two_moments(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    here = Surroundings(root=tmp_path, environment={}, plugins=lambda: ())
    meter, reasons = find_meter(here=here)
    assert meter is not None

    first = meter.read_joules()
    add(package, 60_000_000)

    assert meter.read_joules() - first == pytest.approx(60.0)
    assert meter.name == "rapl"
    assert meter.provenance is Provenance.MEASURED
    assert reasons[0] == "rapl: 1 processor package(s)"
    assert meter.period_seconds == 0.001
