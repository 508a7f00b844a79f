"""Batteries, replayed: signs, several, plugged in, charging half way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import boards
import pytest
import recorded
from unprivileged import as_nobody, open_folder

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters import battery
from edgeslm.profiling.meters.base import Finding, Scope, State
from edgeslm.profiling.meters.sampled import SampledMeter

SUPPLIES = "sys/class/power_supply"


def look(files: Mapping[str, str], root: Path) -> Finding:
    return battery.find(boards.lay_out(files, root) / "sys")


def found(files: Mapping[str, str], root: Path) -> SampledMeter:
    finding = look(files, root)
    assert isinstance(finding.meter, SampledMeter), finding.reason
    return finding.meter


@pytest.mark.parametrize(
    ("files", "watts"),
    [
        (recorded.THINKPAD, 6.412),
        (recorded.PHONE_LIKE, 0.412 * 3.92),
        (
            recorded.PHONE_LIKE | {f"{SUPPLIES}/axp20x-battery/current_now": "412000\n"},
            0.412 * 3.92,
        ),
        (
            recorded.THINKPAD
            | {
                f"{SUPPLIES}/BAT1/status": "Discharging\n",
                f"{SUPPLIES}/BAT1/power_now": "-1500000\n",
            },
            6.412 + 1.5,
        ),
    ],
)
def test_watts_whatever_the_sign(files: Mapping[str, str], watts: float, tmp_path: Path) -> None:
    meter = found(files, tmp_path)

    assert meter._integral._read_watts() == pytest.approx(watts)
    assert meter.scope is Scope.BOARD
    assert "hidpp" not in meter.source


def test_joules_by_hand(tmp_path: Path) -> None:
    meter = found(recorded.THINKPAD, tmp_path)
    ticks = iter([0.0, 0.0, 5.0, 5.0])
    meter._integral._clock = lambda: next(ticks)
    meter._integral.sample()
    (tmp_path / SUPPLIES / "BAT0/power_now").write_text("8412000\n")

    assert meter._integral.sample() == pytest.approx(5 * (6.412 + 8.412) / 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"AC/online": "1"}, "plugged in"),
        ({"BAT0/status": "Charging"}, "charging"),
        ({"BAT0/status": "Full"}, "no battery is discharging, but full and not charging"),
        ({"BAT0/status": "Unknown"}, "no battery is discharging"),
    ],
)
def test_only_while_it_discharges(change: dict[str, str], said: str, tmp_path: Path) -> None:
    changed = {f"{SUPPLIES}/{name}": f"{text}\n" for name, text in change.items()}
    finding = look({**recorded.THINKPAD, **changed}, tmp_path)

    assert (finding.state, finding.meter) == (State.ABSENT, None)
    assert said in finding.reason
    assert finding.hint is not None
    assert "Unplug" in finding.hint


def test_plugged_in_half_way_is_a_failure(tmp_path: Path) -> None:
    meter = found(recorded.THINKPAD, tmp_path)
    meter.read_joules()
    (tmp_path / SUPPLIES / "BAT0/status").write_text("Charging\n")

    with pytest.raises(MeasurementFailure, match="a battery is charging"):
        meter.read_joules()


def test_a_mouse_is_no_battery_of_ours(tmp_path: Path) -> None:
    mouse = {name: text for name, text in recorded.PHONE_LIKE.items() if "hidpp" in name}

    assert look(mouse, tmp_path).reason.startswith("no battery")


@pytest.mark.parametrize("content", ["", "-", "full\n", "1.5\n", "--3\n"])
def test_power_that_is_no_number(content: str, tmp_path: Path) -> None:
    finding = look({**recorded.THINKPAD, f"{SUPPLIES}/BAT0/power_now": content}, tmp_path)

    assert (finding.state, finding.meter) == (State.FAILED, None)


def test_neither_power_nor_current(tmp_path: Path) -> None:
    finding = look(recorded.without(recorded.PHONE_LIKE, "current_now"), tmp_path)

    assert finding.state is State.FAILED
    assert "current_now" in finding.reason


def test_without_permission_it_says_how_to_get_it() -> None:
    with open_folder() as root:
        path = boards.lay_out(recorded.THINKPAD, root) / SUPPLIES / "BAT0/power_now"
        path.chmod(0)

        said = as_nobody(lambda: str(battery.find(root / "sys")))

    assert "FORBIDDEN" in said
    assert f"sudo chmod a+r {path}" in said
