from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from made_wheels import make_library, make_wheel

from edgeslm import processor
from edgeslm.files import sha256
from edgeslm.flash.wheels import building
from edgeslm.flash.wheels.building import Tools
from edgeslm.flash.wheels.collecting import Collected
from edgeslm.flash.wheels.instruction_sets import AARCH64, X86_64, instruction_set

HERE = X86_64 if processor.architecture() == X86_64 else AARCH64
PLAIN, MORE = {
    X86_64: (instruction_set("x86-64"), instruction_set("x86-64-v3")),
    AARCH64: (instruction_set("armv8-a"), instruction_set("armv8.2-a+dotprod")),
}[HERE]
BLIND = Tools("echo", "g++", "strip", None, None, "gcc 12")


def compiled_wheel(folder: Path) -> Path:
    """What the compiler leaves, without a single instruction in it."""
    library = make_library(62 if HERE == X86_64 else 183)
    names = ("libllama", "libggml", "libggml-base", "libggml-cpu")
    name = f"llama_cpp_python-{building.VERSION}-py3-none-linux_{HERE}.whl"
    return make_wheel(folder, name, {f"llama_cpp/lib/{each}.so": library for each in names})


@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
def test_what_was_kept_unseen_is_looked_at_later(tmp_path: Path) -> None:
    wheel, kept = compiled_wheel(tmp_path), tmp_path / "kept"
    first = building._keep(wheel, kept, PLAIN, BLIND)
    before = sha256(first.path)

    unseen = building._kept(kept, PLAIN, None)
    assert unseen is not None and not unseen.needs.disassembled
    seen = building._kept(kept, PLAIN, "objdump")
    assert seen is not None and seen.needs.disassembled
    assert building._kept(kept, PLAIN, None) == seen
    assert sha256(first.path) == before


@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
def test_what_turns_out_to_be_something_else_is_built_again(tmp_path: Path) -> None:
    building._keep(compiled_wheel(tmp_path), tmp_path / "kept", MORE, BLIND)

    assert building._kept(tmp_path / "kept", MORE, None) is not None
    assert building._kept(tmp_path / "kept", MORE, "objdump") is None


def test_variables_that_get_in_the_way_are_left_out_and_no_others() -> None:
    theirs = {"CCACHE_DIR": "/ccache", "CCACHE_MAXSIZE": "1G", "PATH": "/bin", "CXXFILT": "x"}
    ours = {"CC": "clang", "CFLAGS": "-O0", "CMAKE_ARGS": "-DX=1", "GGML_CUDA": "1", "CXX": "c"}

    assert building._without_ours(theirs | ours) == theirs


def test_blanks_in_the_name_of_the_cache_folder(tmp_path: Path) -> None:
    work = tmp_path / "my cache"
    found = building._environment(work, work / "toolchain.cmake", PLAIN, BLIND, 1)

    options = shlex.split(found["CMAKE_ARGS"])
    assert f"-DCMAKE_TOOLCHAIN_FILE={work}/toolchain.cmake" in options
    (flags,) = (each for each in options if each.startswith("-DCMAKE_C_FLAGS="))
    said = flags.removeprefix("-DCMAKE_C_FLAGS=")
    assert shlex.split(said) == [f"-ffile-prefix-map={work}=."]
    assert set(PLAIN.cmake_options) <= set(options)


@pytest.mark.slow
@pytest.mark.timeout(1800)
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


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_next_board_of_the_kind_costs_nothing(rpi5_runtime: Collected) -> None:
    again = building.build(instruction_set("armv8.2-a+dotprod+fp16"))

    assert not again.new
    assert again.path == rpi5_runtime.built[0].path
