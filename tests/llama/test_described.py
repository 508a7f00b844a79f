"""The build of llama.cpp as a child process tells it; whatever happens to the child, we go on."""

from __future__ import annotations

import sys

import pytest

from edgeslm.errors import NativeFailure
from edgeslm.llama import native
from edgeslm.llama.described import describe_build


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_it_is_the_build_that_this_process_would_load() -> None:
    assert describe_build() == native.build_info()


REFUSED = """
import sys
from edgeslm.errors import NativeFailure
from edgeslm.llama import described, native

def refuse(*_):
    raise NativeFailure("not for this processor", hint="Take another.")

native.ensure_suited = refuse
sys.exit(described._main())
"""


def test_a_child_that_refuses_says_what_to_do() -> None:
    with pytest.raises(NativeFailure, match=r"^not for this processor$") as caught:
        describe_build(python(REFUSED))
    assert caught.value.hint == "Take another."


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 4)", "SIGILL"),
        ("import os; os.kill(os.getpid(), 6)", "SIGABRT"),
        ("import sys; sys.exit('libgomp.so.1: cannot open shared object file')", "libgomp.so.1"),
        ("print('[]')", "it says nothing"),
        ("print('{}')", "it says nothing"),
        ('print(\'{"binding": 1, "features": 2}\')', "it says nothing"),
        ("print('no JSON')", "it says nothing"),
    ],
)
def test_what_goes_wrong_is_an_error_with_a_hint(code: str, said: str) -> None:
    with pytest.raises(NativeFailure) as caught:
        describe_build(python(code))
    assert said in caught.value.message
    assert caught.value.hint
    assert "llama-cpp-python" in caught.value.hint
