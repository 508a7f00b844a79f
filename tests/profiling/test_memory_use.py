from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import pytest

from edgeslm.profiling import memory

MEGABYTES_50 = 50_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can begin a new peak")
def test_the_peak_sees_memory_that_was_given_back() -> None:
    memory.reset_peak()
    before = memory.peak_rss_bytes()
    held = bytearray(os.urandom(1) * MEGABYTES_50)
    del held
    peak = memory.peak_rss_bytes()
    assert peak - before > 0.9 * MEGABYTES_50
    assert memory.rss_bytes() < peak
    memory.reset_peak()
    assert memory.peak_rss_bytes() < peak


def test_resident_pages_of_a_mapped_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"x" * 4_000_000)
    if memory.resident_file_bytes(path) is None:
        pytest.skip("this system does not tell")
    assert memory.resident_file_bytes(path) == 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[::4096].count(b"x") > 900
        assert (memory.resident_file_bytes(path) or 0) >= 4_000_000
