"""How llama.cpp is built for this machine: without what is worse than what it would replace."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
CMAKE, COMPILER = shutil.which("cmake"), shutil.which("g++")
PROJECT = """
cmake_minimum_required(VERSION 3.14)
project(llama.cpp CXX)
add_executable(probe probe.cpp)
target_compile_options(probe PRIVATE -march=sapphirerapids)  # as ggml does: after our own
"""
PROBE = """
#include <cstdio>
int main() {
#ifdef __AVX512VNNI__
    puts("AVX512VNNI");
#endif
#ifdef __AVX512FP16__
    puts("AVX512FP16");
#endif
#ifdef __AMX_INT8__
    puts("AMX");
#endif
}
"""


@pytest.mark.skipif(CMAKE is None or COMPILER is None, reason="needs cmake and g++")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AMX is of x86")
@pytest.mark.parametrize("included", ["llama.cmake", "binding.cmake"])
def test_what_is_worse_is_left_out_and_nothing_else(tmp_path: Path, included: str) -> None:
    """Arithmetic of 16-bit floats; and AMX, where the compiler forgets its configuration."""
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    (tmp_path / "probe.cpp").write_text(PROBE)
    build = tmp_path / "build"
    subprocess.run(
        [
            *(str(CMAKE), "-S", str(tmp_path), "-B", str(build)),
            f"-DCMAKE_CXX_COMPILER={COMPILER}",
            f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={SCRIPTS / included}",
        ],
        check=True,
        capture_output=True,
    )
    subprocess.run([str(CMAKE), "--build", str(build)], check=True, capture_output=True)
    said = subprocess.run([build / "probe"], check=True, capture_output=True, text=True).stdout
    kept = said.split()
    assert kept in (["AVX512VNNI"], ["AVX512VNNI", "AMX"])
    if _forgets():
        assert "AMX" not in kept
    elif _release() >= 14:
        assert "AMX" in kept


def _release() -> int:
    told = subprocess.run([str(COMPILER), "-dumpversion"], check=True, capture_output=True)
    return int(told.stdout.split(b".")[0])


def _forgets() -> bool:
    """Whether the compiler's `ldtilecfg` reads no more than eight bytes, by its own header."""
    text = subprocess.run(
        [str(COMPILER), "-E", "-mamx-tile", "-x", "c++", "-"],
        input="#include <immintrin.h>\n",
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = re.search(r"_tile_loadconfig \(const void \*__config\)\s*\{(.*?)\}", text, re.DOTALL)
    return found is not None and "const void **" in found[1]
