"""Small wheels for tests, and ELF files that have headers and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeslm.bundle.runtimes import (
    RUNTIME_NAME,
    Runtime,
    RuntimeList,
    WheelFile,
    runtime_id,
    write_runtimes,
)
from edgeslm.files import sha256
from edgeslm.flash.wheels.tags import parse_name
from edgeslm.flash.wheels.wheel_file import write_wheel


def make_wheel(
    folder: Path, name: str, files: Mapping[str, bytes], requires: Sequence[str] = ()
) -> Path:
    """A wheel of that file name; `files` beside the few that each wheel has."""
    parsed = parse_name(name)
    info = f"{parsed.name}-{parsed.version}.dist-info"
    metadata = [f"Name: {parsed.name}", f"Version: {parsed.version}"]
    metadata += [f"Requires-Dist: {each}" for each in requires]
    own = {
        f"{info}/METADATA": "\n".join(["Metadata-Version: 2.1", *metadata, "", ""]).encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\n",
    }
    path = folder / name
    write_wheel(path, {**own, **files}, info)
    return path


MAIN = b"import sys\nprint('edgeslm', *sys.argv[1:])\n"


def make_runtimes(
    folder: Path,
    python: str,
    *,
    architecture: str = "aarch64",
    sets: Mapping[str, tuple[str, ...]] | None = None,
    glibc: str = "2.34",
    program: bytes = MAIN,
    more: Mapping[str, bytes] | None = None,
) -> RuntimeList:
    """A folder with runtime.json: edgeslm, one package that is compiled, one for each set."""
    tag = f"cp{python.replace('.', '')}"
    shared = [
        make_wheel(
            folder,
            "edgeslm-0.1.0-py3-none-any.whl",
            {"edgeslm/__init__.py": b"", "edgeslm/__main__.py": program, **(more or {})},
        ),
        make_wheel(
            folder, f"fast-1.0-{tag}-{tag}-linux_{architecture}.whl", {"fast.py": b"x = 1\n"}
        ),
    ]
    runtimes, wheels = [], list(shared)
    for march, features in (sets or {"armv8-a": ()}).items():
        number = len(wheels)
        own = make_wheel(
            folder,
            f"llama-1-{number}-py3-none-linux_{architecture}.whl",
            {"llama/lib/libllama.so": march.encode()},
        )
        wheels.append(own)
        made_of = [*shared, own]
        runtimes.append(
            Runtime(
                id=runtime_id(map(sha256, made_of), python),
                architecture=architecture,
                march=march,
                features=features,
                python=python,
                glibc=glibc,
                libraries=("libstdc++.so.6",),
                wheels=tuple(sorted(path.name for path in made_of)),
            )
        )
    listed = RuntimeList(
        "0.1.0",
        "1",
        tuple(WheelFile(path.name, sha256(path), path.stat().st_size) for path in sorted(wheels)),
        tuple(runtimes),
    )
    (folder / RUNTIME_NAME).write_bytes(write_runtimes(listed))
    return listed


def make_several(
    folder: Path, pythons: Sequence[str], more: Mapping[str, bytes] | None = None
) -> Path:
    """The same for several Pythons in one folder."""
    folder.mkdir()
    lists = [make_runtimes(folder, python, more=more) for python in pythons]
    wheels = {wheel.name: wheel for each in lists for wheel in each.wheels}
    listed = RuntimeList(
        *("0.1.0", "1"),
        tuple(wheels[name] for name in sorted(wheels)),
        tuple(runtime for each in lists for runtime in each.runtimes),
    )
    (folder / RUNTIME_NAME).write_bytes(write_runtimes(listed))
    return folder


def make_library(
    machine: int = 183,
    needed: Sequence[str] = ("libc.so.6",),
    versions: Sequence[str] = ("GLIBC_2.17", "GLIBC_2.34"),
    runpath: str | None = "$ORIGIN",
) -> bytes:
    """A shared library of a header, one segment and a dynamic section."""
    strings = b"\0"

    def place(text: str) -> int:
        nonlocal strings
        at = len(strings)
        strings += text.encode() + b"\0"
        return at

    entries = [(1, place(name)) for name in needed]
    if runpath is not None:
        entries.append((29, place(runpath)))
    names = [place(version) for version in versions]
    start = 64 + 2 * 56
    strings_at = start + 16 * (len(entries) + 4)
    needs_at = strings_at + len(strings)
    entries += [(5, strings_at), (0x6FFFFFFE, needs_at), (0x6FFFFFFF, 1), (0, 0)]
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    needs = struct.pack("<HHIII", 1, len(names), 1, 16, 0)
    for number, name in enumerate(names):
        step = 16 if number + 1 < len(names) else 0
        needs += struct.pack("<IHHII", 0, 0, 0, name, step)
    size = needs_at + len(needs)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, size, size, 4096)
    found = struct.pack("<IIQQQQQQ", 2, 6, start, start, start, len(dynamic), len(dynamic), 8)
    return header + load + found + dynamic + strings + needs
