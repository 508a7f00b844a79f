"""The INA3221 of Jetson boards, replayed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import boards
import pytest
import recorded
from unprivileged import as_nobody, open_folder

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters import rails
from edgeslm.profiling.meters.base import Scope, State
from edgeslm.profiling.meters.sampled import SampledMeter
from edgeslm.records import Provenance


def found(files: Mapping[str, str], root: Path) -> SampledMeter:
    finding = rails.find(boards.lay_out(files, root) / "sys")
    assert isinstance(finding.meter, SampledMeter), finding.reason
    return finding.meter


@pytest.mark.parametrize(
    ("files", "watts", "scope", "named"),
    [
        (recorded.ORIN_NANO, 5.072 * 1.152, Scope.BOARD, "VDD_IN"),
        (recorded.JETSON_NANO, 5.080 * 0.400, Scope.BOARD, "POM_5V_IN"),
        (
            recorded.AGX_ORIN,
            19.968 * 0.160 + 19.976 * 0.040 + 5.016 * 0.648 + 5.016 * 0.208,
            Scope.PACKAGE,
            "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 + VDDQ_VDD2_1V8AO",
        ),
    ],
)
def test_the_input_alone_or_the_sum(
    files: Mapping[str, str], watts: float, scope: Scope, named: str, tmp_path: Path
) -> None:
    meter = found(files, tmp_path)

    assert meter._integral._read_watts() == pytest.approx(watts)
    assert meter.scope is scope
    assert named in meter.source
    assert "NC" not in meter.source
    assert meter.provenance is Provenance.MEASURED


def test_joules_are_volts_times_amperes_times_seconds(tmp_path: Path) -> None:
    meter = found(recorded.ORIN_NANO, tmp_path)
    ticks = iter([0.0, 0.0, 2.0, 2.0])
    meter._integral._clock = lambda: next(ticks)
    meter._integral.sample()
    (tmp_path / recorded.HWMON / "hwmon1/curr1_input").write_text("2304\n")

    assert meter._integral.sample() == pytest.approx(2 * 5.072 * (1.152 + 2.304) / 2)


def test_a_channel_switched_off_does_not_count(tmp_path: Path) -> None:
    files = {**recorded.AGX_ORIN, f"{recorded.HWMON}/hwmon3/in1_enable": "0\n"}

    assert "VDD_GPU_SOC" not in found(files, tmp_path).source


def test_all_channels_off_is_no_meter(tmp_path: Path) -> None:
    files = recorded.JETSON_NANO | {
        f"{recorded.HWMON}/hwmon2/in{channel}_enable": "0\n" for channel in (1, 2, 3)
    }
    finding = rails.find(boards.lay_out(files, tmp_path) / "sys")

    assert (finding.state, finding.meter) == (State.FAILED, None)


def test_other_machines_have_none(tmp_path: Path) -> None:
    assert rails.find(boards.lay_out(recorded.INA226, tmp_path) / "sys").state is State.ABSENT


@pytest.mark.parametrize("content", ["", "many\n", "5e3\n", "٣\n", "9" * 40])
def test_a_rail_that_is_no_number(content: str, tmp_path: Path) -> None:
    boards.lay_out(recorded.ORIN_NANO, tmp_path)
    (tmp_path / recorded.HWMON / "hwmon1/curr1_input").write_text(content)

    finding = rails.find(tmp_path / "sys")

    assert finding.state is State.FAILED
    assert "curr1_input" in finding.reason


def test_a_rail_that_dies(tmp_path: Path) -> None:
    meter = found(recorded.ORIN_NANO, tmp_path)
    meter.read_joules()
    (tmp_path / recorded.HWMON / "hwmon1/in1_input").write_text("\n")

    with pytest.raises(MeasurementFailure, match="in1_input"):
        meter.read_joules()


def test_without_permission_it_says_how_to_get_it() -> None:
    with open_folder() as root:
        path = boards.lay_out(recorded.ORIN_NANO, root) / recorded.HWMON / "hwmon1/curr1_input"
        path.chmod(0)

        said = as_nobody(lambda: str(rails.find(root / "sys")))

    assert "FORBIDDEN" in said
    assert f"sudo chmod a+r {path}" in said
