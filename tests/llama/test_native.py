from __future__ import annotations

import subprocess
import sys
from collections import deque

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
    assert build.binding == native.library().__version__
    assert build.features
    assert all(feature == feature.strip() and "=" not in feature for feature in build.features)


def test_a_child_can_do_without_the_high_level_api() -> None:
    code = (
        "import sys\n"
        "from edgeslm.llama import native\n"
        "native.load_bindings_only()\n"
        "lib = native.library()\n"
        "assert lib.llama_model_quantize_default_params().nthread == 0\n"
        "assert native.ggml()\n"
        "assert native.build_info().binding[0].isdigit()\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "llama_cpp" in loaded
    assert not loaded & {"numpy", "jinja2"}
