"""Which processor programs see here, and what it can do, by the names that Linux gives it.

On 64-bit ARM the kernel hands every process the same as bits (the auxiliary vector), and those are
right where /proc/cpuinfo is another machine's: under emulation of single programs.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_OTHER_NAMES = {"arm64": "aarch64", "amd64": "x86_64", "armv8l": "armv7l"}
_IN_32_BITS = {"aarch64": "armv7l", "x86_64": "i686"}
_HWCAP, _HWCAP2 = 16, 26
"""Entries of the auxiliary vector (`man getauxval`)."""

_ARM = (
    ("fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma")
    + (" lrcpc dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb")
    + (" paca pacg")
).split()
_ARM_MORE = (
    ("dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm")
    + (" svebf16 i8mm bf16 dgh rng bti mte ecv afp rpres mte3 sme")
).split()
"""Names of the bits, lowest first (Linux, arch/arm64/include/uapi/asm/hwcap.h)."""


def architecture() -> str:
    """That of this Python, as Linux names it: a 64-bit kernel runs 32-bit programs too."""
    machine = _OTHER_NAMES.get(platform.machine(), platform.machine())
    return machine if sys.maxsize > 1 << 32 else _IN_32_BITS.get(machine, machine)


def arm_features(hwcap: int, hwcap2: int) -> tuple[str, ...]:
    """What the two words of bits say, by name; bits without a name here are left out."""
    words = ((_ARM, hwcap), (_ARM_MORE, hwcap2))
    return tuple(name for names, bits in words for at, name in enumerate(names) if bits >> at & 1)


@cache
def features() -> tuple[str, ...]:
    """What every core of this machine can do; empty where nobody says.

    Linux on 64-bit ARM hands every process what all cores have in common.
    """
    if platform.system() != "Linux":
        return ()
    if architecture() == "aarch64":  # 32-bit programs are handed bits with other meanings
        words = _auxiliary()
        if words is not None:
            return arm_features(*words)
    return common_features(listed(_cpuinfo()))


def listed(cpuinfo: str) -> list[dict[str, str]]:
    """One dictionary per logical processor that a text of /proc/cpuinfo describes."""
    found: list[dict[str, str]] = []
    for block in cpuinfo.split("\n\n"):
        lines = (line.partition(":") for line in block.splitlines())
        fields = {key.strip(): value.strip() for key, separator, value in lines if separator}
        if "processor" in fields:
            found.append(fields)
    return found


def common_features(processors: Sequence[dict[str, str]]) -> tuple[str, ...]:
    """What each of them can do, in the order the first one lists it."""
    lists = [(each.get("flags") or each.get("Features") or "").split() for each in processors]
    if not lists:
        return ()
    common = set(lists[0]).intersection(*lists[1:])
    return tuple(feature for feature in lists[0] if feature in common)


def _auxiliary() -> tuple[int, int] | None:
    try:
        ask = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):  # a C library without it
        return None
    ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return ask(_HWCAP), ask(_HWCAP2)


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
