"""Is a compiled llama.cpp what was asked for? Told from its libraries, before it runs anywhere."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgeslm.errors import Failure, InvalidBundle
from edgeslm.flash.wheels.elf import Library, read_library
from edgeslm.flash.wheels.instruction_sets import TELLTALES, InstructionSet
from edgeslm.flash.wheels.tags import dotted, parse_name

LIBRARIES = "llama_cpp/lib/"
_NEEDED = ("libllama.so", "libggml.so", "libggml-base.so", "libggml-cpu.so")
_COMPUTES = "libggml-cpu.so"
_C_LIBRARY = re.compile(r"(libc|libm|libpthread|libdl|librt|ld-linux-.+)\.so\.\d+")
_SYSTEM = ("libstdc++.so.6", "libgcc_s.so.1", "libgomp.so.1")
"""What every Debian has, and what llama.cpp computes with on several cores."""
_AGAIN = "Remove what was built and build it again; CFLAGS and the like may get in the way."


@dataclass(frozen=True)
class Needs:
    """What a compiled llama.cpp asks of a device.

    Attributes:
        glibc: The oldest C library: 2.34.
        libstdcxx: The highest version of GLIBCXX symbols: 3.4.30.
        libraries: By soname, beside the C library.
        disassembled: Whether the instructions themselves were looked at.
    """

    glibc: str
    libstdcxx: str
    libraries: tuple[str, ...]
    disassembled: bool


def check(
    name: str, files: Mapping[str, bytes], wanted: InstructionSet, objdump: str | None
) -> Needs:
    """What a built wheel needs.

    Args:
        name: Its file name.
        files: What is in it.
        wanted: What it was to be built for.
        objdump: A program that disassembles that architecture; None to leave instructions alone.

    Raises:
        InvalidBundle: it is something else; the message says what.
    """
    platforms = parse_name(name).platforms
    if platforms != (f"linux_{wanted.architecture}",):
        raise InvalidBundle(
            f"{name}: for {'.'.join(platforms)}, not linux_{wanted.architecture}", hint=_AGAIN
        )
    inside = {
        PurePosixPath(path).name: data
        for path, data in files.items()
        if path.startswith(LIBRARIES) and ".so" in path
    }
    if missing := [each for each in _NEEDED if each not in inside]:
        raise InvalidBundle(f"{name}: {missing[0]} is not in it", hint=_AGAIN)
    libraries = {each: read_library(data, each) for each, data in inside.items()}
    for each, library in libraries.items():
        _check_library(each, library, set(inside), wanted.architecture)
    if objdump is None or not wanted.exact:
        return _needs(libraries, disassembled=False)
    _check_instructions(inside[_COMPUTES], wanted, objdump)
    return _needs(libraries, disassembled=True)


def _check_library(name: str, library: Library, inside: set[str], architecture: str) -> None:
    if library.machine != architecture:
        raise InvalidBundle(
            f"{name}: compiled for {library.machine or 'another machine'}, not {architecture}",
            hint=_AGAIN,
        )
    for needed in library.needed:
        if needed not in inside and needed not in _SYSTEM and not _C_LIBRARY.fullmatch(needed):
            raise InvalidBundle(f"{name}: needs {needed}, which a device may not have", hint=_AGAIN)
    if library.runpath not in ("$ORIGIN", None):
        raise InvalidBundle(f"{name}: looks for libraries in {library.runpath}", hint=_AGAIN)


def _needs(libraries: Mapping[str, Library], *, disassembled: bool) -> Needs:
    needed = {soname for library in libraries.values() for soname in library.needed}
    outside = {each for each in needed - set(libraries) if not _C_LIBRARY.fullmatch(each)}
    glibc = max(library.newest("GLIBC") for library in libraries.values())
    libstdcxx = max(library.newest("GLIBCXX") for library in libraries.values())
    return Needs(dotted(glibc[:2]), dotted(libstdcxx), tuple(sorted(outside)), disassembled)


def _check_instructions(library: bytes, wanted: InstructionSet, objdump: str) -> None:
    found = telltales(library, wanted.architecture, objdump)
    for feature, there in found.items():
        if there != (feature in wanted.features):
            problem = "are in it" if there else "are missing"
            raise InvalidBundle(
                f"{_COMPUTES}: instructions for {feature} {problem}, though it was to be built for "
                f"{wanted.march}",
                hint=_AGAIN,
            )


def telltales(library: bytes, architecture: str, objdump: str) -> dict[str, bool]:
    """Which features' instructions are in a library, of those that tell.

    Raises:
        Failure: it cannot be disassembled.
    """
    patterns = {name: re.compile(text) for name, text in TELLTALES[architecture].items()}
    found = dict.fromkeys(patterns, False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "library.so"
        path.write_bytes(library)
        with subprocess.Popen(
            [objdump, "-d", "--no-show-raw-insn", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None  # noqa: S101  a pipe was asked for
            for line in process.stdout:
                for name, pattern in patterns.items():
                    found[name] = found[name] or pattern.search(line) is not None
    if process.returncode:
        raise Failure(f"{objdump} cannot read what was built", hint="Install binutils for it.")
    return found
