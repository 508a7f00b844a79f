"""Which target this machine is, and why.

A board names itself: in the device tree on ARM, in the CPU's name on x86 and on a Mac. Each
target file says which names are its own. The files read all lie under `root`, so that a
recorded tree gives the same answer as the board it was recorded on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from edgeslm import processor
from edgeslm.files import small_text

if TYPE_CHECKING:
    from edgeslm.targets.target import Target

_X86_FALLBACK = "laptop-x86"
_CPU_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0b": "Cortex-A76",
    "0xd42": "Cortex-A78AE",
}
"""Part numbers of /proc/cpuinfo, from Arm's technical reference manuals (MIDR_EL1)."""


@dataclass(frozen=True)
class Host:
    """What the machine says about itself; None or empty where it says nothing."""

    board: str | None
    cpu: str | None
    cores: int | None
    features: tuple[str, ...]
    memory_bytes: int | None


@dataclass(frozen=True)
class Detection:
    """The target that fits this machine best.

    `exact` is True where the board named itself and has a memory size that its target states;
    otherwise the target is only the closest one, or None, and `reasons` say what is missing.
    """

    target: str | None
    exact: bool
    reasons: tuple[str, ...]
    host: Host


def detect(root: Path = Path("/")) -> Detection:
    """Compare the machine whose files lie under `root` with every shipped target."""
    from edgeslm.targets.loading import boards  # who only describes the host reads none

    compatible = _compatible(root)
    host = describe_host(root)
    for board in boards():
        if (reason := _evidence(board, host, compatible)) is not None:
            return _choose_variant(board, host, reason)
    return _no_match(root, host)


def describe_host(root: Path = Path("/")) -> Host:
    """What the machine whose files lie under `root` says about itself."""
    return _macos_host() if _is_macos(root) else _linux_host(root)


def _evidence(board: Target, host: Host, compatible: tuple[str, ...]) -> str | None:
    """Why `host` is this board, or None where it isn't."""
    for name in board.match.device_tree:
        if name in compatible:
            return f"the device tree is compatible with {name}"
        if host.board is not None and _is_model(host.board, name):
            return f"the device tree's model is {host.board!r}"
    if host.cpu is not None and host.cpu in board.match.cpu:
        return f"the CPU is {host.cpu}"
    return None


def _is_model(model: str, name: str) -> bool:
    """Whether a device tree's model is `name`, in whichever revision; not its Plus or Pro."""
    return model == name or model.startswith(f"{name} Rev")


def _choose_variant(board: Target, host: Host, reason: str) -> Detection:
    """The smallest memory size that holds what the system sees, since firmware keeps some."""
    from edgeslm.targets.loading import variants_of

    variants = variants_of(board.board)
    if len(variants) == 1 and variants[0].memory.total_bytes.value is None:
        return Detection(variants[0].id, True, (reason,), host)
    memory = host.memory_bytes
    if memory is None:
        why = f"its memory size is unknown, so {board.id} stands for the board"
        return Detection(board.id, False, (reason, why), host)
    seen = f"{memory / 2**30:.1f} GiB of memory visible"
    sizes = {variant.id: variant.memory.total_bytes.value or 0.0 for variant in variants}
    for name, total in sizes.items():
        if total / 2 < memory <= total:
            return Detection(name, True, (reason, f"{seen}, so it is {name}"), host)
    closest = min(sizes, key=lambda name: abs(sizes[name] - memory))
    which = f"a size that no variant has; {closest} is the closest"
    why = f"{seen}, {which if len(sizes) > 1 else f'not the memory of {closest}'}"
    return Detection(closest, False, (reason, why), host)


def _no_match(root: Path, host: Host) -> Detection:
    names = " and ".join(repr(name) for name in (host.board, host.cpu) if name)
    reason = f"no target file names {names}" if names else "the machine does not name itself"
    if not _is_x86(root):
        return Detection(None, False, (reason,), host)
    fallback = f"no better match for an x86 machine than {_X86_FALLBACK}; its speeds may differ"
    return Detection(_X86_FALLBACK, False, (reason, fallback), host)


def _is_macos(root: Path) -> bool:
    return sys.platform == "darwin" and root == Path("/")


def _is_x86(root: Path) -> bool:
    return any(cpu.get("vendor_id") for cpu in _processors(root))


def _linux_host(root: Path) -> Host:
    processors = _processors(root)
    return Host(
        board=_device_tree_model(root) or _dmi_board(root),
        cpu=_cpu_name(processors),
        cores=len(processors) or None,
        features=processor.common_features(processors),
        memory_bytes=_memory_bytes(root),
    )


def _macos_host() -> Host:
    return Host(
        board=_sysctl("hw.model"),
        cpu=_sysctl("machdep.cpu.brand_string"),
        cores=os.cpu_count(),
        features=(),
        memory_bytes=psutil.virtual_memory().total,
    )


def _sysctl(name: str) -> str | None:
    """A value of macOS's sysctl, or None where it has none."""
    try:
        result = subprocess.run(
            ["sysctl", "-n", name], capture_output=True, text=True, check=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def _device_tree_model(root: Path) -> str | None:
    return small_text(root / "proc/device-tree/model").strip("\0\n ") or None


def _compatible(root: Path) -> tuple[str, ...]:
    names = small_text(root / "proc/device-tree/compatible").split("\0")
    return tuple(name for name in names if name)


def _dmi_board(root: Path) -> str | None:
    """Vendor and product as the firmware of a PC gives them."""
    folder = root / "sys/class/dmi/id"
    parts = (small_text(folder / name) for name in ("sys_vendor", "product_name"))
    return " ".join(part for part in parts if part) or None


def _processors(root: Path) -> list[dict[str, str]]:
    """One dictionary per logical processor of /proc/cpuinfo."""
    return processor.listed(small_text(root / "proc/cpuinfo"))


def _cpu_name(processors: list[dict[str, str]]) -> str | None:
    """The model's name; on ARM the kinds of core, since the kernel gives only part numbers."""
    names: list[str] = []
    for cpu in processors:
        name = cpu.get("model name") or _CPU_PARTS.get(cpu.get("CPU part", ""))
        if name and name not in names:
            names.append(name)
    return " + ".join(names) or None


def _memory_bytes(root: Path) -> int | None:
    for line in small_text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        fields = value.split()
        if name == "MemTotal" and fields and fields[0].isdecimal():
            return int(fields[0]) * 1024
    return None
