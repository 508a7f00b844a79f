"""llama.cpp's Python package compiled for a board, on this machine.

From the source distribution of the one version that edgeslm is written for, with the compiler that
Debian has for the board. What was built is kept by version, instruction set and compiler, so that a
second board of the same kind costs nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeslm import processor, progress
from edgeslm.errors import Failure, InvalidBundle, NotFound, reading, writing
from edgeslm.files import atomic_path, cache_folder, exclusive, scratch_folder, sha256
from edgeslm.flash.wheels.checking import LIBRARIES, Needs, check
from edgeslm.flash.wheels.instruction_sets import AARCH64, X86_64, InstructionSet
from edgeslm.flash.wheels.wheel_file import read_wheel, write_wheel
from edgeslm.llama import build_note
from edgeslm.records import BUILD_SCHEMA, document, from_json, to_json

VERSION = "0.3.36"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
_RECIPE = 1
"""Raised when the same source and compiler give something else."""
_PACKAGE = "llama_cpp_python"
_INFO = f"{_PACKAGE}-{VERSION}.dist-info"
_NOTE = f"{LIBRARIES}{build_note.NAME}"
_PREFIXES = {AARCH64: "aarch64-linux-gnu-", X86_64: "x86_64-linux-gnu-"}
_DEBIAN = {
    AARCH64: "gcc-aarch64-linux-gnu g++-aarch64-linux-gnu",
    X86_64: "gcc-x86-64-linux-gnu g++-x86-64-linux-gnu",
}
_OPENMP = "libgomp.so.1"
_STEP = re.compile(r"\[(\d+)/(\d+)\]")
_OURS = re.compile("(CMAKE|SKBUILD|GGML)_.*|CFLAGS|CXXFLAGS|LDFLAGS|CC|CXX|PYTHONPATH", re.DOTALL)
"""Variables of the user's environment that would get in the way."""
_KEPT_LINES = 60


@dataclass(frozen=True)
class Tools:
    """What compiles: full paths; None for what is not there and can be done without."""

    c: str
    cpp: str
    strip: str
    objdump: str | None
    ccache: str | None
    version: str


@dataclass(frozen=True)
class Built:
    """A wheel in the cache folder, and what it needs; `new` if it was compiled just now."""

    path: Path
    needs: Needs
    compiler: str
    new: bool = True


def find_tools(architecture: str) -> Tools:
    """The programs that build for an architecture.

    Raises:
        NotFound: some are missing; the hint says how to get them.
    """
    prefix = "" if processor.architecture() == architecture else _PREFIXES[architecture]
    gcc, gpp = shutil.which(f"{prefix}gcc"), shutil.which(f"{prefix}g++")
    strip, packages = shutil.which(f"{prefix}strip"), []
    if gcc is None or gpp is None or strip is None:
        packages.append(_DEBIAN[architecture] if prefix else "build-essential")
    if shutil.which("cmake") is None:
        packages.append("cmake")
    if shutil.which("ninja") is None:
        packages.append("ninja-build")
    if packages or gcc is None or gpp is None or strip is None:
        raise NotFound(
            f"to build for {architecture} a compiler, cmake and ninja are needed",
            hint=f"On Debian: sudo apt install {' '.join(packages)} ccache",
        )
    version = subprocess.run([gcc, "--version"], capture_output=True, text=True, check=False)
    first = (version.stdout.splitlines() or ["unknown"])[0]
    return Tools(
        *(gcc, gpp, strip, shutil.which(f"{prefix}objdump"), shutil.which("ccache")),
        version=re.sub(r"^\S*gcc", "gcc", first),
    )


def build(wanted: InstructionSet, jobs: int | None = None) -> Built:
    """The wheel for an instruction set: from the cache folder, or compiled and checked now.

    Args:
        wanted: What for.
        jobs: How many files are compiled at a time; None for one on each core.

    Raises:
        NotFound: there is no compiler for it.
        Failure: it did not compile.
        InvalidBundle: it compiled to something else.
    """
    tools = find_tools(wanted.architecture)
    cache = cache_folder("runtime")
    if cache is None:
        raise NotFound("no folder to keep what is built in", hint="Set EDGESLM_CACHE to one.")
    kept = cache / _key(wanted, tools)
    with exclusive(cache, lambda: progress.note("waiting for another build")):
        if (found := _kept(kept, wanted, tools.objdump)) is not None:
            return found
        source = _source(cache)
        work = cache / "building"  # always the same, so that ccache knows the files
        try:
            wheel = _compile(source, work, wanted, tools, jobs or os.cpu_count() or 1)
            return _keep(wheel, kept, wanted, tools)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _key(wanted: InstructionSet, tools: Tools) -> str:
    """A folder's name for everything that decides what comes out."""
    parts = [VERSION, SDIST_SHA256, str(_RECIPE), tools.version, *to_json(wanted)["features"]]
    text = "\n".join([*parts, wanted.architecture, wanted.march])
    return f"{VERSION}-{wanted.march}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _kept(folder: Path, wanted: InstructionSet, objdump: str | None) -> Built | None:
    """What was built before; its instructions are looked at now if nobody could then."""
    try:
        note = json.loads((folder / "built.json").read_text(encoding="utf-8"))
        needs = from_json(Needs, note["needs"])
        path = folder / _file_name(wanted)
        if sha256(path) != note["sha256"]:
            return None
        if wanted.exact and objdump is not None and not needs.disassembled:
            needs = check(path.name, read_wheel(path), wanted, objdump)
            _write_note(path, needs, note["compiler"])
        return Built(path, needs, str(note["compiler"]), new=False)
    except (OSError, ValueError, KeyError, TypeError, NotFound, InvalidBundle):
        return None


def _write_note(wheel: Path, needs: Needs, compiler: str) -> None:
    known = {"sha256": sha256(wheel), "compiler": compiler, "needs": to_json(needs)}
    with atomic_path(wheel.with_name("built.json")) as temporary:
        temporary.write_text(json.dumps(known), encoding="utf-8")


def _file_name(wanted: InstructionSet) -> str:
    return f"{_PACKAGE}-{VERSION}-1_{wanted.tag}-py3-none-linux_{wanted.architecture}.whl"


def _source(cache: Path) -> Path:
    """The source distribution: kept, or fetched."""
    path = cache / f"{_PACKAGE}-{VERSION}.tar.gz"
    if path.is_file() and sha256(path) == SDIST_SHA256:
        return path
    progress.note(f"fetching the source of {_PACKAGE} {VERSION}")
    with scratch_folder(path) as folder:
        wanted = folder / "wanted.txt"
        requirement = f"{_PACKAGE}=={VERSION} --hash=sha256:{SDIST_SHA256}\n"
        wanted.write_text(requirement, encoding="utf-8")
        run_pip(
            [
                "download",
                "--no-deps",
                "--no-binary",
                _PACKAGE,
                "-r",
                str(wanted),
                "-d",
                str(folder),
            ],
            f"cannot fetch the source of {_PACKAGE} {VERSION}",
        )
        (found,) = folder.glob("*.tar.gz")
        with writing(path):
            found.replace(path)
    return path


def run_pip(
    arguments: Iterable[str], problem: str, environment: Mapping[str, str] | None = None
) -> None:
    """Run this Python's pip, with a bar for the steps of a compilation.

    Args:
        arguments: Its own.
        problem: What to say if it fails, before its own last words.
        environment: What is set for it beside ours.

    Raises:
        NotFound: there is none.
        Failure: it failed.
    """
    if importlib.util.find_spec("pip") is None:
        raise NotFound(
            f"{sys.executable} has no pip",
            hint="Get it with: python3 -m ensurepip, or use another.",
        )
    command = [sys.executable, "-m", "pip", *arguments, "--disable-pip-version-check", "--no-input"]
    lines: deque[str] = deque(maxlen=_KEPT_LINES)
    process = subprocess.Popen(
        command,
        env=_without_ours(os.environ) | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        _follow(process, lines)
    finally:
        if process.poll() is None:  # interrupted: its compilers go with it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        said = [line for line in lines if re.search(r"\berror\b|ERROR", line)] or list(lines)
        raise Failure(
            f"{problem}: {said[0].strip() if said else 'pip says nothing'}", hint=_hint(lines)
        )


def _without_ours(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not _OURS.fullmatch(name)}


def _hint(lines: Iterable[str]) -> str:
    if any("Network is unreachable" in line or "name resolution" in line for line in lines):
        return "A network is needed for it, once."
    return "Run it again with pip's own words on the screen: PIP_LOG=log.txt keeps them."


def _follow(process: subprocess.Popen[str], lines: deque[str]) -> None:
    """Read what it prints; the bar begins with the first step and ends with the last."""
    assert process.stdout is not None  # noqa: S101  a pipe was asked for
    for line in process.stdout:
        lines.append(line)
        if (step := _STEP.search(line)) is not None:
            total, done = int(step[2]), int(step[1])
            with progress.bar("compiling llama.cpp", total) as advance:
                advance(done)
                for following in process.stdout:
                    lines.append(following)
                    if (step := _STEP.search(following)) is not None and int(step[2]) == total:
                        advance(int(step[1]) - done)
                        done = int(step[1])


def _compile(source: Path, work: Path, wanted: InstructionSet, tools: Tools, jobs: int) -> Path:
    """Compile a fresh copy of the source (the build writes into it) in `work`."""
    shutil.rmtree(work, ignore_errors=True)
    with writing(work), reading(source), tarfile.open(source) as archive:
        work.mkdir(parents=True)
        if hasattr(tarfile, "data_filter"):
            archive.extractall(work, filter="data")
        else:  # its hash is the one we know
            archive.extractall(work)  # noqa: S202
    toolchain = work / "toolchain.cmake"
    toolchain.write_text(toolchain_text(wanted.architecture, tools), encoding="utf-8")
    out = work / "out"
    run_pip(
        [
            *("wheel", "--verbose", "--no-deps", "--no-cache-dir", "--wheel-dir", str(out)),
            *("-C", "install.strip=true", "-C", f"build-dir={work / 'objects'}"),
            str(work / f"{_PACKAGE}-{VERSION}"),
        ],
        f"llama.cpp does not compile for {wanted.march}",
        _environment(work, toolchain, wanted, tools, jobs),
    )
    (wheel,) = out.glob("*.whl")
    return wheel


def toolchain_text(architecture: str, tools: Tools) -> str:
    """CMake's description of the machine that is built for."""
    return "\n".join(
        [
            "set(CMAKE_SYSTEM_NAME Linux)",
            f"set(CMAKE_SYSTEM_PROCESSOR {architecture})",
            f'set(CMAKE_C_COMPILER "{tools.c}")',
            f'set(CMAKE_CXX_COMPILER "{tools.cpp}")',
            f'set(CMAKE_STRIP "{tools.strip}")',
            "set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)",
            "",
        ]
    )


def _environment(
    work: Path, toolchain: Path, wanted: InstructionSet, tools: Tools, jobs: int
) -> dict[str, str]:
    without_common = Path(__file__).with_name("without-common.cmake")
    unnamed = shlex.quote(f"-ffile-prefix-map={work}=.")  # a shell reads the flags
    options = [
        f"-DCMAKE_TOOLCHAIN_FILE={toolchain}",
        f"-DCMAKE_C_FLAGS={unnamed}",
        f"-DCMAKE_CXX_FLAGS={unnamed}",
        *wanted.cmake_options,
        "-DLLAVA_BUILD=OFF",
        "-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON",
        f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={without_common}",
    ]
    if tools.ccache is not None:
        options += [f"-DCMAKE_{kind}_COMPILER_LAUNCHER={tools.ccache}" for kind in ("C", "CXX")]
    return {
        "CMAKE_ARGS": shlex.join(options),  # split again in the same way
        "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs),
        "_PYTHON_HOST_PLATFORM": f"linux-{wanted.architecture}",
    }


def _keep(wheel: Path, folder: Path, wanted: InstructionSet, tools: Tools) -> Built:
    """Put what a device needs of a built wheel into the cache folder, if it is as it should be."""
    built = read_wheel(wheel)
    files = {name: data for name, data in built.items() if name.startswith(("llama_cpp/", _INFO))}
    if (openmp := _openmp(tools)) is not None:
        files[f"{LIBRARIES}{_OPENMP}"] = openmp
    needs = check(wheel.name, files, wanted, tools.objdump)
    note = document(BUILD_SCHEMA, wanted)
    files[_NOTE] = (json.dumps(note, indent=2) + "\n").encode()
    files[f"{_INFO}/WHEEL"] = (
        files[f"{_INFO}/WHEEL"].rstrip() + f"\nBuild: 1_{wanted.tag}\n".encode()
    )
    path = folder / _file_name(wanted)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        write_wheel(temporary, files, _INFO)
    _write_note(path, needs, tools.version)
    return Built(path, needs, tools.version)


def _openmp(tools: Tools) -> bytes | None:
    """The compiler's library for several threads: not every device has it, and none is online."""
    asked = subprocess.run(
        [tools.c, f"-print-file-name={_OPENMP}"], capture_output=True, text=True, check=False
    )
    path = Path(asked.stdout.strip())
    return path.read_bytes() if path.is_absolute() and path.is_file() else None
