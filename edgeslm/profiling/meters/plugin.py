"""Meters of others: any installed package may bring one.

It names a function in its entry points (`pyproject.toml`):

    [project.entry-points."edgeslm.meters"]
    bench-supply = "my_package:find_meter"

The function takes nothing, and returns an object with what `base.Meter` asks for, or None where its
instrument is not connected. Whatever goes wrong in it is reported, and stops nothing else.
"""

from __future__ import annotations

import math
from importlib.metadata import EntryPoint
from typing import Any

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters import base
from edgeslm.profiling.meters.base import Finding, Scope
from edgeslm.profiling.meters.surroundings import Surroundings
from edgeslm.records import Provenance

_UPDATE = "Update or remove the package that brings it."


class PluginMeter:
    """Somebody else's meter, held to what a meter promises."""

    def __init__(self, meter: Any) -> None:
        """Take its description.

        Raises:
            Exception: whatever reading it raises; AttributeError or ValueError if it lacks
                something.
        """
        self._meter = meter
        self.name = str(meter.name)
        self.scope = Scope(meter.scope)
        self.provenance = Provenance(meter.provenance)
        self.source = str(meter.source)
        self.period_seconds = float(meter.period_seconds)
        if not math.isfinite(self.period_seconds) or self.period_seconds < 0:
            raise ValueError(f"period_seconds is {self.period_seconds}")
        self._last = -math.inf
        self._read()

    def read_joules(self) -> float:
        """Energy counted so far.

        Raises:
            MeasurementFailure: the plugin failed, or its figure went back.
        """
        try:
            return self._read()
        except Exception as error:
            raise MeasurementFailure(
                f"the meter {self.name} failed: {_described(error)}",
                hint="Look at the instrument; the package that brings the meter may know more.",
            ) from error

    def _read(self) -> float:
        joules = float(self._meter.read_joules())
        if not math.isfinite(joules):
            raise ValueError(f"{joules} joules")
        if joules < self._last:
            raise ValueError(f"{joules:g} joules after {self._last:g}")
        self._last = joules
        return joules


def find(here: Surroundings) -> tuple[Finding, ...]:
    """One finding for each meter that an installed package brings."""
    return tuple(_open(plugin) for plugin in here.plugins())


def _open(plugin: EntryPoint) -> Finding:
    try:
        meter = plugin.load()()
        if meter is None:
            return base.absent(plugin.name, f"{plugin.value} finds no instrument")
        checked = PluginMeter(meter)
    except Exception as error:  # foreign code: it may raise anything
        return base.failed(plugin.name, f"{plugin.value} failed: {_described(error)}", _UPDATE)
    return base.found(checked, checked.source, name=plugin.name)


def _described(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
