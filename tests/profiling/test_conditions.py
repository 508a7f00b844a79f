from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import boards
import pytest

from edgeslm.profiling.conditions import Observer, others, taints
from edgeslm.profiling.measurement import Conditions, Moment
from edgeslm.profiling.speed import speed_of
from edgeslm.runtime.machine import CpuTimes, Sensors

CALM = Moment(0.0, 50.0, 85.0, 2400.0, 2400.0, (), ())
QUIET = Conditions(
    before=CALM,
    during=(CALM,) * 6,
    after=CALM,
    cores=4,
    other_cores_before=0.02,
    other_cores=0.03,
    busiest_other_cores=0.1,
    swapped_in_bytes=0,
    read_bytes=0,
    major_faults=0,
)
STEADY = speed_of(10, [1.0, 1.01, 1.02, 1.03])


def _during(**changes: list[float]) -> tuple[Moment, ...]:
    names = list(changes)
    return tuple(
        replace(CALM, **dict(zip(names, values, strict=True)))
        for values in zip(*changes.values(), strict=True)
    )


def test_a_quiet_machine_taints_nothing() -> None:
    assert taints(QUIET, [STEADY], 4) == ()


def test_a_machine_that_tells_nothing_taints_nothing() -> None:
    silent = Moment(0.0, None, 85.0, None, None, (), ())
    unknown = replace(
        QUIET,
        before=silent,
        during=(silent,) * 6,
        after=silent,
        other_cores_before=None,
        other_cores=None,
        busiest_other_cores=None,
        swapped_in_bytes=None,
    )
    assert taints(unknown, [STEADY], 4) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"other_cores_before": 0.9}, "0.90 cores before the runs"),
        ({"other_cores": 0.2, "busiest_other_cores": 1.0}, "0.20 cores during the counted runs"),
        ({"busiest_other_cores": 0.8}, "0.80 cores during a part"),
        ({"swapped_in_bytes": 5_000_000}, "5.00 MB came back from swap"),
        ({"before": replace(CALM, held_back=("undervoltage",))}, "held back: undervoltage"),
        ({"during": (replace(CALM, held_back=("throttled",)),)}, "held back: throttled"),
        ({"after": replace(CALM, since_boot=("throttled",))}, "at some time during the runs"),
        ({"during": _during(megahertz=[2400.0, 2300.0, 1500.0])}, "fell to 1500 MHz"),
        ({"during": _during(megahertz=[1500.0, 1500.0])}, "stayed at 1500 MHz of 2400 MHz"),
        (
            {"during": _during(seconds=[0.0, 5, 10, 15], celsius=[50.0, 55, 60, 65])},
            "still warming up: 5 °C in the last 5 seconds",
        ),
    ],
)
def test_each_of_these_taints(changes: dict[str, object], words: str) -> None:
    found = taints(replace(QUIET, **changes), [STEADY], 4)  # type: ignore[arg-type]
    assert len(found) == 1
    assert words in found[0]


def test_what_was_so_before_is_no_news() -> None:
    old = replace(CALM, since_boot=("throttled",))
    assert taints(replace(QUIET, before=old, after=old), [STEADY], 4) == ()


def test_cores_at_rest_lower_the_mean_clock() -> None:
    slow = replace(QUIET, during=_during(megahertz=[1000.0, 1000.0]))
    assert taints(slow, [STEADY], 1) == ()


def test_slow_warming_is_none() -> None:
    slow = _during(seconds=[0.0, 100, 200, 300], celsius=[50.0, 53, 56, 59])
    assert taints(replace(QUIET, during=slow), [STEADY], 4) == ()


def test_decode_runs_that_differ_taint() -> None:
    restless = speed_of(10, [1.0, 1.1, 1.3])
    (found,) = taints(QUIET, [STEADY, restless], 4)
    assert "decode runs differ so much that their median is known to 18% only" in found
    assert taints(QUIET, [speed_of(10, [1.0, 1.3])], 4) == ()
    assert taints(QUIET, [speed_of(10, [1.0, 1.01, 1.02, 0.99, 1.3])], 4) == ()


@pytest.mark.parametrize(("later", "says"), [(1.1, "9% slower"), (0.9, "11% faster")])
def test_a_speed_that_changes_taints(later: float, says: str) -> None:
    drifting = speed_of(10, [1.0, 1.01, 1.0, 1.0, later, later, later, later + 0.01])
    (found,) = [each for each in taints(QUIET, [STEADY, drifting], 4) if "half" in each]
    assert says in found


def test_one_disturbed_run_is_no_change_of_speed() -> None:
    disturbed = speed_of(10, [1.0, 1.01, 1.0, 0.99, 1.0, 1.4, 1.0])
    assert taints(QUIET, [disturbed], 4) == ()


def _run(at: float, seconds: float, everybody: float, own: float) -> tuple[CpuTimes, CpuTimes]:
    return CpuTimes(at, 0.0, 0.0), CpuTimes(at + seconds, everybody, own)


def test_others_on_average_and_in_the_worst_second() -> None:
    runs = [_run(0, 1, 2.0, 2.0), _run(2, 1, 2.5, 2.0), _run(4, 2, 4.0, 4.0)]
    assert others(runs) == pytest.approx((0.125, 0.5))


def test_short_runs_are_put_together() -> None:
    short = [_run(number, 0.1, 0.1, 0.0) for number in range(5)]
    assert others(short) == (pytest.approx(1.0), None)
    assert others(short[:2]) == (None, None)
    mean, worst = others([*short, *(_run(number, 0.1, 0.0, 0.0) for number in range(5, 10))])
    assert mean == pytest.approx(0.5)
    assert worst is None or worst == pytest.approx(0.5)


def test_programs_of_low_priority_count() -> None:
    before, after = CpuTimes(0, 0.0, 0.0), CpuTimes(1, 2.0, 1.0, polite_seconds=1.0)
    assert others([(before, after)]) == (1.0, 1.0)


def test_nobody_tells() -> None:
    assert others([(None, None)]) == (None, None)
    assert others([]) == (None, None)


def test_a_warm_board_is_seen(tmp_path: Path) -> None:
    root = boards.lay_out(boards.RPI4, tmp_path)
    observer = Observer(Sensors(root, range(4)), root)
    with observer.counted():
        pass
    found = observer.finish()
    assert len(found.during) == 1
    for moment in (found.before, *found.during, found.after):
        assert (moment.celsius, moment.megahertz, moment.most_megahertz) == (81.3, 1500, 1800)
        assert moment.held_back == ("frequency capped", "throttled")
    assert found.cores == 4
    assert (found.other_cores, found.swapped_in_bytes, found.read_bytes) == (None, None, None)
    words = " ".join(taints(found, [STEADY], 4))
    assert "held back: frequency capped, throttled" in words


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who computes")
def test_a_busy_neighbour_is_seen_before_and_during_the_runs() -> None:
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        observer = Observer(Sensors())
        time.sleep(0.6)
        observer.rested()
        with observer.counted():
            time.sleep(1.1)
    finally:
        neighbour.kill()
        neighbour.wait()
    found = observer.finish()
    words = " ".join(taints(found, [STEADY], 1))
    assert "cores before the runs" in words
    assert "cores during the counted runs" in words


def test_the_windows_that_were_watched_are_timed(tmp_path: Path) -> None:
    observer = Observer(Sensors(tmp_path, range(1)), tmp_path)
    for _ in range(2):
        with observer.counted():
            time.sleep(0.1)
        time.sleep(0.5)  # and nothing between them
    seconds = observer.finish().observed_seconds
    assert seconds is not None
    assert 0.2 <= seconds < 0.7
