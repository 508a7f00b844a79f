from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_wheels import make_library

from edgeslm.errors import InvalidBundle
from edgeslm.flash.wheels.elf import read_library
from edgeslm.llama import native


def test_the_libraries_that_we_run_are_read() -> None:
    for path in (native._binding_folder() / "lib").glob("*.so"):
        found = read_library(path.read_bytes(), path.name)

        assert found.machine in ("x86_64", "aarch64")
        assert "libc.so.6" in found.needed
        assert found.newest("GLIBC") >= (2, 2)
        assert found.runpath == "$ORIGIN"


def test_a_made_one_is_read() -> None:
    found = read_library(make_library(needed=("libc.so.6", "libx.so.1")), "made")

    assert found.machine == "aarch64"
    assert found.needed == ("libc.so.6", "libx.so.1")
    assert found.newest("GLIBC") == (2, 34)
    assert found.newest("GLIBCXX") == ()
    assert found.runpath == "$ORIGIN"


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"MZ" + bytes(100), make_library()[:70]])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidBundle, match="not a 64-bit shared library"):
        read_library(data, "other")


@given(st.integers(16, len(make_library()) - 1), st.integers(0, 255))
def test_a_damaged_one_is_read_or_refused(at: int, value: int) -> None:
    data = bytearray(make_library())
    data[at] = value
    try:
        read_library(bytes(data), "damaged")
    except InvalidBundle as error:
        assert error.hint
