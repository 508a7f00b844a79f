"""Meters of other packages: found by their entry points, held to their promises."""

from __future__ import annotations

import math
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters import find_meter, plugin
from edgeslm.profiling.meters.base import Finding, Scope, State
from edgeslm.profiling.meters.surroundings import PLUGIN_GROUP, Surroundings
from edgeslm.records import Provenance


class BenchSupply:
    """What the documentation shows: plain text where edgeslm has enumerations."""

    name = "bench-supply"
    scope = "board"
    provenance = "measured"
    source = "a bench supply at /dev/ttyUSB0"
    period_seconds = 0.05

    def __init__(self) -> None:
        self.readings: list[float | Exception] = [1.0, 2.5, 4.0]

    def read_joules(self) -> float:
        value = self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]
        if isinstance(value, Exception):
            raise value
        return value


made: list[BenchSupply] = []


def find_supply() -> BenchSupply:
    made.append(BenchSupply())
    return made[-1]


def find_nothing() -> None:
    return None


def find_trouble() -> BenchSupply:
    raise RuntimeError("the serial port\nis busy")


def find_number() -> int:
    return 5


class WrongScope(BenchSupply):
    scope = "everything"


class WrongPeriod(BenchSupply):
    period_seconds = math.nan


class NoJoules(BenchSupply):
    def read_joules(self) -> float:
        return math.nan


def look(what: str) -> Finding:
    entry = EntryPoint("mine", f"{__name__}:{what}", PLUGIN_GROUP)
    (finding,) = plugin.find(Surroundings(plugins=lambda: [entry]))
    return finding


def test_a_meter_of_another_package() -> None:
    finding = look("find_supply")
    meter = finding.meter
    assert meter is not None, finding.reason

    assert finding.name == "mine"
    assert (meter.name, meter.scope, meter.provenance) == (
        "bench-supply",
        Scope.BOARD,
        Provenance.MEASURED,
    )
    first = meter.read_joules()  # looking took the reading before
    assert meter.read_joules() - first == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("what", "state", "said"),
    [
        ("find_nothing", State.ABSENT, "finds no instrument"),
        ("find_trouble", State.FAILED, "RuntimeError: the serial port is busy"),
        ("find_number", State.FAILED, "AttributeError"),
        ("WrongScope", State.FAILED, "'everything' is not a valid Scope"),
        ("WrongPeriod", State.FAILED, "period_seconds is nan"),
        ("NoJoules", State.FAILED, "nan joules"),
        ("nowhere", State.FAILED, "AttributeError"),
    ],
)
def test_trouble_is_reported_and_not_fatal(what: str, state: State, said: str) -> None:
    finding = look(what)

    assert (finding.state, finding.meter) == (state, None)
    assert said in finding.reason


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (ZeroDivisionError("oh"), "ZeroDivisionError: oh"),
        (0.5, "0.5 joules after 1"),
        (math.inf, "inf"),
    ],
)
def test_a_meter_that_breaks_its_promises(value: float | Exception, said: str) -> None:
    meter = look("find_supply").meter
    assert meter is not None
    made[-1].readings = [value]

    with pytest.raises(MeasurementFailure, match=said):
        meter.read_joules()


def test_the_documented_example_is_a_meter() -> None:
    page = (Path(__file__).parents[3] / "docs" / "measure.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(f"from __future__ import annotations\n{example}", names)

    meter = plugin.PluginMeter(names["find_meter"]())

    assert meter.name == "bench-supply"
    assert meter.read_joules() > 0


def test_an_installed_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench_supply.py").write_text(
        "class Supply:\n"
        "    name, scope, provenance, source = 'supply', 'board', 'measured', 'a supply'\n"
        "    period_seconds = 0.05\n"
        "    def read_joules(self): return 7.0\n"
    )
    info = tmp_path / "bench_supply-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-supply\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edgeslm.meters]\nsupply = bench_supply:Supply\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    found = find_meter(here=Surroundings(root=tmp_path, environment={}))

    assert found.meter is not None
    assert found.meter.read_joules() == 7.0
    assert found.reasons[0] == "supply: a supply"
