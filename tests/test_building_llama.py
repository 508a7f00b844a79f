"""How llama.cpp is built for this machine: without what the compiler gets wrong."""

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
#ifdef __AMX_INT8__
    puts("with");
#else
    puts("without");
#endif
}
"""


@pytest.mark.skipif(CMAKE is None or COMPILER is None, reason="needs cmake and g++")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AMX is of x86")
@pytest.mark.parametrize("included", ["llama.cmake", "binding.cmake"])
def test_amx_is_left_out_where_the_compiler_forgets_its_configuration(
    tmp_path: Path, included: str
) -> None:
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
    assert said.strip() == ("without" if _forgets() else "with")


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
