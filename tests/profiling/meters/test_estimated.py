"""Without an instrument the target's watts serve, and say that they are estimated."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.profiling.meters import estimated, find_meter
from edgeslm.profiling.meters.base import Scope
from edgeslm.profiling.meters.estimated import EstimatedMeter
from edgeslm.profiling.meters.surroundings import Surroundings
from edgeslm.records import Provenance
from edgeslm.targets.loading import load_target


def test_watts_times_seconds() -> None:
    ticks = iter([100.0, 103.0])
    meter = EstimatedMeter(4.0, "a test", clock=lambda: next(ticks))

    first = meter.read_joules()

    assert meter.read_joules() - first == pytest.approx(12.0)
    assert meter.provenance is Provenance.ESTIMATED
    assert meter.scope is Scope.BOARD


def bare(root: Path) -> Surroundings:
    """A machine that can measure nothing."""
    return Surroundings(root=root, system="Linux", environment={}, plugins=lambda: ())


def test_the_targets_watts_are_the_fallback(tmp_path: Path) -> None:
    target = load_target("rpi3b-plus")

    meter, reasons = find_meter(target, here=bare(tmp_path))

    assert meter is not None
    assert meter.provenance is Provenance.ESTIMATED
    assert "5.6 W" in meter.source
    assert "sbc-reviews" in meter.source
    assert reasons[0].startswith("estimated: 5.6 W")
    assert reasons[1].startswith("not here: hwmon, rails, rapl, pmic, battery, powermetrics")


def test_a_target_without_watts_gives_no_meter(tmp_path: Path) -> None:
    target = load_target("rpi-zero-2w")

    assert find_meter(target, here=bare(tmp_path)).meter is None
    assert "rpi-zero-2w has no power.load_watts" in estimated.find(target).reason


def test_neither_counter_nor_target_gives_no_meter(tmp_path: Path) -> None:
    meter, reasons = find_meter(here=bare(tmp_path))

    assert meter is None
    assert len(reasons) == 1
    assert "rapl" in reasons[0]
    assert "estimated" in reasons[0]
