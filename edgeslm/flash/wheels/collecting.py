"""All that devices run in one folder: edgeslm, llama.cpp for each, and what they require."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import edgeslm
from edgeslm.bundle.runtimes import (
    RUNTIME_NAME,
    Runtime,
    RuntimeList,
    WheelFile,
    read_runtimes,
    runtime_id,
    write_runtimes,
)
from edgeslm.errors import Failure, InvalidBundle, InvalidOption, NotFound, Unsupported, writing
from edgeslm.files import atomic_path, scratch_folder, sha256
from edgeslm.flash.wheels import building
from edgeslm.flash.wheels.building import Built, run_pip
from edgeslm.flash.wheels.checking import Needs
from edgeslm.flash.wheels.closure import close, ensure_packaging
from edgeslm.flash.wheels.installer import NAME as INSTALLER
from edgeslm.flash.wheels.installer import installer
from edgeslm.flash.wheels.instruction_sets import InstructionSet
from edgeslm.flash.wheels.tags import Device, dotted, glibc_of, misfit, numbers, parse_name

EXTRAS = ("serve", "sign")
"""What of edgeslm a device needs beyond its core."""
SYSTEMS = {
    "3.11": ("Debian 12", "2.36", "3.4.30"),
    "3.12": ("Ubuntu 24.04", "2.39", "3.4.33"),
    "3.13": ("Debian 13", "2.41", "3.4.33"),
}
"""By its Python: a system, its C library, and the newest GLIBCXX of its C++ library."""
_OLDEST_GLIBC = 17
_ROUNDS = 8


@dataclass(frozen=True)
class Collected:
    """A folder of wheels.

    Attributes:
        path: The folder.
        runtimes: What its runtime.json says.
        built: llama.cpp for each instruction set, in the order asked for.
    """

    path: Path
    runtimes: RuntimeList
    built: tuple[Built, ...]


def check_pythons(pythons: Sequence[str]) -> None:
    """Return if these are versions whose systems we know.

    Raises:
        InvalidOption: one is not.
    """
    for python in pythons:
        if python not in SYSTEMS:
            raise InvalidOption(
                f"--python {python}: not a Python of a system that we know",
                hint=f"Known are {', '.join(SYSTEMS)}; Debian 12 has 3.11.",
            )


def collect(
    sets: Sequence[InstructionSet],
    pythons: Sequence[str],
    folder: Path,
    *,
    own: Path | None = None,
    jobs: int | None = None,
) -> Collected:
    """Build and fetch the wheels for devices, and write them with runtime.json into a folder.

    Args:
        sets: What llama.cpp is compiled for.
        pythons: Versions of Python on the devices.
        folder: Where to; made if it is not there. Wheels of an earlier list in it go.
        own: edgeslm's wheel; None to make one from the source that runs.
        jobs: How many files are compiled at a time.

    Raises:
        EdgeslmError: a program is missing, something cannot be built or fetched, or does not fit.
    """
    check_pythons(pythons)
    ensure_packaging()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder / RUNTIME_NAME) as scratch:
        ours = own or own_wheel(scratch)
        built = [building.build(each, jobs) for each in sets]
        runtimes: list[Runtime] = []
        files: dict[str, Path] = {}
        for wanted, done in zip(sets, built, strict=True):
            for python in pythons:
                _check_system(done.needs, wanted, python)
                place = scratch / f"{wanted.tag}-{python}"
                found = _fetch([ours, done.path], wanted.architecture, python, place)
                _add(files, found)
                runtimes.append(_runtime(found, wanted, done.needs, python))
        listed = _list(files, runtimes)
        _write(folder, files, listed)
    return Collected(folder, listed, tuple(built))


def own_wheel(folder: Path) -> Path:
    """Edgeslm as a wheel, made from the source that runs.

    Raises:
        NotFound: it runs from an installed wheel.
        Failure: it cannot be built.
    """
    source = Path(edgeslm.__file__).parents[1]
    project = source / "pyproject.toml"
    if not project.is_file() or 'name = "edgeslm"' not in project.read_text(encoding="utf-8"):
        raise NotFound(
            "edgeslm itself was installed without its source, so it cannot be packed again",
            hint="Give its wheel: --edgeslm FILE.whl, or run this in a clone of its repository.",
        )
    to = folder / "own"
    made = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(to)],
        cwd=source,
        env=os.environ | {"SOURCE_DATE_EPOCH": "315532800"},
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        if "No module named" in made.stderr:
            raise NotFound("hatchling is not installed", hint="pip install 'edgeslm[wheels]'")
        words = made.stderr.strip().splitlines() or ["it says nothing"]
        raise Failure(f"edgeslm's own wheel cannot be made: {words[-1]}", hint="Is it complete?")
    (wheel,) = to.glob("*.whl")
    return wheel


def _check_system(needs: Needs, wanted: InstructionSet, python: str) -> None:
    """Refuse what was compiled against libraries that are newer than the device's."""
    system, glibc, libstdcxx = SYSTEMS[python]
    for what, needed, there in (
        ("glibc", needs.glibc, glibc),
        ("GLIBCXX", needs.libstdcxx, libstdcxx),
    ):
        if _ordered(needed) > _ordered(there):
            raise Unsupported(
                f"llama.cpp for {wanted.march} was compiled here against {what} {needed}; "
                f"{system}, with Python {python}, has {there}",
                hint=f"Build it on {system}, in a container for example.",
            )


def _ordered(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def platforms(architecture: str, python: str) -> list[str]:
    """The tags that wheels may have on a device with that Python, newest first."""
    newest = numbers(SYSTEMS[python][1])[1]
    tags = [f"manylinux_2_{minor}_{architecture}" for minor in range(newest, _OLDEST_GLIBC - 1, -1)]
    return [*tags, f"manylinux2014_{architecture}", f"linux_{architecture}"]


def _fetch(given: Sequence[Path], architecture: str, python: str, place: Path) -> list[Path]:
    """The wheels that make up a runtime, by pip's own resolver.

    `given` are edgeslm's own and llama.cpp's, in whose place no others may come.
    """
    first, llama = given
    asked = [f"{first}[{','.join(EXTRAS)}]", str(llama)]
    command = ["download", "--quiet", "--only-binary=:all:", "--dest", str(place)]
    command += ["--implementation", "cp", "--python-version", python]
    for tag in platforms(architecture, python):
        command += ["--platform", tag]
    for _ in range(_ROUNDS):
        run_pip([*command, *asked], f"no wheels for {architecture}, Python {python}")
        found = close(place.glob("*.whl"), "edgeslm", EXTRAS, architecture, python)
        if not found.missing:
            break
        asked += found.missing
    else:
        raise Unsupported(
            f"for {architecture}, Python {python} there is no wheel of {', '.join(found.missing)}",
            hint="Is it a new version that does not fit? Pin an older one with PIP_CONSTRAINT.",
        )
    by_name = {path.name: path for path in found.wheels}
    for path in given:
        if path.name not in by_name or sha256(by_name[path.name]) != sha256(path):
            raise InvalidBundle(
                f"pip chose another package in the place of {path.name}",
                hint="Look at PIP_FIND_LINKS and at pip's own configuration.",
            )
    return list(found.wheels)


def _add(files: dict[str, Path], found: Iterable[Path]) -> None:
    for path in found:
        known = files.setdefault(path.name, path)
        if known != path and sha256(known) != sha256(path):
            raise InvalidBundle(f"two different files are called {path.name}", hint="Try again.")


def _runtime(wheels: Sequence[Path], wanted: InstructionSet, needs: Needs, python: str) -> Runtime:
    device = Device(wanted.architecture, numbers(python), numbers(SYSTEMS[python][1]))
    glibc = [numbers(needs.glibc)]
    for path in wheels:
        name = parse_name(path.name)
        if (problem := misfit(name, device)) is not None:
            raise InvalidBundle(f"{path.name}: {problem}", hint="Look at pip's own configuration.")
        versions = [version for tag in name.platforms if (version := glibc_of(tag)) is not None]
        glibc += [min(versions)] if versions else []
    return Runtime(
        id=runtime_id(map(sha256, wheels), python),
        architecture=wanted.architecture,
        march=wanted.march,
        features=wanted.features,
        python=python,
        glibc=dotted(max(glibc)),
        libraries=needs.libraries,
        wheels=tuple(sorted(path.name for path in wheels)),
    )


def _list(files: dict[str, Path], runtimes: Iterable[Runtime]) -> RuntimeList:
    wheels = (
        WheelFile(name, sha256(path), path.stat().st_size) for name, path in sorted(files.items())
    )
    unique = {runtime.id: runtime for runtime in runtimes}
    order = sorted(unique.values(), key=lambda each: (each.architecture, each.march, each.python))
    return RuntimeList(edgeslm.__version__, building.VERSION, tuple(wheels), tuple(order))


def _write(folder: Path, files: dict[str, Path], runtimes: RuntimeList) -> None:
    """Put the wheels into the folder, then the list, then remove what only an old list named."""
    place = folder / RUNTIME_NAME
    old: set[str] = set()
    if place.is_file():
        try:
            old = {wheel.name for wheel in read_runtimes(place.read_bytes(), str(place)).wheels}
        except InvalidBundle:
            old = set()
    for name, path in files.items():
        with atomic_path(folder / name) as temporary, writing(folder):
            temporary.write_bytes(path.read_bytes())
    with atomic_path(folder / INSTALLER) as temporary, writing(folder):
        temporary.write_bytes(installer())
    data = write_runtimes(runtimes)
    with atomic_path(place) as temporary, writing(place):
        temporary.write_bytes(data)
    for name in old - set(files):
        (folder / name).unlink(missing_ok=True)
    read = read_runtimes(place.read_bytes(), str(place))
    for wheel in read.wheels:
        if sha256(folder / wheel.name) != wheel.sha256:
            raise InvalidBundle(
                f"{folder / wheel.name}: not what was written", hint="Check the disk."
            )
