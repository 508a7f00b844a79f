"""All verbs by their names, each loaded when it is asked for.

A board starts sooner and keeps megabytes free without the modules of the others.
"""

from __future__ import annotations

import importlib
import inspect
from collections import UserDict
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

_MODULES = {
    "convert": "make",
    "quantize": "make",
    "pack": "pack",
    "sign": "bundles",
    "verify": "bundles",
    "unpack": "bundles",
    "push": "bundles",
    "pull": "bundles",
    "evaluate": "judge",
    "inspect": "look",
    "run": "talk",
    "chat": "talk",
    "serve": "host",
    "fit": "fit",
    "profile": "measure",
    "bench": "bench",
    "report": "report",
    "tune": "tune",
    "doctor": "doctor",
    "wheels": "wheels",
    "flash": "flash",
    "delta": "store",
    "targets": "targets",
    "store": "store",
}
"""By verb, in the order of the help: the module that has the function or group of its name."""
_GROUPS = ("targets", "store")


class Verbs(TyperGroup):
    """The program's commands."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands(dict.fromkeys(_MODULES))


class _Commands(UserDict[str, Any]):
    def __getitem__(self, name: str) -> Any:
        if self.data[name] is None:
            self.data[name] = _load(name)
        return self.data[name]


def _load(name: str) -> Any:
    module = importlib.import_module(f"edgeslm.cli.{_MODULES[name]}")
    if name in _GROUPS:
        for info in module.app.registered_commands:
            if info.callback is not None:
                info.help = _help(info.callback)
        return get_group(module.app)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    function = getattr(module, name)
    alone.command(help=_help(function))(function)
    return get_command(alone)


def _help(command: Callable[..., None]) -> str:
    """The command's docstring, with the lines of its examples kept apart."""
    return (inspect.getdoc(command) or "").replace("Examples:", "\b\nExamples:")
