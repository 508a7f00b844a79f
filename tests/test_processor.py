from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from edgeslm import processor
from edgeslm.targets import detection


def test_bits_have_the_names_of_the_kernel() -> None:
    """The words of a Cortex-A76 and of a Cortex-A72, as the kernel shows both."""
    assert processor.arm_features(0x100FFF & ~(1 << 2), 0) == (
        *("fp", "asimd", "aes", "pmull", "sha1", "sha2", "crc32", "atomics", "fphp", "asimdhp"),
        *("cpuid", "asimddp"),
    )
    assert processor.arm_features(0b10000011, 0) == ("fp", "asimd", "crc32")
    assert processor.arm_features(0, 1 << 13 | 1 << 1) == ("sve2", "i8mm")


@pytest.mark.parametrize(
    ("machine", "largest", "named"),
    [
        ("aarch64", 2**63 - 1, "aarch64"),
        ("arm64", 2**63 - 1, "aarch64"),
        ("amd64", 2**63 - 1, "x86_64"),
        ("aarch64", 2**31 - 1, "armv7l"),
        ("armv8l", 2**31 - 1, "armv7l"),
        ("armv6l", 2**31 - 1, "armv6l"),
        ("x86_64", 2**31 - 1, "i686"),
    ],
)
def test_a_32_bit_python_is_what_counts(
    machine: str, largest: int, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sys, "maxsize", largest)
    assert processor.architecture() == named


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_a_32_bit_python_takes_no_bits_for_64_bit_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    monkeypatch.setattr(processor, "_auxiliary", lambda: (1 << 22, 0))  # fphp there, SVE here

    expected = processor.common_features(processor.listed(Path("/proc/cpuinfo").read_text()))
    assert expected
    assert processor.features.__wrapped__() == expected


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_this_machine_says_the_same_both_ways() -> None:
    processor.features.cache_clear()
    found = set(processor.features())

    assert found
    assert found == set(processor.common_features(detection._processors(Path("/"))))
