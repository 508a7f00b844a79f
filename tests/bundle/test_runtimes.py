from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.bundle.runtimes import (
    Runtime,
    RuntimeList,
    WheelFile,
    read_runtimes,
    runtime_id,
    write_runtimes,
)
from edgeslm.errors import InvalidBundle

WHEEL = WheelFile("a-1-py3-none-any.whl", "0" * 64, 5)
ONE = Runtime(
    id=runtime_id([WHEEL.sha256], "3.11"),
    architecture="aarch64",
    march="armv8-a",
    features=(),
    python="3.11",
    glibc="2.34",
    libraries=("libstdc++.so.6",),
    wheels=(WHEEL.name,),
)
LIST = RuntimeList("0.1.0", "0.3.36", (WHEEL,), (ONE,))


def changed(**values: Any) -> bytes:
    document = json.loads(write_runtimes(LIST))
    for path, value in values.items():
        *above, last = path.split("__")
        place: Any = document
        for name in above:
            place = place[name][0]
        place[last] = value
    return json.dumps(document).encode()


def test_what_was_written_is_read() -> None:
    assert read_runtimes(write_runtimes(LIST), "x") == LIST
    assert read_runtimes(write_runtimes(LIST), "x").wheels_of(ONE) == (WHEEL,)


def test_the_name_is_made_of_wheels_and_python() -> None:
    assert runtime_id(["b", "a"], "3.11") == runtime_id(["a", "b"], "3.11")
    assert runtime_id(["a"], "3.11") != runtime_id(["a"], "3.13")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not JSON"),
        (changed(schema="edgeslm.runtime/2"), "not a document"),
        (changed(wheels__name="../a.whl"), "not the name of a wheel"),
        (changed(wheels__sha256="0"), "no hash"),
        (changed(wheels__bytes=-1), "no hash or size"),
        (changed(wheels__bytes="1"), "int was expected"),
        (changed(wheels=[]), "is not among the wheels"),
        (changed(runtimes__id="../../../etc"), "is not made of its wheels"),
        (changed(runtimes__python="3"), "no versions"),
        (changed(runtimes__glibc="new"), "no versions"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidBundle, match=message):
        read_runtimes(data, "runtime.json")


@given(st.integers(0, len(write_runtimes(LIST)) - 1), st.integers(0, 255))
def test_a_changed_byte_never_leads_out(at: int, value: int) -> None:
    data = bytearray(write_runtimes(LIST))
    data[at] = value
    try:
        found = read_runtimes(bytes(data), "x")
    except InvalidBundle:
        return
    assert all("/" not in wheel.name for wheel in found.wheels)
    assert all(set(each.id) <= set("0123456789abcdef") for each in found.runtimes)
