"""Is this machine right: what would make a model slow here, or a measurement wrong, and what helps.

Each check looks at one thing and says `ok`, `note` (worth knowing) or `problem` (figures of this
machine are not what they could be). All files lie under a root, so that a recorded tree gives the
same answers as the board it was recorded on.
"""

from __future__ import annotations

import importlib.util
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from edgeslm import __version__
from edgeslm.errors import NativeFailure
from edgeslm.llama.described import describe_build
from edgeslm.llama.native import BuildInfo
from edgeslm.profiling.meters import (
    NO_METER,
    Finding,
    State,
    asked_for,
    best,
    look,
    wanted_meter,
)
from edgeslm.profiling.meters.surroundings import Surroundings, read_text
from edgeslm.records import Provenance
from edgeslm.runtime.machine import Heat, Sensors, cores_taken
from edgeslm.targets.detection import Detection, Host, detect
from edgeslm.targets.free_memory import free_memory
from edgeslm.targets.loading import load_target
from edgeslm.units import format_bytes

_HERE = Path("/")
_LITTLE_BYTES = 200_000_000
"""A model of 135 million weights in four bits takes about 150 MB."""
_LOAD_SECONDS = 0.5
_BUSY_CORES = 0.15
_LIMITED = 0.97
_CPUFREQ = "sys/devices/system/cpu/cpu{}/cpufreq"
_SELF_RAISING = ("intel_pstate", "intel_cpufreq", "amd-pstate", "amd_pstate")
"""Drivers under which `powersave` raises the clock with the load."""

EXTRAS = {
    "serve": ("starlette", "uvicorn", "msgspec"),
    "quantize": ("numba", "threadpoolctl"),
    "report": ("matplotlib",),
    "sign": ("cryptography",),
    "registry": ("oras",),
    "wheels": ("hatchling", "packaging"),
}
"""What can be installed beside edgeslm, and the modules that this brings."""

_INSTRUCTIONS = {
    "asimd": ("NEON", False),
    "neon": ("NEON", False),
    "asimddp": ("DOTPROD", True),
    "i8mm": ("MATMUL_INT8", True),
    "asimdhp": ("FP16_VA", False),
    "sve": ("SVE", False),
    "ssse3": ("SSSE3", False),
    "avx": ("AVX", True),
    "avx2": ("AVX2", True),
    "f16c": ("F16C", True),
    "fma": ("FMA", True),
    "bmi2": ("BMI2", False),
    "avx_vnni": ("AVX_VNNI", False),
    "avx512f": ("AVX512", False),
    "avx512_vnni": ("AVX512_VNNI", False),
    "avx512_vbmi": ("AVX512_VBMI", False),
    "avx512_bf16": ("AVX512_BF16", False),
    "amx_int8": ("AMX_INT8", False),
}
"""Instruction sets as Linux names them, as ggml does, and whether missing one costs a multiple.

What ggml calls NEON has another name on 32-bit Arm than on 64-bit.
"""


class Level(str, Enum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `hint` says what to do about it."""

    topic: str
    level: Level
    text: str
    hint: str | None = None


@dataclass(frozen=True)
class Checkup:
    """All that was looked at."""

    checks: tuple[Check, ...]
    meters: tuple[Finding, ...]

    @property
    def problems(self) -> int:
        """How many things are wrong."""
        return sum(check.level is Level.PROBLEM for check in self.checks)


def check_machine(
    *,
    wanted: str | None = None,
    here: Surroundings | None = None,
    describe: Callable[[], BuildInfo] = describe_build,
    seconds: float = _LOAD_SECONDS,
) -> Checkup:
    """Look at everything; takes a second.

    Args:
        wanted: A power meter: its address, or its name.
        here: The machine; default: this one.
        describe: Says which build of llama.cpp there is.
        seconds: How long to watch what else computes.

    Raises:
        InvalidOption: there is no such meter.
    """
    here = here or Surroundings()
    detection = detect(here.root)
    target = load_target(detection.target) if detection.target else None
    cores = None if here.root == _HERE else range(detection.host.cores or 1)
    sensors = Sensors(here.root, cores, ask_firmware=here.root == _HERE)
    meters = look(target, wanted=wanted, here=here)
    return Checkup(
        checks=(
            check_board(detection),
            *check_build(detection.host, describe),
            check_memory(here.root),
            check_swap(here.root),
            *check_clock(here.root, sensors),
            *check_heat(sensors.heat()),
            check_load(sensors, seconds),
            check_meters(meters, wanted_meter(wanted, here)),
            *check_extras(),
        ),
        meters=meters,
    )


def check_board(detection: Detection) -> Check:
    """Which board this is."""
    host = detection.host
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    what = f"{host.board or host.cpu or 'unknown machine'}, {system}, edgeslm {__version__}"
    if detection.exact:
        return Check("board", Level.OK, f"{what}: {detection.target}")
    known = f"the closest is {detection.target}" if detection.target else "no target is like it"
    return Check(
        "board",
        Level.NOTE,
        f"{what}: no target file describes it, {known}",
        "Predictions for this machine need its own: edgeslm targets calibrate",
    )


def check_build(host: Host, describe: Callable[[], BuildInfo]) -> list[Check]:
    """Whether llama.cpp can run here, and uses what the processor can do."""
    try:
        build = describe()
    except NativeFailure as error:
        return [Check("llama.cpp", Level.PROBLEM, error.message, error.hint)]
    used = f"llama-cpp-python {build.binding} uses {', '.join(build.features) or 'nothing special'}"
    if not host.features:
        return [Check("llama.cpp", Level.OK, used)]
    rebuild = (
        "Compile it for this processor: pip install --force-reinstall --no-cache-dir --no-deps "
        f"--no-binary llama-cpp-python llama-cpp-python=={build.binding}"
    )
    known = {ours for ours, _ in _INSTRUCTIONS.values()}
    here = {ours for name, (ours, _) in _INSTRUCTIONS.items() if name in host.features}
    alien = [each for each in build.features if each in known - here]
    if alien:
        text = f"{used}, but this processor lacks {', '.join(alien)}: models will end with SIGILL"
        return [Check("llama.cpp", Level.PROBLEM, text, rebuild)]
    unused = [
        (ours, matters)
        for name, (ours, matters) in _INSTRUCTIONS.items()
        if name in host.features and ours not in build.features
    ]
    checks = [Check("llama.cpp", Level.OK, used)]
    if unused:
        matters = any(each for _, each in unused)
        names = ", ".join(ours for ours, _ in unused)
        cost = (
            "reading a prompt takes several times as long" if matters else "that costs some speed"
        )
        level = Level.PROBLEM if matters else Level.NOTE
        text = f"this processor also has {names}, which this build leaves unused: {cost}"
        checks.append(Check("instructions", level, text, rebuild))
    return checks


def check_memory(root: Path) -> Check:
    """What is left for a model."""
    free = free_memory(root)
    text = f"{format_bytes(free.bytes)} for a model: {free.limit}"
    if free.bytes < _LITTLE_BYTES:
        return Check("memory", Level.PROBLEM, text, "Close other programs, or raise the limit.")
    limited = "control group" in free.limit
    hint = "edgeslm inspect MODEL --memory says what a model takes." if limited else None
    return Check("memory", Level.NOTE if limited else Level.OK, text, hint)


def check_swap(root: Path) -> Check:
    """Where memory goes when it runs out."""
    rows = [line.split() for line in read_text(root / "proc/swaps").splitlines()[1:]]
    areas = [(row[0], int(row[2]), int(row[3])) for row in rows if _is_swap(row)]
    if not areas:
        return Check("swap", Level.OK, "none")
    used = sum(kilobytes for _, _, kilobytes in areas) * 1024
    size = sum(kilobytes for _, kilobytes, _ in areas) * 1024
    names = ", ".join(name for name, _, _ in areas)
    text = f"{names}, {format_bytes(size)}, of which {format_bytes(used)} are in use"
    if any("mmcblk" in name for name, _, _ in areas):
        return Check(
            "swap", Level.NOTE, f"{text}: on a memory card", "zram is faster and spares the card."
        )
    return Check("swap", Level.OK, text)


def _is_swap(row: list[str]) -> bool:
    return len(row) >= 4 and row[2].isdecimal() and row[3].isdecimal()


def check_clock(root: Path, sensors: Sensors) -> list[Check]:
    """Whether the processor is allowed to run as fast as it can."""
    folders = [root / _CPUFREQ.format(core) for core in sensors.cores]
    checks = _check_governor(folders)
    clock = sensors.clock()
    if clock is None:
        return [*checks, Check("clock", Level.OK, "the system does not tell")]
    text = f"{clock.megahertz:.0f} MHz now, {clock.most_megahertz:.0f} MHz at most"
    least = min(map(_limit, folders))
    if least >= _LIMITED:
        return [*checks, Check("clock", Level.OK, text)]
    hint = (
        "Look at scaling_max_freq in /sys/devices/system/cpu/cpu0/cpufreq, and at what sets it: "
        "cpufrequtils, tlp, a power profile."
    )
    text = f"{text}, limited to {least:.0%} of that"
    return [*checks, Check("clock", Level.PROBLEM, text, hint)]


def _check_governor(folders: list[Path]) -> list[Check]:
    """Who sets the clock, where anybody says."""
    governors = sorted({text for each in folders if (text := read_text(each / "scaling_governor"))})
    drivers = [read_text(each / "scaling_driver") for each in folders]
    if not governors:
        return []
    names = ", ".join(governors)
    if "powersave" not in governors or any(each.startswith(_SELF_RAISING) for each in drivers):
        return [Check("governor", Level.OK, names)]
    hint = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    return [Check("governor", Level.PROBLEM, f"{names}: it keeps the lowest clock", hint)]


def _limit(folder: Path) -> float:
    """Which part of its highest clock a core is allowed; 1 where nobody says."""
    allowed, most = read_text(folder / "scaling_max_freq"), read_text(folder / "cpuinfo_max_freq")
    if not (allowed.isdecimal() and most.isdecimal() and int(most)):
        return 1.0
    return int(allowed) / int(most)


def check_heat(heat: Heat) -> list[Check]:
    """How warm it is, and what holds the processor back, or did."""
    cooling = "Give it a heat sink, a fan, or air."
    supply = "Use a supply and a cable that give what the board needs: 5 V and 5 A for a Pi 5."
    if heat.celsius is None:
        checks = [Check("temperature", Level.OK, "the system does not tell")]
    else:
        warm = heat.celsius >= heat.limit_celsius
        text = f"{heat.celsius:.0f} °C; it slows down at {heat.limit_celsius:.0f} °C"
        level = Level.PROBLEM if warm else Level.OK
        checks = [Check("temperature", level, text, cooling if warm else None)]
    for names, level, when in (
        (heat.held_back, Level.PROBLEM, "now"),
        (heat.since_boot, Level.NOTE, "since it was switched on"),
    ):
        if names:
            hint = supply if "undervoltage" in names else cooling
            checks.append(Check("throttling", level, f"{', '.join(names)} {when}", hint))
    if len(checks) == 1:
        checks.append(Check("throttling", Level.OK, "nothing holds the processor back"))
    return checks


def check_load(sensors: Sensors, seconds: float) -> Check:
    """What other programs compute."""
    before = sensors.cpu_times()
    time.sleep(seconds if before else 0)
    after = sensors.cpu_times()
    if before is None or after is None:
        return Check("load", Level.OK, "the system does not tell")
    taken = cores_taken(before, after)
    others = taken.others + taken.polite
    text = f"other programs take the time of {others:.1f} of {len(sensors.cores)} cores"
    if others > _BUSY_CORES:
        hint = "See which with top, and end them before measuring."
        return Check("load", Level.PROBLEM, text, hint)
    return Check("load", Level.OK, text)


def check_meters(meters: tuple[Finding, ...], wanted: str | None = None) -> Check:
    """What measures energy here: the meter asked for, or the one that a profile would take.

    Raises:
        InvalidOption: no meter is called `wanted`.
    """
    topic = "energy"
    if wanted == NO_METER:
        return Check(topic, Level.NOTE, "no meter is wanted, so joules are unknown")
    chosen = best(meters) if wanted is None else asked_for(wanted, meters)
    if chosen is not None and chosen.meter is None:
        return Check(topic, Level.PROBLEM, f"{chosen.name}: {chosen.reason}", chosen.hint)
    if chosen is None or chosen.meter is None:
        return Check(topic, Level.NOTE, "unknown: nothing measures it", _meter_hint(meters))
    meter = chosen.meter
    text = f"{meter.provenance.value} by {chosen.name}, which covers the {meter.scope.value}"
    if meter.provenance is Provenance.MEASURED:
        return Check(topic, Level.OK, text)
    return Check(topic, Level.NOTE, text, _meter_hint(meters))


def _meter_hint(meters: tuple[Finding, ...]) -> str:
    """How to get a better one."""
    for finding in meters:
        if finding.state is State.FORBIDDEN and finding.hint:
            return f"{finding.name}: {finding.hint}"
    several = [finding.name for finding in meters if finding.name.startswith("hwmon:")]
    if several:
        return f"Choose the sensor that measures the board: --meter {' or '.join(several)}"
    return "A smart plug measures: --meter shelly://HOST or tasmota://HOST, or in EDGESLM_METER."


def check_extras() -> list[Check]:
    """What is installed beside the program itself."""
    checks = []
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            text = f"not installed: {', '.join(missing)}"
            hint = f"If you need it here: pip install 'edgeslm[{extra}]'"
            checks.append(Check(f"extra {extra}", Level.NOTE, text, hint))
        else:
            checks.append(Check(f"extra {extra}", Level.OK, "installed"))
    return checks
