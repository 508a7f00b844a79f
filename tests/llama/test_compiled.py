"""Builds of llama.cpp that would fault are known by who compiled them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.errors import NativeFailure
from edgeslm.llama.compiled import ensure_sound

WITH_TILES = ("AVX512", "AMX_INT8", "OPENMP")


def library(folder: Path, *notes: str, name: str = "libggml-cpu.so") -> Path:
    (folder / name).write_bytes(b"\x7fELF code" + b"".join(b"\0" + n.encode() for n in notes))
    return folder


@pytest.mark.parametrize(
    "release",
    [
        "(Debian 12.2.0-14+deb12u1) 12.2.0",
        "(GNU) 11.4.1 20231218 (Red Hat 11.4.1-3)",
        "(GNU) 13.2.0",
    ],
)
def test_what_faults_is_refused(tmp_path: Path, release: str) -> None:
    with pytest.raises(NativeFailure, match=r"by GCC 1[123]\.[24], which .* AMX") as told:
        ensure_sound(WITH_TILES, library(tmp_path, f"GCC: {release}"), "0.3.36")
    hint = told.value.hint or ""
    assert "CXXFLAGS=-U__AMX_INT8__" in hint
    assert hint.endswith("llama-cpp-python==0.3.36")


@pytest.mark.parametrize("name", ["libggml-cpu-sapphirerapids.so", "libggml-cpu.so.0.25.3"])
def test_whatever_the_library_is_called(tmp_path: Path, name: str) -> None:
    with pytest.raises(NativeFailure):
        ensure_sound(WITH_TILES, library(tmp_path, "GCC: (GNU) 12.3.0", name=name), "0.3.36")


@pytest.mark.parametrize(
    "notes",
    [
        (),
        ("GCC: (GNU) 11.5.0 20240719 (Red Hat 11.5.0-5)",),
        ("GCC: (Debian 12.4.0-2) 12.4.0",),
        ("GCC: (Ubuntu 13.3.0-6ubuntu2~24.04) 13.3.0",),
        ("GCC: (Debian 14.2.0-19) 14.2.0",),
        ("GCC: (Debian 12.2.0-14) 12.2.0", "GCC: (conda-forge gcc 14.3.0-2) 14.3.0"),
        ("GCC: (Debian 12.2.0-14) 12.2.0", "Debian clang version 19.1.7 (3)"),
    ],
)
def test_what_may_be_sound_is_taken(tmp_path: Path, notes: tuple[str, ...]) -> None:
    ensure_sound(WITH_TILES, library(tmp_path, *notes), "0.3.36")


def test_without_those_kernels_any_compiler_will_do(tmp_path: Path) -> None:
    ensure_sound(("AVX512",), library(tmp_path, "GCC: (GNU) 12.2.0"), "0.3.36")


def test_no_library_to_look_at(tmp_path: Path) -> None:
    ensure_sound(WITH_TILES, tmp_path, "0.3.36")
