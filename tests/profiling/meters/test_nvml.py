"""NVIDIA's library, in a small stand-in with the same calls, so that ctypes is really used."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters import nvml
from edgeslm.profiling.meters.base import Scope, State
from edgeslm.profiling.meters.sampled import SampledMeter
from edgeslm.records import Provenance

SOURCE = Path(__file__).with_name("nvml_stand_in.c")


def build(folder: Path, *defines: str) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = folder / "libnvidia-ml.so.1"
    flags = [f"-D{define}" for define in defines]
    subprocess.run(
        [compiler, "-shared", "-fPIC", *flags, "-o", str(library), str(SOURCE)], check=True
    )
    return str(library)


def test_counters_of_all_cards_are_summed(tmp_path: Path) -> None:
    meter = nvml.find(build(tmp_path)).meter
    assert meter is not None  # reading 1 and 2: one for each card
    before = meter.read_joules()  # 3 and 4
    after = meter.read_joules()  # 5 and 6

    assert before == pytest.approx(2 * 5e9 + 3 + 4)
    assert after - before == pytest.approx(4.0)
    assert meter.source == "NVML energy counter, NVIDIA RTX A2000 + Tesla P4"
    assert (meter.scope, meter.provenance) == (Scope.GPU, Provenance.MEASURED)


def test_a_card_that_is_lost_is_a_failure(tmp_path: Path) -> None:
    meter = nvml.find(build(tmp_path)).meter
    assert meter is not None

    with pytest.raises(MeasurementFailure, match="GPU is lost"):
        for _ in range(9):
            meter.read_joules()


def test_cards_that_do_not_count_show_their_power(tmp_path: Path) -> None:
    meter = nvml.find(build(tmp_path, "COUNTS=0")).meter

    assert isinstance(meter, SampledMeter)
    assert meter._integral._read_watts() == pytest.approx(22.5 + 17.25)
    assert meter.source.startswith("NVML power, ")


@pytest.mark.parametrize(
    ("defines", "state", "said"),
    [
        (("CODE=4",), State.FORBIDDEN, "Insufficient Permissions"),
        (("CODE=9",), State.FAILED, "Driver Not Loaded (NVML code 9)"),
        (("CARDS=0",), State.ABSENT, "no card"),
    ],
)
def test_why_there_is_none(
    defines: tuple[str, ...], state: State, said: str, tmp_path: Path
) -> None:
    finding = nvml.find(build(tmp_path, *defines))

    assert (finding.state, finding.meter) == (state, None)
    assert said in finding.reason


def test_no_driver_and_no_library(tmp_path: Path) -> None:
    assert nvml.find(str(tmp_path / "libnvidia-ml.so.1")).state is State.ABSENT


def test_another_library_is_none_of_nvidia(tmp_path: Path) -> None:
    assert nvml.find("libc.so.6").state is State.FAILED
