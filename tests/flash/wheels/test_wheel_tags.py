from __future__ import annotations

import os
import platform
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm import processor
from edgeslm.errors import InvalidBundle
from edgeslm.flash.wheels.tags import Device, WheelName, glibc_of, misfit, parse_name, this_device

PI = Device("aarch64", (3, 11), (2, 36))
_word = st.text("abcXYZ019_", min_size=1, max_size=8)
_version = st.from_regex(r"[0-9][0-9a-z.+!]{0,8}", fullmatch=True)
_tags = st.lists(_word, min_size=1, max_size=3).map(tuple)
_names = st.builds(
    WheelName,
    *(_word, _version, st.none() | st.from_regex(r"[0-9][a-z0-9_]{0,5}", fullmatch=True)),
    *(_tags, _tags, _tags),
)


@given(_names)
def test_names_are_taken_apart(name: WheelName) -> None:
    parts = [name.name, name.version, *([name.build] if name.build else [])]
    tags = [".".join(kind) for kind in (name.pythons, name.abis, name.platforms)]
    assert parse_name("-".join([*parts, *tags]) + ".whl") == name


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        found = parse_name(text)
    except InvalidBundle:
        return
    assert text.endswith(".whl")
    assert "/" not in text
    assert found.pythons


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-py2.py3-none-any.whl", True),
        ("a-1-py2-none-any.whl", False),
        ("a-1-cp311-cp311-manylinux2014_aarch64.whl", True),
        ("a-1-cp313-cp313-manylinux2014_aarch64.whl", False),
        ("a-1-cp36-abi3-manylinux_2_28_aarch64.whl", True),
        ("a-1-cp312-abi3-manylinux_2_28_aarch64.whl", False),
        ("a-1-cp311-cp311-manylinux_2_36_aarch64.whl", True),
        ("a-1-cp311-cp311-manylinux_2_37_aarch64.whl", False),
        ("a-1-cp311-cp311-manylinux_2_37_aarch64.manylinux_2_17_aarch64.whl", True),
        ("a-1-cp311-cp311-manylinux2014_x86_64.whl", False),
        ("a-1-cp311-cp311-musllinux_1_2_aarch64.whl", False),
        ("a-1-1_armv8_a-py3-none-linux_aarch64.whl", True),
        ("a-1-py3-none-linux_armv7l.whl", False),
    ],
)
def test_what_fits_a_device(name: str, fits: bool) -> None:
    assert (misfit(parse_name(name), PI) is None) == fits


def test_tags_name_a_c_library() -> None:
    assert glibc_of("manylinux1_x86_64") == (2, 5)
    assert glibc_of("manylinux2014_aarch64") == (2, 17)
    assert glibc_of("manylinux_2_34_aarch64") == (2, 34)
    assert glibc_of("linux_aarch64") is None


def test_this_machine_is_described() -> None:
    device = this_device()

    assert device.python == sys.version_info[:2]
    assert device.architecture == platform.machine()
    assert os.confstr("CS_GNU_LIBC_VERSION") == f"glibc {device.glibc[0]}.{device.glibc[1]}"  # type: ignore[index]
    assert device.features == frozenset(processor.features())
