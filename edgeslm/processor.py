"""What this processor can do, by the names that Linux gives it in /proc/cpuinfo.

On 64-bit ARM the kernel hands every process the same as bits (the auxiliary vector), and those are
right where /proc/cpuinfo is another machine's: under emulation of single programs.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path

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


def arm_features(hwcap: int, hwcap2: int) -> tuple[str, ...]:
    """What the two words of bits say, by name; bits without a name here are left out."""
    words = ((_ARM, hwcap), (_ARM_MORE, hwcap2))
    return tuple(name for names, bits in words for at, name in enumerate(names) if bits >> at & 1)


@cache
def features() -> tuple[str, ...]:
    """What every core of this machine can do; empty where nobody says.

    Linux on ARM lists what all cores have in common. On x86 all cores are alike in this.
    """
    if platform.system() != "Linux":
        return ()
    if platform.machine() in ("aarch64", "arm64"):
        words = _auxiliary()
        if words is not None:
            return arm_features(*words)
    return _of_first_processor()


def _auxiliary() -> tuple[int, int] | None:
    try:
        ask = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):  # a C library without it
        return None
    ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return ask(_HWCAP), ask(_HWCAP2)


def _of_first_processor() -> tuple[str, ...]:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() in ("flags", "Features"):
                    return tuple(value.split())
    except OSError:
        return ()
    return ()
