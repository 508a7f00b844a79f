"""Apple's powermetrics, replayed through a program that prints its property lists."""

from __future__ import annotations

import contextlib
import gc
import plistlib
import time
from pathlib import Path

import pytest
import recorded
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters import powermetrics
from edgeslm.profiling.meters.base import Meter, Scope, State
from edgeslm.profiling.meters.surroundings import Surroundings
from edgeslm.records import Provenance

LIST = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
<key>is_delta</key><true/>
<key>elapsed_ns</key><integer>{nanoseconds}</integer>
<key>hw_model</key><string>Mac14,3</string>
<key>timestamp</key><date>2025-11-02T10:11:12Z</date>
<key>processor</key><dict>
    <key>clusters</key><array><dict><key>name</key><string>E-Cluster</string>
    <key>freq_hz</key><real>1.0474e+09</real></dict></array>
    <key>ane_energy</key><integer>0</integer>
    <key>ane_power</key><real>0</real>
    <key>cpu_energy</key><integer>1104</integer>
    <key>cpu_power</key><real>5401.5</real>
    <key>gpu_energy</key><integer>9</integer>
    <key>gpu_power</key><real>44.25</real>
    <key>combined_power</key><real>{milliwatts}</real>
</dict>
</dict>
</plist>
"""


def a_list(milliwatts: float, nanoseconds: int) -> str:
    return LIST.format(milliwatts=milliwatts, nanoseconds=nanoseconds)


def a_mac(root: Path, code: str, *, is_root: bool = True) -> Surroundings:
    recorded.install(root / "bin", "powermetrics", code)
    return Surroundings(root=root, search_path=str(root / "bin"), system="Darwin", is_root=is_root)


def found(root: Path, code: str) -> Meter:
    finding = powermetrics.find(a_mac(root, code))
    assert finding.meter is not None, finding.reason
    return finding.meter


def stays(*lists: str) -> str:
    """Prints the lists and goes on running, like the real one."""
    text = "\0".join(lists)
    return (
        f"import sys, time\nsys.stdout.write({text!r})\nsys.stdout.flush()\n"
        f"open({{marker!r}}, 'w').write(str(__import__('os').getpid()))\ntime.sleep(60)\n"
    )


def eventually(meter: Meter, joules: float) -> float:
    end = time.monotonic() + 10
    while (read := meter.read_joules()) < joules - 1e-9 and time.monotonic() < end:
        time.sleep(0.02)
    return read


def test_joules_are_power_times_the_time_it_was_taken_over(tmp_path: Path) -> None:
    code = stays(a_list(5445.75, 204_321_500), a_list(2000.0, 500_000_000))
    meter = found(tmp_path, code.format(marker=str(tmp_path / "started")))
    expected = 5.44575 * 0.2043215 + 2.0 * 0.5

    assert eventually(meter, expected) == pytest.approx(expected)
    assert (meter.name, meter.scope) == ("powermetrics", Scope.PACKAGE)
    assert meter.provenance is Provenance.ESTIMATED
    assert meter.period_seconds == 0.2
    assert "--samplers cpu_power --format plist -i 200" in meter.source


def test_the_program_ends_with_its_meter(tmp_path: Path) -> None:
    marker = tmp_path / "started"
    meter = found(tmp_path, stays(a_list(1000.0, 10**9)).format(marker=str(marker)))
    eventually(meter, 1.0)
    end = time.monotonic() + 10
    while not (marker.exists() and marker.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    process = Path("/proc") / marker.read_text()
    assert process.exists()

    del meter
    gc.collect()

    assert not process.exists()


def test_a_program_that_ends_is_a_failure(tmp_path: Path) -> None:
    meter = found(tmp_path, recorded.prints(a_list(1000.0, 10**9)))

    with pytest.raises(MeasurementFailure, match="it has ended"):
        for _ in range(500):
            meter.read_joules()
            time.sleep(0.02)


def test_one_that_prints_something_else_is_a_failure(tmp_path: Path) -> None:
    meter = found(tmp_path, recorded.prints("powermetrics must be invoked as the superuser\n"))

    with pytest.raises(MeasurementFailure):
        meter.read_joules()


def test_one_that_falls_silent_is_a_failure(tmp_path: Path) -> None:
    code = stays(a_list(1000.0, 10**9)).format(marker=str(tmp_path / "started"))
    here = a_mac(tmp_path, code)
    now = [0.0]
    command = (here.program("powermetrics") or "",)
    meter = powermetrics.PowermetricsMeter(command, clock=lambda: now[0])
    eventually(meter, 1.0)
    now[0] = 60.0

    with pytest.raises(MeasurementFailure, match="silent"):
        meter.read_joules()


def test_only_on_a_mac_and_only_for_root(tmp_path: Path) -> None:
    mac = a_mac(tmp_path, "", is_root=False)

    assert powermetrics.find(mac).state is State.FORBIDDEN
    assert "sudo" in (powermetrics.find(mac).hint or "")
    assert powermetrics.find(Surroundings(system="Linux")).state is State.ABSENT
    bare = Surroundings(system="Darwin", search_path=str(tmp_path))
    assert powermetrics.find(bare).state is State.ABSENT


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"elapsed_ns": 5},
        {"processor": {"combined_power": 5.0}},
        {"elapsed_ns": 5, "processor": {"cpu_power": 5.0}},
        {"elapsed_ns": "5", "processor": {"combined_power": 5.0}},
        {"elapsed_ns": True, "processor": {"combined_power": 5.0}},
        {"elapsed_ns": 5, "processor": {"combined_power": float("nan")}},
        {"elapsed_ns": 5, "processor": {"combined_power": float("inf")}},
        {"elapsed_ns": 5, "processor": {"combined_power": -5.0}},
        {"elapsed_ns": 5, "processor": []},
    ],
)
def test_lists_without_what_is_needed(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        powermetrics.joules_of(plistlib.dumps(value))


TAGS = ("dict", "key", "integer", "real", "array", "string", "date", "data", "true")


@given(
    st.binary()
    | st.lists(
        st.sampled_from([*(f"<{t}>" for t in TAGS), *(f"</{t}>" for t in TAGS), "elapsed_ns", "9"])
    ).map(lambda parts: f'<plist version="1.0">{"".join(parts)}</plist>'.encode())
)
def test_whatever_is_printed_is_a_number_or_a_reason(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert powermetrics.joules_of(text) >= 0
