"""runtime.json: which wheels make up the runtime of which kind of device. Standard library only.

The device reads it with this module too, before anything else of edgeslm is there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from edgeslm.bundle.documents import canonical, parse
from edgeslm.errors import InvalidBundle
from edgeslm.records import RUNTIME_SCHEMA, document, from_json

RUNTIME_NAME = "runtime.json"
_WHEEL_NAME = r"[\w.+!-]{1,200}\.whl"
_VERSION = r"\d{1,4}\.\d{1,4}"
_AGAIN = "Make it again: edgeslm wheels"


@dataclass(frozen=True)
class WheelFile:
    """A wheel by its file name; `sha256` in hex."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Runtime:
    """What one kind of device runs.

    Attributes:
        id: 16 hex digits, by what it is made of.
        architecture: As Linux names it: aarch64, x86_64.
        march: The instruction set that llama.cpp was compiled for, as the compiler takes it.
        features: What a processor must be able to do for that, as Linux names it.
        python: Its version: 3.11.
        glibc: The oldest C library that it runs with: 2.34.
        libraries: What the system has to have beside that, by soname.
        wheels: Names of files, sorted.
    """

    id: str
    architecture: str
    march: str
    features: tuple[str, ...]
    python: str
    glibc: str
    libraries: tuple[str, ...]
    wheels: tuple[str, ...]


@dataclass(frozen=True)
class RuntimeList:
    """All runtimes of a folder or a bundle, and the wheels they share.

    Attributes:
        edgeslm: Its version.
        llama_cpp_python: Its version.
        wheels: Sorted by name.
        runtimes: Sorted by architecture, instruction set and Python.
    """

    edgeslm: str
    llama_cpp_python: str
    wheels: tuple[WheelFile, ...]
    runtimes: tuple[Runtime, ...]

    def wheels_of(self, runtime: Runtime) -> tuple[WheelFile, ...]:
        """The wheels that make it up."""
        return tuple(wheel for wheel in self.wheels if wheel.name in runtime.wheels)


def runtime_id(digests: Iterable[str], python: str) -> str:
    """16 hex digits for what a runtime is made of.

    Args:
        digests: SHA-256 of each wheel, hex.
        python: Its version, as in 3.11.
    """
    text = "\n".join([*sorted(digests), f"python {python}", ""])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_runtimes(runtimes: RuntimeList) -> bytes:
    """The document; the same for the same list."""
    return canonical(document(RUNTIME_SCHEMA, runtimes))


def read_runtimes(data: bytes, where: str) -> RuntimeList:
    """The list in a document.

    Args:
        data: Its text.
        where: What it is, for messages.

    Raises:
        InvalidBundle: it is none, or contradicts itself.
    """
    value = parse(data, where)
    if not isinstance(value, dict) or value.get("schema") != RUNTIME_SCHEMA:
        raise InvalidBundle(f"{where}: not a document of {RUNTIME_SCHEMA}", hint=_AGAIN)
    try:
        found = from_json(RuntimeList, value)
    except ValueError as error:
        raise InvalidBundle(f"{where}: {error}", hint=_AGAIN) from error
    if (problem := _problem(found)) is not None:
        raise InvalidBundle(f"{where}: {problem[:300]}", hint=_AGAIN)
    return found


def _problem(found: RuntimeList) -> str | None:
    known = {wheel.name: wheel for wheel in found.wheels}
    if len(known) < len(found.wheels):
        return "a wheel is there twice"
    for wheel in found.wheels:
        if not re.fullmatch(_WHEEL_NAME, wheel.name, re.ASCII):
            return f"not the name of a wheel: {wheel.name!r}"
        if not re.fullmatch("[0-9a-f]{64}", wheel.sha256) or wheel.bytes < 0:
            return f"{wheel.name}: no hash or size of it"
    if len({runtime.id for runtime in found.runtimes}) < len(found.runtimes):
        return "a runtime is there twice"
    for runtime in found.runtimes:
        if missing := sorted(set(runtime.wheels) - set(known)):
            return f"{missing[0]!r} is not among the wheels"
        if not all(re.fullmatch(_VERSION, text) for text in (runtime.python, runtime.glibc)):
            return f"no versions: Python {runtime.python!r}, glibc {runtime.glibc!r}"
        digests = [known[name].sha256 for name in runtime.wheels]
        if runtime.id != runtime_id(digests, runtime.python):
            return f"the runtime {runtime.id!r} is not made of its wheels"
    return None
