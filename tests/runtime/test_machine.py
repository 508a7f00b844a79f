"""What boards' files say: how warm, how fast, held back by what, and who else computes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import boards
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.runtime import governor, machine
from edgeslm.runtime.cores import clusters, core_sets, quota_cores
from edgeslm.runtime.machine import CpuTimes, Sensors, Taken, cores_taken, parse_throttled


@pytest.mark.parametrize(
    ("files", "cores", "celsius", "limit", "held_back"),
    [
        (boards.RPI4, 4, 81.3, 85.0, ("frequency capped", "throttled")),
        (boards.RPI5, 4, 61.7, 85.0, ()),
        (boards.RPI5_WEAK_SUPPLY, 4, 61.7, 85.0, ("undervoltage",)),
        (boards.RK3588, 8, 86.2, 85.0, ("throttled",)),
        (boards.X86_HYBRID, 16, 58.0, 85.0, ()),
        ({}, 2, None, 85.0, ()),
    ],
)
def test_boards_say_how_warm_they_are(
    files: Mapping[str, str],
    cores: int,
    celsius: float | None,
    limit: float,
    held_back: tuple[str, ...],
    tmp_path: Path,
) -> None:
    heat = Sensors(boards.lay_out(files, tmp_path), range(cores)).heat()
    assert (heat.celsius, heat.limit_celsius, heat.held_back) == (celsius, limit, held_back)
    assert heat.presses == bool(held_back)


@pytest.mark.parametrize(
    ("sensor", "is_one"),
    [
        *((name, True) for name in ("cpu_thermal", "soc-thermal", "bigcore0-thermal", "acpitz")),
        *((name, True) for name in ("coretemp", "k10temp", "x86_pkg_temp")),
        *((name, False) for name in ("nvme", "iwlwifi_1", "gpu-thermal", "npu-thermal")),
    ],
)
def test_the_processor_has_the_same_sensors_wherever_they_are_read(
    sensor: str, is_one: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone = "sys/class/thermal/thermal_zone0"
    boards.lay_out({f"{zone}/type": f"{sensor}\n", f"{zone}/temp": "61000\n"}, tmp_path)
    seen = {sensor: [SimpleNamespace(current=61.0)]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: seen, raising=False)
    expected = 61.0 if is_one else None
    assert Sensors(tmp_path, (0,)).heat().celsius == expected
    assert governor.machine_figures().get("temperature_celsius") == expected


def test_warmth_presses_before_anything_holds_back(tmp_path: Path) -> None:
    root = boards.lay_out(boards.RPI5, tmp_path)
    zone = root / "sys/class/thermal/thermal_zone0/temp"
    for celsius, presses in ((84.9, False), (85.0, True)):
        zone.write_text(f"{round(celsius * 1000)}\n")
        assert Sensors(root, range(4)).heat().presses == presses


def test_a_reading_that_cannot_be_is_none(tmp_path: Path) -> None:
    root = boards.lay_out(boards.RPI5, tmp_path)
    for text in ("", "hot", "-274000", "999999999"):
        (root / "sys/class/thermal/thermal_zone0/temp").write_text(text)
        assert Sensors(root, range(4)).heat().celsius is None


def test_clocks_are_those_of_the_allowed_cores(tmp_path: Path) -> None:
    root = boards.lay_out(boards.RK3588, tmp_path)
    clock = Sensors(root, (6, 7)).clock()
    assert clock is not None
    assert (clock.megahertz, clock.most_megahertz) == (1200.0, 2304.0)
    assert Sensors(tmp_path / "nothing", (0,)).clock() is None


@pytest.mark.parametrize(("said", "meaning"), boards.THROTTLED.items())
def test_firmware_flags(said: str, meaning: tuple[list[str], list[str]]) -> None:
    assert parse_throttled(said) == meaning


def test_firmware_is_asked_only_where_no_file_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_vcgencmd", lambda: "throttled=0x50005\n")
    assert Sensors(tmp_path, (0,), ask_firmware=True).heat().held_back == (
        "undervoltage",
        "throttled",
    )
    assert Sensors(tmp_path, (0,)).heat().held_back == ()
    root = boards.lay_out(boards.RPI5, tmp_path / "rpi5")
    assert Sensors(root, (0,), ask_firmware=True).heat().held_back == ()


def test_a_firmware_that_is_not_there_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    heat = Sensors(tmp_path, (0,), ask_firmware=True).heat()
    assert (heat.held_back, heat.since_boot) == ((), ())


@given(st.text(max_size=30))
def test_whatever_the_firmware_says_is_read_or_refused(said: str) -> None:
    try:
        now, since = parse_throttled(said)
    except ValueError:
        return
    assert {*now, *since} <= {*machine._FLAGS.values()}


STAT = """\
cpu  999999 0 0 9999999 0 0 0 0 0 0
cpu0 {user} 10 20 500 7 3 2 {steal} 40 0
cpu1 100 0 0 900 0 0 0 0 0 0
cpu2 7777 0 0 0 0 0 0 0 0 0
intr 1 2 3
"""


def test_busy_time_is_that_of_the_allowed_cores_with_what_was_stolen(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    stat = tmp_path / "proc" / "stat"
    stat.write_text(STAT.format(user=100, steal=5))
    sensors = Sensors(tmp_path, (0, 1))
    first = sensors.cpu_times()
    assert first is not None
    assert first.all_seconds * sensors._ticks == pytest.approx(100 + 10 + 20 + 3 + 2 + 5 + 100)
    stat.write_text(STAT.format(user=150, steal=55))
    second = sensors.cpu_times()
    assert second is not None
    assert (second.all_seconds - first.all_seconds) * sensors._ticks == pytest.approx(100)
    stat.write_text("cpu0 1 x\n")
    assert sensors.cpu_times() is None
    assert Sensors(tmp_path / "none", (0,)).cpu_times() is None


def test_what_others_took_is_what_we_did_not() -> None:
    assert cores_taken(CpuTimes(0, 10, 1), CpuTimes(2, 13, 2)) == Taken(0.5, 1.0, 0.0)
    assert cores_taken(CpuTimes(0, 10, 1), CpuTimes(2, 11, 2.5)) == Taken(0.75, 0.0, 0.0)
    assert cores_taken(CpuTimes(0, 0, 0, 0), CpuTimes(2, 4, 1, 2)) == Taken(0.5, 0.5, 1.0)


@pytest.mark.parametrize(("own", "polite"), [(0, 10), (-19, 10), (1, 0)])
def test_low_priority_is_told_apart_unless_ours_is_low(
    own: int, polite: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "nice", lambda _: own)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "stat").write_text(STAT.format(user=100, steal=5))
    sensors = Sensors(tmp_path, (0, 1))
    times = sensors.cpu_times()
    assert times is not None
    assert times.polite_seconds * sensors._ticks == pytest.approx(polite)


@pytest.mark.parametrize(
    ("files", "count", "fast", "physical", "sets"),
    [
        (boards.RPI4, 4, (0, 1, 2, 3), 4, (None,)),
        (boards.RK3588, 8, (4, 5, 6, 7), 4, (None, (4, 5, 6, 7))),
        (boards.X86_HYBRID, 16, tuple(range(8)), 4, (None, tuple(range(8)))),
        ({}, 2, (0, 1), 2, (None,)),
    ],
)
def test_clusters_the_fastest_first(
    files: Mapping[str, str],
    count: int,
    fast: tuple[int, ...],
    physical: int,
    sets: tuple[tuple[int, ...] | None, ...],
    tmp_path: Path,
) -> None:
    found = clusters(boards.lay_out(files, tmp_path) / "sys/devices/system/cpu", range(count))
    assert (found[0].cores, found[0].physical) == (fast, physical)
    assert sorted(core for each in found for core in each.cores) == list(range(count))
    assert core_sets(found) == sets


def test_three_clusters_are_tried_from_the_fastest_on(tmp_path: Path) -> None:
    capacities = [250] * 4 + [800] * 3 + [1024]
    files = {f"cpu{core}/cpu_capacity": f"{capacity}\n" for core, capacity in enumerate(capacities)}
    found = clusters(boards.lay_out(files, tmp_path), range(8))
    assert core_sets(found) == (None, (7,), (4, 5, 6, 7))


_V2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
_V1 = "39 31 0:36 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.mark.parametrize(
    ("own", "above", "cores"),
    [
        ("max 100000", "max 100000", None),
        ("150000 100000", "max 100000", 1.5),
        ("max 100000", "50000 100000", 0.5),
        ("150000 100000", "400000 100000", 1.5),
        ("400000 100000", "50000 100000", 0.5),
        ("", "max", None),
        ("x y", "0 100000", None),
        ("100000 0", "100000", None),
    ],
)
def test_a_service_gets_what_its_tightest_group_does(
    own: str, above: str, cores: float | None, tmp_path: Path
) -> None:
    folder = "sys/fs/cgroup/system.slice"
    files = {
        "proc/self/cgroup": "0::/system.slice/edgeslm.service\n",
        "proc/self/mountinfo": _V2,
        f"{folder}/edgeslm.service/cpu.max": f"{own}\n",
        f"{folder}/cpu.max": f"{above}\n",
    }
    assert quota_cores(boards.lay_out(files, tmp_path)) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", None), ("200000", 2.0), ("50000", 0.5)])
def test_version_1_has_two_files(quota: str, cores: float | None, tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/cpu/board"
    files = {
        "proc/self/cgroup": "1:cpu,cpuacct:/board\n0::/\n",
        "proc/self/mountinfo": _V1,
        f"{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"{folder}/cpu.cfs_period_us": "100000\n",
    }
    assert quota_cores(boards.lay_out(files, tmp_path)) == cores


def test_a_container_that_hides_proc_is_given_what_its_top_says(tmp_path: Path) -> None:
    assert quota_cores(tmp_path) is None
    boards.lay_out({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, tmp_path)
    assert quota_cores(tmp_path) == 1.5
