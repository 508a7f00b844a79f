"""What is said of machines: recorded ones, sound and not, and this one."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import boards
import pytest

from edgeslm.errors import InvalidOption, NativeFailure
from edgeslm.llama.native import BuildInfo
from edgeslm.profiling import checkup
from edgeslm.profiling.checkup import Check, Checkup, Level, check_machine
from edgeslm.profiling.meters.surroundings import Surroundings
from edgeslm.runtime.machine import Heat

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent.parent
CPU = "sys/devices/system/cpu/cpu0/cpufreq"
ARM = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp"
DOTPROD = BuildInfo("0.3.36", ("NEON", "ARM_FMA", "FP16_VA", "DOTPROD", "OPENMP", "REPACK"))
BASELINE = BuildInfo("0.3.36", ("NEON", "ARM_FMA", "OPENMP", "REPACK"))
PI5 = {
    **boards.RPI5,
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    "proc/cpuinfo": "".join(
        f"processor\t: {core}\nFeatures\t: {ARM}\nCPU part\t: 0xd0b\n\n" for core in range(4)
    ),
    "proc/meminfo": "MemTotal:        8256752 kB\nMemAvailable:    7512344 kB\n",
    "proc/self/status": "RssAnon:\t   20000 kB\nRssFile:\t   10000 kB\n",
    "proc/self/cgroup": "0::/\n",
    "proc/self/mountinfo": "",
    "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n",
    **{
        f"sys/devices/system/cpu/cpu{core}/cpufreq/{name}": text
        for core in range(4)
        for name, text in (
            ("scaling_governor", "ondemand\n"),
            ("scaling_driver", "cpufreq-dt\n"),
            ("scaling_max_freq", "2400000\n"),
        )
    },
}
"""A Raspberry Pi 5 with nothing wrong."""


def look(root: Path, files: Mapping[str, str], build: BuildInfo = DOTPROD, **more: str) -> Checkup:
    boards.lay_out(files, root)
    here = Surroundings(
        root=root,
        search_path=str(root),
        system="Linux",
        environment={},
        nvml=str(root / "none.so"),
        plugins=lambda: (),
    )
    return check_machine(here=here, describe=lambda: build, seconds=0, **more)


def the(topic: str, checks: Iterable[Check]) -> Check:
    (found,) = [check for check in checks if check.topic == topic]
    return found


def test_nothing_is_wrong_with_a_sound_board(tmp_path: Path) -> None:
    found = look(tmp_path, PI5)

    assert found.problems == 0
    assert [check.topic for check in found.checks if check.level is not Level.OK] == ["energy"]
    assert the("board", found.checks).text.endswith(": rpi5-8gb")
    assert the("clock", found.checks).text == "2400 MHz now, 2400 MHz at most"
    assert the("memory", found.checks).text.startswith("7.71 GB for a model")
    assert the("temperature", found.checks).text == "62 °C; it slows down at 85 °C"


def test_every_problem_and_note_says_what_to_do(tmp_path: Path) -> None:
    files = PI5 | {
        f"{CPU}/scaling_governor": "powersave\n",
        f"{CPU}/scaling_max_freq": "1500000\n",
        "proc/meminfo": "MemTotal: 8256752 kB\nMemAvailable: 90000 kB\n",
        "proc/swaps": "Filename Type Size Used Priority\n/dev/mmcblk0p3 partition 524284 99 -2\n",
    }
    found = look(tmp_path, files, BASELINE)

    assert found.problems == 4
    assert all(check.hint for check in found.checks if check.level is not Level.OK)
    assert "powersave" in the("governor", found.checks).text
    assert the("clock", found.checks).text.endswith("limited to 62% of that")
    assert the("memory", found.checks).level is Level.PROBLEM
    assert "on a memory card" in the("swap", found.checks).text


def test_neon_is_known_by_its_name_on_32_bits(tmp_path: Path) -> None:
    features = "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm"
    files = PI5 | {"proc/cpuinfo": f"processor\t: 0\nFeatures\t: {features}\nCPU part\t: 0xd03\n"}
    with_neon = look(tmp_path, files, BASELINE).checks
    assert the("llama.cpp", with_neon).level is Level.OK
    assert not [check for check in with_neon if check.topic == "instructions"]
    without = look(tmp_path, files, BuildInfo("0.3.36", ("OPENMP",))).checks
    assert "NEON" in the("instructions", without).text


def test_a_baseline_build_on_a_board_that_can_do_more(tmp_path: Path) -> None:
    check = the("instructions", look(tmp_path, PI5, BASELINE).checks)

    assert check.level is Level.PROBLEM
    assert "DOTPROD, FP16_VA" in check.text
    assert check.hint is not None
    assert "--no-binary llama-cpp-python llama-cpp-python==0.3.36" in check.hint


def test_a_build_for_a_processor_that_can_do_more(tmp_path: Path) -> None:
    build = BuildInfo("0.3.36", (*DOTPROD.features, "MATMUL_INT8"))
    check = the("llama.cpp", look(tmp_path, PI5, build).checks)

    assert check.level is Level.PROBLEM
    assert "lacks MATMUL_INT8" in check.text


def test_what_is_nice_to_have_is_a_note(tmp_path: Path) -> None:
    files = PI5 | {"proc/cpuinfo": PI5["proc/cpuinfo"].replace("asimddp", "asimddp sve")}
    check = the("instructions", look(tmp_path, files).checks)

    assert (check.level, "SVE" in check.text) == (Level.NOTE, True)


def test_a_build_that_cannot_be_loaded(tmp_path: Path) -> None:
    def fails() -> BuildInfo:
        raise NativeFailure("SIGILL", hint="Reinstall it.")

    host = checkup.detect(boards.lay_out(PI5, tmp_path)).host
    assert checkup.check_build(host, fails) == [
        Check("llama.cpp", Level.PROBLEM, "SIGILL", "Reinstall it.")
    ]


@pytest.mark.parametrize("driver", ["intel_pstate", "amd-pstate-epp"])
def test_powersave_is_fine_where_the_hardware_raises_the_clock(driver: str, tmp_path: Path) -> None:
    files = PI5 | {f"{CPU}/scaling_governor": "powersave\n", f"{CPU}/scaling_driver": driver}

    assert the("governor", look(tmp_path, files).checks).level is Level.OK


def test_heat_now_and_before() -> None:
    fine, weak = checkup.check_heat(Heat(70.4, 85, (), ("undervoltage",)))
    assert (fine.level, fine.text) == (Level.OK, "70 °C; it slows down at 85 °C")
    assert (weak.level, weak.text) == (Level.NOTE, "undervoltage since it was switched on")
    assert weak.hint is not None
    assert "supply" in weak.hint

    hot, now, before = checkup.check_heat(Heat(86.0, 85, ("throttled",), ("throttled",)))
    assert (hot.level, now.level, before.level) == (Level.PROBLEM, Level.PROBLEM, Level.NOTE)
    assert now.text == "throttled now"
    assert now.hint is not None
    assert "fan" in now.hint


def test_a_warm_raspberry_pi_4(tmp_path: Path) -> None:
    found = look(tmp_path, boards.RPI4)
    texts = [check.text for check in found.checks if check.topic == "throttling"]

    assert texts == [
        "frequency capped, throttled now",
        "frequency capped, throttled since it was switched on",
    ]


def test_the_limit_of_a_container_is_named(tmp_path: Path) -> None:
    files = PI5 | {
        "proc/self/cgroup": "0::/box\n",
        "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "sys/fs/cgroup/box/memory.max": "536870912\n",
        "sys/fs/cgroup/box/memory.current": "100000000\n",
        "sys/fs/cgroup/box/memory.stat": "inactive_file 0\nactive_file 0\nfile_mapped 10240000\n",
    }
    check = the("memory", look(tmp_path, files).checks)

    assert check.level is Level.NOTE
    assert "control group" in check.text


@pytest.mark.parametrize(
    ("lines", "level", "text"),
    [
        ("", Level.OK, "none"),
        ("/dev/zram0 partition 2097148 1024 100\n", Level.OK, "/dev/zram0, 2.15 GB"),
        ("/dev/mmcblk0p2 partition 102396 0 -2\n", Level.NOTE, "on a memory card"),
        ("odd line\n", Level.OK, "none"),
    ],
)
def test_swap(lines: str, level: Level, text: str, tmp_path: Path) -> None:
    boards.lay_out({"proc/swaps": f"Filename Type Size Used Priority\n{lines}"}, tmp_path)
    check = checkup.check_swap(tmp_path)

    assert check.level is level
    assert text in check.text


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    found = look(tmp_path, {})

    assert the("board", found.checks).level is Level.NOTE
    assert the("temperature", found.checks).text == "the system does not tell"
    assert the("load", found.checks).text == "the system does not tell"
    assert the("energy", found.checks).text == "unknown: nothing measures it"


def test_others_that_compute_are_a_problem() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            check = checkup.check_load(checkup.Sensors(), 1.0)
        finally:
            busy.kill()

    assert check.level is Level.PROBLEM
    assert check.hint


def test_energy_is_what_a_profile_would_take(tmp_path: Path) -> None:
    files = PI5 | {
        "sys/class/hwmon/hwmon3/name": "ina219\n",
        "sys/class/hwmon/hwmon3/power1_input": "4000000\n",
    }
    found = look(tmp_path, files)

    assert the("energy", found.checks).text == "measured by hwmon, which covers the board"
    assert "hwmon" in [finding.name for finding in found.meters]


def test_several_sensors_have_to_be_chosen_from(tmp_path: Path) -> None:
    files = PI5 | {
        f"sys/class/hwmon/hwmon{number}/{name}": text
        for number in (3, 4)
        for name, text in (("name", "ina219\n"), ("power1_input", "4000000\n"))
    }
    check = the("energy", look(tmp_path, files).checks)

    assert check.level is Level.NOTE
    assert check.hint is not None
    assert "--meter hwmon:hwmon3:1 or hwmon:hwmon4:1" in check.hint


def test_the_meter_that_was_asked_for(tmp_path: Path) -> None:
    assert the("energy", look(tmp_path, PI5, wanted="rapl").checks).level is Level.PROBLEM
    assert the("energy", look(tmp_path, PI5, wanted="none").checks).level is Level.NOTE
    with pytest.raises(InvalidOption):
        look(tmp_path, PI5, wanted="voltmeter")
    with pytest.raises(InvalidOption):
        look(tmp_path, PI5, wanted="http://host")


def test_the_extras_are_those_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    names = {
        extra: tuple(re.split("[<>=~! ]", each)[0] for each in needed)
        for extra, needed in extras.items()
        if extra != "dev"
    }

    assert names == checkup.EXTRAS


def test_an_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checkup.EXTRAS, "serve", ("json", "no_such_module"))
    check = the("extra serve", checkup.check_extras())

    assert (check.level, check.text) == (Level.NOTE, "not installed: no_such_module")
    assert check.hint is not None
    assert "pip install 'edgeslm[serve]'" in check.hint
