from __future__ import annotations

import subprocess
import sys
from collections import deque
from importlib.metadata import version

import pytest

from edgeslm.llama import native
from edgeslm.llama.native import LogLine


def test_the_log_of_a_failed_call_is_captured() -> None:
    lib = native.library()
    with native.captured_log() as lines:
        assert not lib.llama_model_load_from_file(b"/nowhere", lib.llama_model_default_params())
    assert any("/nowhere" in line.text for line in lines)


def test_nothing_is_captured_outside_the_block() -> None:
    lib = native.library()
    with native.captured_log() as lines:
        pass
    lib.llama_model_load_from_file(b"/nowhere", lib.llama_model_default_params())
    assert not lines


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            [(2, "fine"), (4, "load_model: error: it is broken"), (4, "later")],
            "error: it is broken",
        ),
        ([(3, "odd thing"), (2, "fine")], "odd thing"),
        ([(2, "fine")], "unknown"),
        ([(4, "two words: kept")], "two words: kept"),
        ([], "unknown"),
    ],
)
def test_the_reason_is_the_first_error_then_the_first_warning(
    lines: list[tuple[int, str]], expected: str
) -> None:
    log = deque(LogLine(level, text) for level, text in lines)
    assert native.reason(log, "unknown") == expected


def test_the_build_names_its_version_and_features() -> None:
    build = native.build_info()
    assert build.binding == version("llama_cpp_python")
    assert build.features
    assert all(feature == feature.strip() and "=" not in feature for feature in build.features)


def _run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_only_the_bindings_are_loaded() -> None:
    loaded = _run(
        "import sys\n"
        "from edgeslm.llama import native\n"
        "lib = native.library()\n"
        "assert lib.llama_model_quantize_default_params().nthread == 0\n"
        "assert native.ggml()\n"
        "assert native.build_info().binding[0].isdigit()\n"
        "print(*sorted(sys.modules))"
    )
    assert not {name.split(".")[0] for name in loaded.split()} & {"llama_cpp", "numpy", "jinja2"}


def test_others_get_the_whole_package_afterwards() -> None:
    said = _run(
        "from edgeslm.llama import native\n"
        "native.library()\n"
        "import llama_cpp\n"
        "print(llama_cpp.Llama.__name__, llama_cpp.llama_cpp.__name__)"
    )
    assert said.split() == ["Llama", "llama_cpp.llama_cpp"]


def test_a_package_that_is_loaded_already_is_taken() -> None:
    said = _run(
        "import llama_cpp\n"
        "from edgeslm.llama import native\n"
        "print(native.library() is llama_cpp, native.build_info().binding)"
    )
    assert said.split() == ["True", version("llama_cpp_python")]


def test_a_package_that_is_missing_is_an_error_of_ours() -> None:
    said = _run(
        "import importlib.util\n"
        "importlib.util.find_spec = lambda name: None\n"
        "from edgeslm.errors import NativeFailure\n"
        "from edgeslm.llama import native\n"
        "for load in (native.library, native.ggml):\n"
        "    try:\n"
        "        load()\n"
        "    except NativeFailure as error:\n"
        "        print(error.message)\n"
    )
    assert said.count("llama-cpp-python is not installed") == 2
