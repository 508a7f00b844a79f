from __future__ import annotations

import platform
import shutil

import pytest
from made_wheels import make_library

from edgeslm.errors import InvalidBundle
from edgeslm.flash.wheels.checking import check, telltales
from edgeslm.flash.wheels.instruction_sets import instruction_set
from edgeslm.flash.wheels.instruction_sets import native as native_set
from edgeslm.llama import native

NAME = "llama_cpp_python-0.3.36-py3-none-linux_aarch64.whl"
OLD = instruction_set("armv8-a")


def files(**changed: bytes) -> dict[str, bytes]:
    names = ("libllama", "libggml", "libggml_base", "libggml_cpu")
    made = {name: make_library() for name in names} | changed
    return {f"llama_cpp/lib/{name.replace('_', '-')}.so": data for name, data in made.items()}


def test_a_good_one_says_what_it_needs() -> None:
    wanted = ("libstdc++.so.6", "libgomp.so.1", "libggml.so", "libc.so.6")
    versions = ("GLIBC_2.17", "GLIBCXX_3.4.9", "GLIBCXX_3.4.29", "GLIBC_2.9")
    needs = check(NAME, files(libllama=make_library(183, wanted, versions)), OLD, None)

    assert (needs.glibc, needs.libstdcxx) == ("2.34", "3.4.29")
    assert needs.libraries == ("libgomp.so.1", "libstdc++.so.6")
    assert not needs.disassembled


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("a-1-py3-none-linux_x86_64.whl", {}, "for linux_x86_64, not linux_aarch64"),
        (NAME, {"libllama": make_library(62)}, "libllama.so: compiled for x86_64, not aarch64"),
        (NAME, {"libllama": b"text"}, "not a 64-bit shared library"),
        (NAME, {"libggml": make_library(183, ("libopenblas.so.0",))}, "needs libopenblas"),
        (NAME, {"libggml": make_library(runpath="/home/me/lib")}, "looks for libraries in /home"),
    ],
)
def test_a_wrong_one_is_refused(name: str, changed: dict[str, bytes], message: str) -> None:
    with pytest.raises(InvalidBundle, match=message):
        check(name, files(**changed), OLD, None)


def test_a_missing_library_is_refused() -> None:
    some = files()
    del some["llama_cpp/lib/libggml-cpu.so"]
    with pytest.raises(InvalidBundle, match=r"libggml-cpu\.so is not in it"):
        check(NAME, some, OLD, None)


@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="looks for x86 instructions")
def test_instructions_tell_what_was_compiled_for() -> None:
    library = native._binding_folder() / "lib" / "libggml-cpu.so"
    built = native.build_info().features

    found = telltales(library.read_bytes(), "x86_64", "objdump")

    assert found["avx2"] == ("AVX2" in built)
    assert found["avx512f"] == ("AVX512" in built)


@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
def test_nothing_is_looked_for_where_the_compiler_decided() -> None:
    needs = check(NAME, files(), native_set("aarch64", ("asimd", "asimddp")), "objdump")
    assert not needs.disassembled
