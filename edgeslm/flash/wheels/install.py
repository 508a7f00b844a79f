"""Unpack the wheels of a runtime on a device that has Python and nothing else.

Standard library only, and so is all that this imports: it is sent to the device as one file (see
`installer`) and run there by its own python3. The machine that packs uses the same code to fill the
folder of an image.

    python3 install.pyz --runtime runtime.json --wheels FOLDER [--root FOLDER] [--id ID]

A runtime lies in `opt/edgeslm/runtimes/<id>`: the unpacked wheels in `site`, and `bin/edgeslm`,
which starts them. It is made as `<id>.partial`, synced to the disk, then renamed; the link
`current` is replaced at once. So what `current` leads to is complete, whenever the power fails; and
where it was unpacked on the device itself, it has started there.
`previous` leads to the one before; all others are removed, as `<id>.partial` again: what has its
name is whole.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode

from edgeslm.bundle.runtimes import Runtime, RuntimeList, read_runtimes
from edgeslm.errors import (
    EdgeslmError,
    InvalidBundle,
    NotFound,
    OutputFailure,
    Unhealthy,
    Unsupported,
    reading,
    writing,
)
from edgeslm.files import exclusive, sha256, sync
from edgeslm.flash.places import OPT
from edgeslm.flash.wheels.tags import Device, dotted, misfit, numbers, parse_name, this_device
from edgeslm.flash.wheels.unpacking import unpack, unpacked_bytes
from edgeslm.records import to_json

OLDEST_PYTHON = (3, 11)
"""The launcher relies on PYTHONSAFEPATH: nothing in the current folder is imported."""
_ARCHITECTURES = ("aarch64", "x86_64")
"""What runtimes are made for."""
_SPARE_BYTES = 16 << 20
_LOADING = "edgeslm.llama.described"
"""What loads llama.cpp and does no more."""
_MOST_SECONDS = 300
_ANOTHER = "Make one for this board, and try it there: edgeslm wheels --target BOARD"
_NEVER_RUN = re.compile(
    "/(tests?|pygments/(lexers|styles|formatters)|numpy/(f2py|testing|typing|ma|polynomial)"
    "|edgeslm/packager)/"
)
"""What a device does not import, or hardly ever: compiling it takes longer than it saves."""


@dataclass(frozen=True)
class Installed:
    """What was done: whether it was new there, and which runtimes were removed for it."""

    id: str
    path: Path
    new: bool
    removed: tuple[str, ...]


def choose(runtimes: RuntimeList, device: Device) -> Runtime:
    """The runtime for a device: of those that it can run, the one that uses most of it.

    Raises:
        Unsupported: there is none.
    """
    python = dotted(device.python)
    alike = [
        runtime
        for runtime in runtimes.runtimes
        if (runtime.architecture, runtime.python) == (device.architecture, python)
    ]
    if not alike:
        there = sorted({f"{each.architecture}, Python {each.python}" for each in runtimes.runtimes})
        raise Unsupported(
            f"no runtime for {device.architecture}, Python {python}; "
            f"there is one for {'; '.join(there) or 'nothing'}",
            hint=f"Make one: edgeslm wheels --target BOARD --python {python}"
            if device.architecture in _ARCHITECTURES
            else "Use a 64-bit system there, for Arm or x86: runtimes are made for no other.",
        )
    features = device.features
    able = [each for each in alike if features is None or set(each.features) <= features]
    if not able:
        lacking = set(min(alike, key=lambda each: len(each.features)).features) - (
            features or set()
        )
        raise Unsupported(
            f"this processor has no {', '.join(sorted(lacking))}, which the runtime uses",
            hint="Make one for this board: edgeslm wheels --target BOARD",
        )
    best = max(able, key=lambda each: (len(each.features), each.id))
    if device.glibc is not None and numbers(best.glibc) > device.glibc:
        raise Unsupported(
            f"the runtime needs glibc {best.glibc}, this system has {dotted(device.glibc)}",
            hint="Use a newer system, or make the runtime on an older one.",
        )
    return best


def by_id(runtimes: RuntimeList, wanted: str) -> Runtime:
    """The runtime of that id.

    Raises:
        NotFound: there is none.
    """
    found = [runtime for runtime in runtimes.runtimes if runtime.id == wanted]
    if not found:
        raise NotFound(f"no runtime {wanted}", hint="Name one that runtime.json lists.")
    return found[0]


def find_wheels(runtimes: RuntimeList, runtime: Runtime, folder: Path) -> dict[str, Path]:
    """The files of a runtime's wheels, by their names or, as in a bundle, by their hashes.

    Raises:
        UserError: one is missing, or is another than it should be.
    """
    found = {}
    for wheel in runtimes.wheels_of(runtime):
        places = (folder / wheel.name, folder / wheel.sha256)
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise NotFound(f"{wheel.name}: not in {folder}", hint="Copy all wheels there.")
        if sha256(path) != wheel.sha256:
            raise InvalidBundle(f"{path}: was changed", hint="Copy it again.")
        found[wheel.name] = path
    return found


def install(
    runtimes: RuntimeList,
    runtime: Runtime,
    wheels: Path,
    root: Path,
    *,
    place: str = OPT,
    interpreter: str | None = None,
    durable: bool = True,
    compiled: bool = True,
    tried: bool = False,
) -> Installed:
    """Make a runtime the current one of the system under `root`; changes nothing if it is already.

    Args:
        runtimes: What runtime.json holds.
        runtime: The one of them.
        wheels: The folder they lie in.
        root: Of the system: "/" on the device, a folder for an image.
        place: Where runtimes lie below that.
        interpreter: What starts it; None for Debian's name of its Python.
        durable: Wait until the disk holds all of it.
        compiled: Compile its Python too, if this Python is the one that will run it.
        tried: Start it before it becomes the current one.

    Raises:
        UserError: a wheel is damaged, unsafe, or not for that runtime.
        Unhealthy: it does not start; what was current is it still.
        OutputFailure: it cannot be written.
    """
    home = root / place
    folder = home / "runtimes"
    final = folder / runtime.id
    interpreter = interpreter or f"/usr/bin/python{runtime.python}"
    with writing(home), exclusive(folder, _waiting):
        new = not final.is_dir()
        if new:
            files = find_wheels(runtimes, runtime, wheels)
            with _complete(_partial(final), final, durable=durable):
                _fill(_partial(final), files, runtime)
                _write_launcher(_partial(final), interpreter)
                if compiled and sys.version_info[:2] == numbers(runtime.python):
                    _compile(_partial(final) / "site")
                if tried:
                    _ensure_starts(_partial(final), interpreter)
        elif tried:
            _ensure_starts(final, interpreter)
        sync(folder)  # also where an earlier run was ended before it came to that
        _switch(home, runtime.id)
        return Installed(runtime.id, final, new, tuple(_tidy(home)))


def _partial(final: Path) -> Path:
    return final.with_name(f"{final.name}.partial")


def _waiting() -> None:
    print("waiting for another installation", file=sys.stderr)


@contextmanager
def _complete(partial: Path, final: Path, *, durable: bool) -> Iterator[None]:
    """What the block puts into `partial` becomes `final` if it succeeds, and goes otherwise."""
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield
        if durable:
            os.sync()
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _fill(partial: Path, files: dict[str, Path], runtime: Runtime) -> None:
    device = Device(runtime.architecture, numbers(runtime.python))
    if device.python < OLDEST_PYTHON:
        raise Unsupported(
            f"Python {runtime.python} is too old", hint=f"Use {dotted(OLDEST_PYTHON)} or newer."
        )
    names = {name: parse_name(name) for name in files}
    for name, parsed in names.items():
        if (problem := misfit(parsed, device)) is not None:
            raise InvalidBundle(f"{name}: {problem}", hint="Make it again: edgeslm wheels")
    partial.mkdir()
    needed = sum(unpacked_bytes(path) for path in files.values()) + _SPARE_BYTES
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise OutputFailure(
            f"{partial.parent}: {needed >> 20} MiB are needed, {free >> 20} are free",
            hint="Free some space.",
        )
    site = partial / "site"
    site.mkdir()
    taken: dict[str, str] = {}
    for name, path in files.items():
        unpack(path, names[name], site, taken)
    text = json.dumps(to_json(runtime), indent=2) + "\n"
    (partial / "runtime.json").write_text(text, encoding="utf-8")


def _write_launcher(partial: Path, interpreter: str) -> None:
    launcher = partial / "bin" / "edgeslm"
    launcher.parent.mkdir()
    launcher.write_text(launcher_text(interpreter), encoding="utf-8")
    launcher.chmod(0o755)


def _compile(site: Path) -> None:
    """Compile now what the service may not write; who copies the files may change their dates."""
    compileall.compile_dir(
        site,
        quiet=2,
        rx=_NEVER_RUN,
        stripdir=site,
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )


def launcher_text(interpreter: str) -> str:
    """A shell script that starts the runtime it lies in, whatever links lead to it."""
    return (
        "#!/bin/sh\n"
        'here=$(dirname "$(dirname "$(readlink -f "$0")")")\n'
        "unset PYTHONHOME\n"
        'export PYTHONPATH="$here/site" PYTHONSAFEPATH=1 PYTHONNOUSERSITE=1\n'
        f'exec {shlex.quote(interpreter)} -m edgeslm "$@"\n'
    )


def _ensure_starts(folder: Path, interpreter: str) -> None:
    """Return if this machine can run a runtime: its Python, and llama.cpp in it."""
    commands = [[str(folder / "bin" / "edgeslm"), "--version"]]
    if (folder / "site" / f"{_LOADING.replace('.', '/')}.py").is_file():
        commands.append([interpreter, "-m", _LOADING])
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONHOME"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"}
    environment |= {"PYTHONPATH": str(folder / "site"), "PYTHONSAFEPATH": "1"}
    for command in commands:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=environment,
                timeout=_MOST_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unhealthy(f"the runtime does not start: {error}", hint=_ANOTHER) from error
        if done.returncode:
            words = done.stderr.decode("utf-8", "replace").strip().splitlines()
            ended = f"signal {-done.returncode}" if done.returncode < 0 else str(done.returncode)
            said = words[-1] if words else f"it ends with {ended}"
            raise Unhealthy(f"the runtime does not start: {said}", hint=_ANOTHER)


def _switch(home: Path, name: str) -> None:
    """`current` leads to that runtime, `previous` to the one that it led to."""
    before = _leads_to(home / "current")
    if before == name:
        return
    if before is not None:
        _link(home, "previous", before)
    _link(home, "current", name)


def _link(home: Path, link: str, name: str) -> None:
    temporary = home / f".{link}.new"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(f"runtimes/{name}")
    temporary.replace(home / link)
    sync(home)


def _leads_to(link: Path) -> str | None:
    if link.is_symlink():
        return link.readlink().name
    if link.exists():
        raise OutputFailure(f"{link}: is not a link", hint="Move it away.")
    return None


def _tidy(home: Path) -> Iterator[str]:
    """Remove the runtimes that no link leads to, and what was left half made."""
    kept = {_leads_to(home / "current"), _leads_to(home / "previous")}
    for path in sorted((home / "runtimes").iterdir()):
        if path.name not in kept and re.fullmatch(r"[0-9a-f]{16}(\.partial)?", path.name):
            _remove(path)
            yield path.name


def _remove(path: Path) -> None:
    """As something half made: a runtime that is half removed must not be taken for a whole one."""
    if path.suffix != ".partial":
        shutil.rmtree(_partial(path), ignore_errors=True)
        path = path.rename(_partial(path))
        sync(path.parent)
    shutil.rmtree(path, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Install, print what was done as JSON, and return the exit code."""
    parser = argparse.ArgumentParser(description="Unpack a runtime of edgeslm.")
    parser.add_argument("--runtime", type=Path, required=True, help="runtime.json, or a blob of it")
    parser.add_argument("--wheels", type=Path, required=True, help="the folder of the wheels")
    parser.add_argument("--root", type=Path, default=Path("/"), help="of the system")
    parser.add_argument("--place", default=OPT, help=f"below the root; default {OPT}")
    parser.add_argument("--no-compile", action="store_true", help="leave Python uncompiled")
    parser.add_argument("--id", help="which runtime; default: the best for this machine")
    given = parser.parse_args(arguments)
    try:
        with reading(given.runtime):
            data = given.runtime.read_bytes()
        runtimes = read_runtimes(data, str(given.runtime))
        here = given.id is None
        chosen = choose(runtimes, this_device()) if here else by_id(runtimes, given.id)
        done = install(
            *(runtimes, chosen, given.wheels, given.root),
            place=given.place,
            interpreter=sys.executable if here else None,
            compiled=not given.no_compile,
            tried=here,
        )
    except EdgeslmError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(to_json(done)))
    return 0
