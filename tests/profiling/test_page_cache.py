from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.errors import NotFound
from edgeslm.profiling.page_cache import cached_bytes, cold, drop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told to forget")
SIZE = 4 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.gguf"
    path.write_bytes(os.urandom(SIZE))
    if not drop(path):
        pytest.skip("files here stay in memory")
    return path


@pytest.fixture
def held(file: Path) -> Iterator[Path]:
    """The same, with every page of it mapped by another process."""
    code = (
        "import mmap, sys\n"
        "f = open(sys.argv[1], 'rb')\n"
        "m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n"
        "sum(m[::4096])\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    yield file
    holder.communicate()


def test_what_is_read_is_cached_until_it_is_dropped(file: Path) -> None:
    assert cached_bytes(file) == 0
    file.read_bytes()
    assert cached_bytes(file) == SIZE
    assert drop(file)
    assert cached_bytes(file) == 0


def test_a_file_that_nobody_holds_is_used_itself(file: Path) -> None:
    file.read_bytes()
    with cold(file) as found:
        assert found == (file, False)
        assert cached_bytes(found.path) == 0


def test_of_a_file_that_others_hold_a_copy_is_cold(held: Path) -> None:
    assert not drop(held)
    with cold(held) as found:
        assert found.copied
        assert found.path.name == held.name
        assert cached_bytes(found.path) == 0
        assert found.path.read_bytes() == held.read_bytes()
    assert not found.path.exists()
    assert not found.path.parent.exists()


def test_an_empty_file_and_none(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert cached_bytes(tmp_path / "empty") == 0
    with pytest.raises(NotFound):
        drop(tmp_path / "nothing")
