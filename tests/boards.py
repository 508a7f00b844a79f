"""Machines as the files they show: put together from kernels' device trees and documentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_CPU = "sys/devices/system/cpu/cpu{}"


def _core(
    number: int, *, most: int, now: int | None = None, capacity: int | None = None, pair: str = ""
) -> dict[str, str]:
    folder = _CPU.format(number)
    files = {
        f"{folder}/cpufreq/cpuinfo_max_freq": f"{most}\n",
        f"{folder}/cpufreq/scaling_cur_freq": f"{most if now is None else now}\n",
        f"{folder}/topology/thread_siblings_list": f"{pair or number}\n",
    }
    if capacity is not None:
        files[f"{folder}/cpu_capacity"] = f"{capacity}\n"
    return files


def _zone(number: int, kind: str, celsius: float, *trips: tuple[str, float]) -> dict[str, str]:
    folder = f"sys/class/thermal/thermal_zone{number}"
    files = {f"{folder}/type": f"{kind}\n", f"{folder}/temp": f"{round(celsius * 1000)}\n"}
    for index, (trip, degrees) in enumerate(trips):
        files[f"{folder}/trip_point_{index}_type"] = f"{trip}\n"
        files[f"{folder}/trip_point_{index}_temp"] = f"{round(degrees * 1000)}\n"
    return files


def _cooling(number: int, kind: str, state: int) -> dict[str, str]:
    folder = f"sys/class/thermal/cooling_device{number}"
    return {f"{folder}/type": f"{kind}\n", f"{folder}/cur_state": f"{state}\n"}


def _join(*parts: Mapping[str, str]) -> dict[str, str]:
    return {path: text for part in parts for path, text in part.items()}


RPI4 = _join(
    *(_core(number, most=1_800_000, now=1_500_000) for number in range(4)),
    _zone(0, "cpu-thermal", 81.3, ("critical", 110)),
    _cooling(0, "cpufreq-cpu0", 0),
    {"sys/devices/platform/soc/soc:firmware/get_throttled": "60006\n"},
    {"sys/class/hwmon/hwmon1/name": "rpi_volt\n", "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "0\n"},
)
"""Warm: the firmware has capped the clock and throttles, and did before; never undervoltage."""

RPI5 = _join(
    *(_core(number, most=2_400_000) for number in range(4)),
    _zone(0, "cpu-thermal", 61.7, ("critical", 110), ("active", 50), ("active", 60)),
    _cooling(0, "pwm-fan", 2),
    _cooling(1, "cpufreq-cpu0", 0),
    {"sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "0\n"},
)
"""The fan runs; nothing is held back."""

RPI5_WEAK_SUPPLY = _join(
    {path: text for path, text in RPI5.items() if "get_throttled" not in path},
    {"sys/class/hwmon/hwmon2/name": "rpi_volt\n", "sys/class/hwmon/hwmon2/in0_lcrit_alarm": "1\n"},
)
"""A kernel that shows only the voltage monitor."""

RK3588 = _join(
    *(_core(number, most=1_800_000, capacity=414) for number in range(4)),
    *(_core(number, most=2_256_000, capacity=1008) for number in (4, 5)),
    *(_core(number, most=2_304_000, now=1_200_000, capacity=1024) for number in (6, 7)),
    _zone(0, "soc-thermal", 84.1, ("passive", 75), ("passive", 85), ("critical", 115)),
    _zone(1, "bigcore0-thermal", 86.2),
    _zone(2, "littlecore-thermal", 79.0),
    _zone(3, "gpu-thermal", 99.0),
    _zone(4, "npu-thermal", 99.0),
    _cooling(0, "thermal-cpufreq-0", 0),
    _cooling(1, "thermal-cpufreq-2", 4),
)
"""The second pair of large cores is slowed down; the graphics part is warmer, and not ours."""

X86_HYBRID = _join(
    *(_core(number, most=4_700_000, pair=f"{number & ~1}-{number | 1}") for number in range(8)),
    *(_core(number, most=3_500_000) for number in range(8, 16)),
    _zone(0, "acpitz", 27.8, ("critical", 105)),
    _zone(1, "x86_pkg_temp", 58.0),
    _zone(2, "iwlwifi_1", 91.0),
    _cooling(0, "Processor", 0),
    _cooling(1, "intel_powerclamp", -1),
    _cooling(2, "TCC Offset", 3),
)
"""Four fast cores with two threads each, eight slow ones."""

THROTTLED = {
    "throttled=0x0\n": ([], []),
    "throttled=0x50000\n": ([], ["undervoltage", "throttled"]),
    "throttled=0x50005\n": (["undervoltage", "throttled"], ["undervoltage", "throttled"]),
    "throttled=0xe0008\n": (
        ["soft temperature limit"],
        ["frequency capped", "throttled", "soft temperature limit"],
    ),
    "60006\n": (["frequency capped", "throttled"], ["frequency capped", "throttled"]),
}
"""What `vcgencmd get_throttled`, or the file, says; what holds back now, and did since boot."""


def lay_out(files: Mapping[str, str], root: Path) -> Path:
    """Write the files below `root`; returns it."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
