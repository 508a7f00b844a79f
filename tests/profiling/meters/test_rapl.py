"""RAPL counters replayed from sysfs trees: sums, wraparound, and why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters import find_meter, rapl
from edgeslm.profiling.meters.base import Scope
from edgeslm.records import Provenance

RANGE = 262_143_328_850
"""max_energy_range_uj as a Core i7 shows it."""


def zone(sysfs: Path, folder: str, name: str, microjoules: int) -> Path:
    path = sysfs / "class/powercap" / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return path


def add(path: Path, microjoules: int) -> None:
    """Let the counter run on, starting again from zero at the end of its range."""
    counter = path / "energy_uj"
    counter.write_text(f"{(int(counter.read_text()) + microjoules) % RANGE}\n")


def found(sysfs: Path) -> rapl.RaplMeter:
    meter, reason = rapl.find(sysfs)
    assert meter is not None, reason
    return meter


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
    meter, reason = rapl.find(tmp_path)

    assert meter is None
    assert "no processor package" in reason


def test_only_a_platform_zone_is_no_package(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "psys", 1)

    assert rapl.find(tmp_path)[0] is None


def test_a_counter_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (package / "energy_uj").unlink()
    (package / "energy_uj").mkdir()

    meter, reason = rapl.find(tmp_path)

    assert meter is None
    assert str(package / "energy_uj") in reason


def test_a_counter_that_only_root_may_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 1)

    def refuse(path: Path) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(rapl, "_integer", refuse)
    meter, reason = rapl.find(tmp_path)

    assert meter is None
    assert "only root may read it" in reason
    assert str(package) in reason


@pytest.mark.parametrize("content", ["", "many\n"])
def test_a_counter_that_is_no_number_is_no_meter(tmp_path: Path, content: str) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (package / "energy_uj").write_text(content)

    meter, reason = rapl.find(tmp_path)

    assert meter is None
    assert "cannot be read" in reason


def test_a_counter_that_disappears_is_a_measurement_failure(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    meter = found(tmp_path)
    (package / "energy_uj").unlink()

    with pytest.raises(MeasurementFailure) as caught:
        meter.read_joules()

    assert str(package / "energy_uj") in caught.value.message


def test_the_energy_between_two_moments(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    meter, reasons = find_meter(sysfs=tmp_path)
    assert meter is not None

    first = meter.read_joules()
    add(package, 60_000_000)

    assert meter.read_joules() - first == pytest.approx(60.0)
    assert meter.name == "rapl"
    assert meter.provenance is Provenance.MEASURED
    assert reasons == ("rapl: 1 processor package(s)",)
