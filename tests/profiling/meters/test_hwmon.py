"""Power sensors under hwmon, replayed: counters, power, volts times amperes, several at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import boards
import pytest
import recorded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unprivileged import as_nobody, open_folder

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters import hwmon
from edgeslm.profiling.meters.base import Finding, Meter, Scope, State
from edgeslm.profiling.meters.hwmon import HwmonEnergyMeter
from edgeslm.profiling.meters.sampled import SampledMeter
from edgeslm.records import Provenance


def look(files: Mapping[str, str], root: Path) -> tuple[Finding, ...]:
    return hwmon.find(boards.lay_out(files, root) / "sys")


def only(findings: tuple[Finding, ...]) -> Meter:
    assert len(findings) == 1
    assert findings[0].meter is not None, findings[0].reason
    return findings[0].meter


def watts(meter: Meter) -> float:
    """What a sampled meter integrates."""
    assert isinstance(meter, SampledMeter)
    return meter._integral._read_watts()


@pytest.mark.parametrize(
    ("files", "expected", "scope", "period"),
    [
        (recorded.INA226, 3.775, Scope.BOARD, 0.14),
        (recorded.INA219_OLD, 5.012 * 0.740, Scope.BOARD, 0.1),
        (recorded.ACPI_METER, 92.0, Scope.BOARD, 1.0),
    ],
)
def test_watts_and_how_often_they_change(
    files: Mapping[str, str], expected: float, scope: Scope, period: float, tmp_path: Path
) -> None:
    findings = look(files, tmp_path)
    meter = only(findings)

    assert watts(meter) == pytest.approx(expected)
    assert (meter.scope, meter.period_seconds) == (scope, pytest.approx(period))
    assert (meter.name, findings[0].name) == ("hwmon", "hwmon")
    assert meter.provenance is Provenance.MEASURED
    assert str(tmp_path) in meter.source


def test_power_comes_before_volts_times_amperes(tmp_path: Path) -> None:
    assert "power1_input" in only(look(recorded.INA226, tmp_path)).source


def test_joules_of_a_constant_power(tmp_path: Path) -> None:
    meter = only(look(recorded.INA226, tmp_path))
    assert isinstance(meter, SampledMeter)
    ticks = iter([0.0, 0.0, 4.0, 4.0])
    meter._integral._clock = lambda: next(ticks)

    assert [meter._integral.sample() for _ in range(2)] == pytest.approx([0.0, 4 * 3.775])


def test_counters_come_before_power_and_keep_their_labels(tmp_path: Path) -> None:
    first, second = look(recorded.SCMI, tmp_path)

    assert isinstance(first.meter, HwmonEnergyMeter)
    assert (first.name, second.name) == ("hwmon:hwmon0:1", "hwmon:hwmon0:2")
    assert "'A72_ENE'" in first.meter.source
    assert first.meter.scope is Scope.PACKAGE
    before = first.meter.read_joules()
    (tmp_path / recorded.HWMON / "hwmon0/energy1_input").write_text("7750000\n")
    assert first.meter.read_joules() - before == pytest.approx(2.25)


def test_a_counter_that_starts_again_is_a_failure(tmp_path: Path) -> None:
    meter = look(recorded.SCMI, tmp_path)[0].meter
    assert meter is not None
    (tmp_path / recorded.HWMON / "hwmon0/energy1_input").write_text("3\n")

    with pytest.raises(MeasurementFailure, match="it went back"):
        meter.read_joules()


def test_two_sensors_are_two_findings(tmp_path: Path) -> None:
    findings = look({**recorded.INA226, **recorded.INA219_OLD}, tmp_path)

    assert [finding.name for finding in findings] == ["hwmon:hwmon1:1", "hwmon:hwmon2:1"]


@pytest.mark.parametrize(
    "files",
    [
        {},
        boards.RPI4,
        boards.X86_HYBRID,
        recorded.ORIN_NANO,
        recorded.without(recorded.INA226, "r1"),
    ],
)
def test_machines_without_such_a_sensor(files: Mapping[str, str], tmp_path: Path) -> None:
    (finding,) = look(files, tmp_path)

    assert (finding.name, finding.state, finding.meter) == ("hwmon", State.ABSENT, None)


def test_a_sensor_that_dies(tmp_path: Path) -> None:
    meter = only(look(recorded.INA226, tmp_path))
    meter.read_joules()
    (tmp_path / recorded.HWMON / "hwmon2/power1_input").unlink()

    with pytest.raises(MeasurementFailure, match="power1_input"):
        meter.read_joules()


def test_without_permission_it_says_how_to_get_it() -> None:
    with open_folder() as root:
        path = boards.lay_out(recorded.INA226, root) / recorded.HWMON / "hwmon2/power1_input"
        path.chmod(0)

        said = as_nobody(lambda: "\n".join(map(str, hwmon.find(root / "sys"))))

    assert "FORBIDDEN" in said
    assert f"sudo chmod a+r {path}" in said


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=30) | st.binary(max_size=30))
def test_whatever_a_file_holds_is_no_crash(text: str | bytes, tmp_path: Path) -> None:
    boards.lay_out(recorded.INA226, tmp_path)
    folder = tmp_path / recorded.HWMON / "hwmon2"
    raw = text if isinstance(text, bytes) else text.encode()
    for name in ("power1_input", "update_interval"):
        (folder / name).write_bytes(raw)

    (finding,) = hwmon.find(tmp_path / "sys")

    assert finding.state in (State.FOUND, State.FAILED)
