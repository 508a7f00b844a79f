from __future__ import annotations

import json
import mmap
import subprocess
import sys
import textwrap
from pathlib import Path

import boards
import pytest

from edgeslm.profiling import memory

SIZE = 200_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can begin a new peak")
def test_the_peak_sees_memory_that_was_given_back() -> None:
    before, peak, held, anew = _in_a_process_of_its_own("""
        memory.reset_peak()
        before = memory.peak_rss_bytes()
        held = bytearray(b"x" * SIZE)
        del held
        peak = memory.peak_rss_bytes()
        rss = memory.rss_bytes()
        memory.reset_peak()
        said = [before, peak, rss, memory.peak_rss_bytes()]
    """)
    assert peak - before > 0.9 * SIZE
    assert held < peak
    assert anew < peak


def test_resident_pages_of_a_mapped_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"x" * 4_000_000)
    if memory.resident_file_bytes(path) is None:
        pytest.skip("this system does not tell")
    assert memory.resident_file_bytes(path) == 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[::4096].count(b"x") > 900
        assert (memory.resident_file_bytes(path) or 0) >= 4_000_000


def test_what_the_kernel_says_of_pages(tmp_path: Path) -> None:
    files = {
        "proc/self/smaps_rollup": "00400000-7fff ---p 00000000 00:00 0 [rollup]\n"
        "Rss: 100 kB\nPss: 60 kB\nPrivate_Clean: 10 kB\nPrivate_Dirty: 30 kB\n",
        "proc/self/io": "rchar: 7\nread_bytes: 8192\n",
        "proc/vmstat": "pswpin 3\npswpout 9\n",
    }
    boards.lay_out(files, tmp_path)
    assert memory.shares(tmp_path) == memory.Shares(60 * 1024, 40 * 1024)
    assert memory.read_bytes(tmp_path) == 8192
    assert memory.swapped_in_bytes(tmp_path) == 3 * mmap.PAGESIZE
    nothing = tmp_path / "nothing"
    assert memory.shares(nothing) is None
    assert (memory.read_bytes(nothing), memory.swapped_in_bytes(nothing)) == (None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_private_memory_grows_with_what_only_we_have() -> None:
    private, pss = _in_a_process_of_its_own("""
        before = memory.shares()
        held = bytearray(b"x" * SIZE)
        after = memory.shares()
        said = [after.private_bytes - before.private_bytes, after.pss_bytes - before.pss_bytes]
    """)
    assert private > 0.9 * SIZE
    assert pss > 0.9 * SIZE


def _in_a_process_of_its_own(code: str) -> list[int]:
    """`said` of the code, where the kernel finds no other test's pages to take back meanwhile."""
    parts = [
        "import json",
        "from edgeslm.profiling import memory",
        f"SIZE = {SIZE}",
        textwrap.dedent(code),
        "print(json.dumps(said))",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(parts)], check=True, capture_output=True, text=True
    )
    return [int(number) for number in json.loads(done.stdout)]
