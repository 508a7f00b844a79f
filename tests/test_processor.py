from __future__ import annotations

import platform
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


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_this_machine_says_the_same_both_ways() -> None:
    processor.features.cache_clear()
    found = set(processor.features())

    assert found
    assert found == set(detection._features(detection._processors(Path("/"))))
    assert detection.cpu_features() == processor.features()
