"""The power management chip of a Raspberry Pi 5, replayed by a program that prints its words."""

from __future__ import annotations

import math
from pathlib import Path

import boards
import pytest
import recorded
from hypothesis import example, given
from hypothesis import strategies as st

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters import pmic
from edgeslm.profiling.meters.base import Finding, Scope, State
from edgeslm.profiling.meters.sampled import SampledMeter
from edgeslm.profiling.meters.surroundings import Surroundings
from edgeslm.records import Provenance


def look(root: Path, code: str | None, model: str = "Raspberry Pi 5 Model B Rev 1.0") -> Finding:
    boards.lay_out({"proc/device-tree/model": f"{model}\0"}, root)
    programs = root / "bin"
    programs.mkdir(exist_ok=True)
    if code is not None:
        recorded.install(programs, "vcgencmd", code)
    return pmic.find(Surroundings(root=root, search_path=str(programs)))


def test_the_sum_over_the_rails() -> None:
    watts, count = pmic.rail_watts(recorded.PMIC)

    assert watts == pytest.approx(recorded.PMIC_WATTS)
    assert watts == pytest.approx(1.72, abs=0.01)
    assert count == 12


def test_watts_at_the_wall_are_labelled_as_estimated(tmp_path: Path) -> None:
    meter = look(tmp_path, recorded.prints(recorded.PMIC)).meter

    assert isinstance(meter, SampledMeter)
    assert meter._integral._read_watts() == pytest.approx(1.1451 * recorded.PMIC_WATTS + 0.5879)
    assert meter.provenance is Provenance.ESTIMATED
    assert meter.scope is Scope.BOARD
    assert "12 rails" in meter.source
    assert "the sum is 1.72 W now" in meter.source


def test_it_is_asked_for_the_right_thing(tmp_path: Path) -> None:
    code = f"import sys\nif sys.argv[1:] == ['pmic_read_adc']:\n    print({recorded.PMIC!r})\n"

    assert look(tmp_path, code).state is State.FOUND


def test_joules_by_hand(tmp_path: Path) -> None:
    meter = look(tmp_path, recorded.prints(recorded.PMIC)).meter
    assert isinstance(meter, SampledMeter)
    ticks = iter([0.0, 0.0, 4.0, 4.0])
    meter._integral._clock = lambda: next(ticks)
    meter._integral.sample()

    assert meter._integral.sample() == pytest.approx(4 * (1.1451 * recorded.PMIC_WATTS + 0.5879))


@pytest.mark.parametrize(
    ("code", "model", "state", "said"),
    [
        (recorded.prints(recorded.PMIC), "Radxa ROCK 5B", State.ABSENT, "no Raspberry Pi"),
        (None, "Raspberry Pi 5 Model B Rev 1.0", State.ABSENT, "vcgencmd is not installed"),
        (
            recorded.prints('error=1 error_msg="Command not registered"\n'),
            "Raspberry Pi 4 Model B Rev 1.4",
            State.ABSENT,
            "does not measure its current",
        ),
        (
            "import sys\nsys.exit('error=1')",
            "Raspberry Pi 4 Model B Rev 1.4",
            State.ABSENT,
            "does not measure its current",
        ),
        (
            'import sys\nsys.exit("Can\'t open device file: /dev/vcio")',
            "Raspberry Pi 5 Model B Rev 1.0",
            State.FAILED,
            "Can't open device file: /dev/vcio",
        ),
    ],
)
def test_why_there_is_none(
    code: str | None, model: str, state: State, said: str, tmp_path: Path
) -> None:
    finding = look(tmp_path, code, model)

    assert (finding.state, finding.meter) == (state, None)
    assert said in finding.reason


def test_a_program_that_stops_working_is_a_failure(tmp_path: Path) -> None:
    meter = look(tmp_path, recorded.prints(recorded.PMIC)).meter
    assert meter is not None
    meter.read_joules()
    recorded.install(tmp_path / "bin", "vcgencmd", "raise SystemExit(3)")

    with pytest.raises(MeasurementFailure, match="code 3"):
        meter.read_joules()


@given(st.text() | st.lists(st.sampled_from(recorded.PMIC.splitlines())).map("\n".join))
@example(" A_A current(1)=999999.999999999999A\n A_V volt(2)=-999999.9V")
@example(" A_A current(1)=1e999A\n A_V volt(2)=nanV")
def test_whatever_it_prints_is_a_number_or_a_reason(text: str) -> None:
    try:
        watts, count = pmic.rail_watts(text)
    except ValueError:
        return
    assert math.isfinite(watts)
    assert count >= 1
