"""Instruction sets by the compiler's names: what processors need for one, how llama.cpp is built.

ARM: `-march` takes a base and extensions, armv8.2-a+dotprod+fp16, and llama.cpp takes the same.
x86: llama.cpp takes single features, so the levels of the psABI (x86-64, -v2, -v3, -v4) and the
processors of our targets are a table here. Features are named as in /proc/cpuinfo.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from edgeslm.errors import InvalidOption

AARCH64, X86_64 = "aarch64", "x86_64"
NATIVE = "native"
"""Whatever the machine that compiles can do."""

_ARM_BASES = {"armv8-a": 0, "armv8.1-a": 1, "armv8.2-a": 2, "armv8.3-a": 3, "armv8.4-a": 4}
_ARM_BASES |= {"armv8.5-a": 5, "armv8.6-a": 6, "armv9-a": 5}
_ARM_IMPLIED = {1: ("atomics",), 4: ("asimddp",), 6: ("i8mm", "bf16")}
"""What a base has from that minor version on, as far as compilers use it without being asked."""
_ARM_BROUGHT = {"armv9-a": ("sve2",)}
"""Extensions that a base brings along."""
_ARM_EXTENSIONS = {
    "dotprod": ("asimddp",),
    "fp16": ("fphp", "asimdhp"),
    "i8mm": ("i8mm",),
    "bf16": ("bf16",),
    "sve": ("sve", "fphp", "asimdhp"),
    "sve2": ("sve", "sve2", "fphp", "asimdhp"),
    "lse": ("atomics",),
    "crc": ("crc32",),
    "crypto": ("aes", "sha2"),
}
_V2 = ("sse4_2",)
_V3 = ("avx", "avx2", "fma", "f16c", "bmi2")
_V4 = (*_V3, "avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl")
_X86 = {
    "x86-64": (),
    "x86-64-v2": _V2,
    "x86-64-v3": _V3,
    "x86-64-v4": _V4,
    "haswell": _V3,
    "skylake": _V3,
    "znver3": _V3,
    "gracemont": (*_V3, "avx_vnni"),
    "alderlake": (*_V3, "avx_vnni"),
}
_X86_SWITCHES = {
    "SSE42": "sse4_2",
    "AVX": "avx",
    "AVX2": "avx2",
    "FMA": "fma",
    "F16C": "f16c",
    "BMI2": "bmi2",
    "AVX_VNNI": "avx_vnni",
    "AVX512": "avx512f",
}
"""llama.cpp's options GGML_..., by the feature that each stands for."""

TELLTALES = {
    AARCH64: {"asimddp": r"\t[su]dot\tv", "i8mm": r"\t[su]mmla\tv", "sve": r"\bz\d+\.[bhsd]\b"},
    X86_64: {
        "avx2": r"\tvpmaddubsw .*%ymm",
        "avx_vnni": r"vpdpbusd ",
        "avx512f": r"%zmm",
    },
}
"""Instructions in a disassembly that are there if, and only if, a feature was compiled for.

SVE has dot products and products of matrices of its own, with the same names, in registers z.
"""


@dataclass(frozen=True)
class InstructionSet:
    """What llama.cpp is compiled for: `march` for the compiler, `features` that it then needs."""

    architecture: str
    march: str
    features: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether what is not in `features` is not used either; the compiler decides on NATIVE."""
        return self.march != NATIVE

    @property
    def cmake_options(self) -> tuple[str, ...]:
        """llama.cpp's own options for it."""
        if self.march == NATIVE:
            return ("-DGGML_NATIVE=ON",)
        if self.architecture == AARCH64:
            return ("-DGGML_NATIVE=OFF", f"-DGGML_CPU_ARM_ARCH={self.march}")
        able = {*self.features, *(_V2 if self.features else ())}
        switches = (
            f"-DGGML_{switch}={'ON' if feature in able else 'OFF'}"
            for switch, feature in _X86_SWITCHES.items()
        )
        return ("-DGGML_NATIVE=OFF", *switches)

    @property
    def tag(self) -> str:
        """The same for a file's name: letters, digits and underscores."""
        return re.sub(r"[^a-z0-9]+", "_", self.march)


def instruction_set(march: str) -> InstructionSet:
    """The one with that name.

    Raises:
        InvalidOption: it is not known.
    """
    if march in _X86:
        return InstructionSet(X86_64, march, _X86[march])
    base, *extensions = march.split("+")
    if base not in _ARM_BASES or not set(extensions) <= set(_ARM_EXTENSIONS):
        known = ", ".join(["armv8-a", "armv8.2-a+dotprod+fp16", *_X86])
        raise InvalidOption(
            f"not an instruction set that we build for: {march[:100]!r}",
            hint=f"Known are {known}, and other ARM bases and extensions.",
        )
    minor = _ARM_BASES[base]
    found = [name for since, names in _ARM_IMPLIED.items() if since <= minor for name in names]
    for extension in (*_ARM_BROUGHT.get(base, ()), *extensions):
        found += [name for name in _ARM_EXTENSIONS[extension] if name not in found]
    return InstructionSet(AARCH64, march, tuple(found))


def native(architecture: str, features: Iterable[str]) -> InstructionSet:
    """That of a machine which can do `features`.

    Raises:
        InvalidOption: we do not build for such machines.
    """
    if architecture == AARCH64:
        tables = (*_ARM_IMPLIED.values(), *_ARM_EXTENSIONS.values())
        used = {name for names in tables for name in names}
    elif architecture == X86_64:
        used = {
            *_V4,
            "avx_vnni",
            "avx512_vnni",
            "avx512_bf16",
            "avx512vbmi",
            "amx_tile",
            "amx_int8",
        }
    else:
        raise InvalidOption(
            f"no runtime can be built for {architecture}", hint="Name a board with --target."
        )
    return InstructionSet(architecture, NATIVE, tuple(each for each in features if each in used))
