"""Which meter is used, what is said of the others, and what happens when one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path

import boards
import pytest
import recorded
from test_plugs import Plug, gen2
from test_rapl import zone

from edgeslm.errors import InvalidOption, MeasurementFailure
from edgeslm.profiling.meters import State, find_meter, look
from edgeslm.profiling.meters.surroundings import Surroundings
from edgeslm.targets.loading import load_target

RPI5 = load_target("rpi5")


@pytest.fixture
def plug() -> Iterator[Plug]:
    server = Plug()
    yield server
    server.close()


def machine(root: Path, *files: Mapping[str, str], **environment: str) -> Surroundings:
    root.mkdir(exist_ok=True)
    for each in files:
        boards.lay_out(each, root)
    programs = root / "bin"
    recorded.install(programs, "vcgencmd", recorded.prints(recorded.PMIC))
    return Surroundings(
        root=root,
        search_path=str(programs),
        system="Linux",
        environment=environment,
        nvml=str(root / "nothing.so"),
        plugins=lambda: (),
    )


def with_rapl(here: Surroundings) -> Surroundings:
    zone(here.root, "intel-rapl:0", "package-0", 5)
    return here


def used(here: Surroundings, **more: str) -> str:
    meter = find_meter(RPI5, here=here, **more).meter
    assert meter is not None
    return meter.name


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda root: with_rapl(machine(root, recorded.INA226, recorded.THINKPAD)), "hwmon"),
        (lambda root: with_rapl(machine(root, recorded.THINKPAD)), "battery"),
        (lambda root: with_rapl(machine(root, recorded.PI5_MODEL)), "rapl"),
        (lambda root: machine(root, recorded.PI5_MODEL), "pmic"),
        (lambda root: machine(root, recorded.ORIN_NANO), "rails"),
        (lambda root: machine(root, recorded.SCMI), "estimated"),
        (lambda root: machine(root), "estimated"),
    ],
)
def test_measured_before_estimated_and_the_board_before_its_parts(
    prepare: Callable[[Path], Surroundings], expected: str, tmp_path: Path
) -> None:
    assert used(prepare(tmp_path)) == expected


def test_what_is_not_used_is_named(tmp_path: Path) -> None:
    here = with_rapl(machine(tmp_path, recorded.INA226, recorded.THINKPAD))
    reasons = find_meter(RPI5, here=here).reasons

    assert reasons[0].startswith("hwmon: ina226")
    assert "rapl: there too, not used: 1 processor package(s)" in reasons
    assert any(reason.startswith("battery: there too") for reason in reasons)
    assert reasons[-1].startswith("not here: rails, pmic, powermetrics")


def test_one_of_several_sensors_is_used_only_by_name(tmp_path: Path) -> None:
    here = machine(tmp_path, recorded.SCMI)

    assert used(here) == "estimated"
    assert used(here, wanted="hwmon:hwmon0:2") == "hwmon"


def test_every_kind_is_looked_for(tmp_path: Path) -> None:
    findings = look(RPI5, here=machine(tmp_path, recorded.PI5_MODEL))
    states = {finding.name: finding.state for finding in findings}

    assert states == {
        "hwmon": State.ABSENT,
        "rails": State.ABSENT,
        "rapl": State.ABSENT,
        "pmic": State.FOUND,
        "battery": State.ABSENT,
        "powermetrics": State.ABSENT,
        "nvml": State.ABSENT,
        "estimated": State.FOUND,
    }


def test_a_plug_is_used_when_its_address_is_given(tmp_path: Path, plug: Plug) -> None:
    gen2(plug, 5.0)
    address = f"shelly://{plug.host}"
    sensor = recorded.INA226

    assert used(machine(tmp_path / "a", sensor), wanted=address) == "shelly"
    assert used(machine(tmp_path / "b", sensor, EDGESLM_METER=address)) == "shelly"
    assert look(here=machine(tmp_path / "c"), wanted=address)[0].state is State.FOUND


def test_what_is_said_comes_before_the_environment(tmp_path: Path) -> None:
    here = with_rapl(machine(tmp_path, recorded.INA226, EDGESLM_METER="rapl"))

    assert used(here) == "rapl"
    assert used(here, wanted="hwmon") == "hwmon"


def test_no_meter_at_all(tmp_path: Path) -> None:
    found = find_meter(RPI5, wanted="none", here=machine(tmp_path, recorded.INA226))

    assert found.meter is None
    assert found.reasons == ("none: as asked for",)


def test_a_meter_that_was_asked_for_and_is_not_there_is_an_error(
    tmp_path: Path, plug: Plug
) -> None:
    here = machine(tmp_path, recorded.INA226)
    plug.close()

    for wanted in ("battery", "nvml", f"shelly://{plug.host}"):
        with pytest.raises(MeasurementFailure, match="cannot be used") as caught:
            find_meter(RPI5, wanted=wanted, here=here)
        assert caught.value.hint
    for wanted in ("voltmeter", "kasa://host"):
        with pytest.raises(InvalidOption) as refused:
            find_meter(RPI5, wanted=wanted, here=here)
        assert refused.value.hint


def test_graphics_cards_are_left_asleep_unless_asked_for(tmp_path: Path) -> None:
    here = machine(tmp_path)

    assert "nvml" not in " ".join(find_meter(RPI5, here=here).reasons)
    assert "nvml" in [finding.name for finding in look(here=here)]


def test_a_broken_plugin_stops_nothing(tmp_path: Path) -> None:
    here = machine(tmp_path, recorded.INA226)
    broken = EntryPoint("mine", "no_such_module_of_anybody:find", "edgeslm.meters")
    here = Surroundings(root=here.root, environment={}, nvml=here.nvml, plugins=lambda: [broken])

    found = find_meter(RPI5, here=here)

    assert found.meter is not None
    assert found.meter.name == "hwmon"
    assert any(reason.startswith("mine: no_such_module") for reason in found.reasons)
