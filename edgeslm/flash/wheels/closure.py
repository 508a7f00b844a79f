"""Which wheels a device needs of those that are there: every requirement of every one, followed.

pip asks conditions such as `python_version < "3.12"` of the Python that it runs in, not of the one
it fetches for. So what it found is gone through again with the device's answers.
"""

from __future__ import annotations

import email.parser
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm.errors import InvalidBundle, NotFound, reading
from edgeslm.flash.wheels.tags import parse_name

if TYPE_CHECKING:
    from packaging.requirements import Requirement


@dataclass(frozen=True)
class Closure:
    """What is needed: the wheels that are there, and requirements that none of them meets."""

    wheels: tuple[Path, ...]
    missing: tuple[str, ...]


def ensure_packaging() -> None:
    """Return if the package that reads requirements is there.

    Raises:
        NotFound: it is not.
    """
    try:
        import packaging.requirements  # noqa: F401
    except ImportError as error:
        raise NotFound(
            "the package `packaging` is not installed", hint="pip install 'edgeslm[wheels]'"
        ) from error


def close(
    wheels: Iterable[Path], first: str, extras: Sequence[str], architecture: str, python: str
) -> Closure:
    """Follow the requirements of a package on a device.

    Args:
        wheels: All that are there.
        first: Its name.
        extras: Of it.
        architecture: As Linux names it.
        python: Its version: 3.11.

    Raises:
        InvalidBundle: a wheel does not say what it requires.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    there = {canonicalize_name(parse_name(path.name).name): path for path in wheels}
    environment = _environment(architecture, python)
    open_ = [Requirement(f"{first}[{','.join(extras)}]" if extras else first)]
    asked: set[tuple[str, frozenset[str]]] = set()
    used: dict[str, Path] = {}
    missing: list[str] = []
    while open_:
        wanted = open_.pop()
        name = canonicalize_name(wanted.name)
        path = there.get(name)
        if path is None or not wanted.specifier.contains(parse_name(path.name).version, True):
            missing.append(_without_marker(wanted))
            continue
        used[name] = path
        key = (name, frozenset(wanted.extras))
        if key not in asked:
            asked.add(key)
            open_ += _required(path, wanted.extras, environment)
    return Closure(tuple(sorted(used.values())), tuple(dict.fromkeys(missing)))


def _required(path: Path, extras: Iterable[str], environment: dict[str, str]) -> list[Requirement]:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        found = [Requirement(text) for text in requirements_of(path)]
    except InvalidRequirement as error:
        raise InvalidBundle(f"{path.name}: {error}", hint="Leave that package out.") from error
    cases = [environment | {"extra": extra} for extra in ("", *extras)]
    return [
        each
        for each in found
        if each.marker is None or any(each.marker.evaluate(case) for case in cases)
    ]


def requirements_of(path: Path) -> list[str]:
    """The requirements that a wheel states, each with its condition.

    Raises:
        InvalidBundle: it states none of its facts.
    """
    name = parse_name(path.name)
    place = f"{name.name}-{name.version}.dist-info/METADATA"
    try:
        with reading(path), zipfile.ZipFile(path) as archive:
            text = archive.read(place).decode("utf-8", "replace")
    except (zipfile.BadZipFile, KeyError) as error:
        raise InvalidBundle(f"{path.name}: no {place}", hint="Fetch it again.") from error
    return email.parser.HeaderParser().parsestr(text).get_all("Requires-Dist") or []


def _without_marker(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def _environment(architecture: str, python: str) -> dict[str, str]:
    """The device's answers to conditions."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": architecture,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
