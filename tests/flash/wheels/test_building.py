from __future__ import annotations

import pytest

from edgeslm.flash.wheels import building
from edgeslm.flash.wheels.collecting import Collected
from edgeslm.flash.wheels.instruction_sets import instruction_set

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_cross_built_runtime_is_complete(rpi5_runtime: Collected) -> None:
    (built,), (runtime,) = rpi5_runtime.built, rpi5_runtime.runtimes.runtimes

    assert built.needs.disassembled
    assert set(runtime.features) == {"atomics", "asimddp", "fphp", "asimdhp"}
    assert runtime.glibc == "2.34"
    assert runtime.libraries == ("libgcc_s.so.1", "libstdc++.so.6")
    assert built.path.stat().st_size < 4_000_000
    names = {name.split("-")[0] for name in runtime.wheels}
    assert {"edgeslm", "llama_cpp_python", "numpy", "uvicorn", "cryptography"} <= names
    assert not names & {"numba", "oras", "matplotlib", "torch"}


def test_the_next_board_of_the_kind_costs_nothing(rpi5_runtime: Collected) -> None:
    again = building.build(instruction_set("armv8.2-a+dotprod+fp16"))

    assert not again.new
    assert again.path == rpi5_runtime.built[0].path
