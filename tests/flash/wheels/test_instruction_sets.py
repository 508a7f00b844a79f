from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import InvalidOption
from edgeslm.flash.wheels.instruction_sets import AARCH64, TELLTALES, instruction_set, native
from edgeslm.targets.loading import list_targets
from edgeslm.targets.target import Target


@pytest.mark.parametrize("board", list_targets(), ids=lambda board: board.id)
def test_every_board_can_run_what_is_built_for_it(board: Target) -> None:
    march = board.cores[0].march
    if march is None:
        assert board.id.startswith("apple")
        return
    found = instruction_set(march)
    assert found.architecture == board.architecture
    assert set(found.features) <= set(board.features)


def test_arm_takes_the_name_as_it_is() -> None:
    old, new = instruction_set("armv8-a"), instruction_set("armv8.2-a+dotprod+fp16")

    assert old.features == ()
    assert set(new.features) == {"atomics", "asimddp", "fphp", "asimdhp"}
    assert new.cmake_options == ("-DGGML_NATIVE=OFF", "-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16")
    assert new.tag == "armv8_2_a_dotprod_fp16"


def test_a_base_or_extension_brings_others_along() -> None:
    ninth, alone = instruction_set("armv9-a"), instruction_set("armv8.2-a+sve")

    halves = {"fphp", "asimdhp"}  # the compiler uses them wherever there is SVE
    assert set(ninth.features) == {"atomics", "asimddp", "sve", "sve2", *halves}
    assert set(alone.features) == {"atomics", "sve", *halves}
    assert set(instruction_set("armv8.2-a+sve2+dotprod").features) == set(ninth.features)


@pytest.mark.parametrize(
    ("line", "tells"),
    [
        ("   41278:\tsdot\tv0.4s, v1.16b, v2.16b", {"asimddp"}),
        ("    a1c:\tsmmla\tv6.4s, v20.16b, v22.16b", {"i8mm"}),
        ("    1f4:\tsdot\tz4.s, z0.b, z1.b", {"sve"}),
        ("    1f4:\tsmmla\tz4.s, z0.b, z1.b", {"sve"}),
        ("     10:\tld1w\t{z0.s}, p0/z, [x1, x2, lsl #2]", {"sve"}),
        ("     10:\tbl\t10 <_Z3sdotz1.part.0>", set()),
    ],
)
def test_an_instruction_tells_of_its_own_feature(line: str, tells: set[str]) -> None:
    patterns = TELLTALES[AARCH64].items()
    assert {name for name, pattern in patterns if re.search(pattern, line)} == tells


def test_x86_is_a_list_of_switches() -> None:
    plain, third = instruction_set("x86-64"), instruction_set("x86-64-v3")

    assert all(option.endswith("=OFF") for option in plain.cmake_options)
    assert {"-DGGML_AVX2=ON", "-DGGML_SSE42=ON", "-DGGML_AVX_VNNI=OFF"} <= set(third.cmake_options)
    assert "-DGGML_AVX_VNNI=ON" in instruction_set("gracemont").cmake_options


def test_native_needs_what_this_machine_has() -> None:
    found = native("x86_64", ("fpu", "avx", "avx2", "lm"))

    assert found.cmake_options == ("-DGGML_NATIVE=ON",)
    assert found.features == ("avx", "avx2")
    assert not found.exact
    with pytest.raises(InvalidOption, match="riscv64"):
        native("riscv64", ())


@given(st.text(max_size=30) | st.sampled_from(["armv8-a+", "+dotprod", "armv8.2-a+nope", ""]))
def test_other_names_are_refused(text: str) -> None:
    try:
        found = instruction_set(text)
    except InvalidOption as error:
        assert error.hint
        return
    assert found.march == text
