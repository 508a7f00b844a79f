"""The file of a state: complete and right, or none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeslm.runtime.state_file import Origin, open_state, read_head, write_state

ORIGIN = Origin("a" * 64, "build 1", "F16")
TOKENS = (5, 7, 123_456)
STATE = bytes(range(200))


def _written(path: Path) -> Path:
    path.touch()

    def fill(target: memoryview) -> None:
        target[:] = STATE

    write_state(path, ORIGIN, TOKENS, len(STATE), fill)()
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = _written(tmp_path / "one.state")
    head = read_head(path)
    found = open_state(path)
    assert found is not None
    assert found.head == head
    assert (found.head.origin, found.head.tokens) == (ORIGIN, TOKENS)
    assert bytes(found.state) == STATE
    found.close()


def test_without_its_checksum_it_is_no_state(tmp_path: Path) -> None:
    path = tmp_path / "one.state"
    path.touch()
    write_state(path, ORIGIN, TOKENS, len(STATE), lambda target: None)
    assert open_state(path) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.data())
def test_a_changed_file_is_no_state(tmp_path: Path, data: st.DataObject) -> None:
    path = _written(tmp_path / "one.state")
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed)
    assert open_state(path) is None


@pytest.mark.parametrize("count", [0, 1, 8, 43, 44, 60, 300])
def test_a_file_of_another_length_is_no_state(tmp_path: Path, count: int) -> None:
    path = _written(tmp_path / "one.state")
    whole = path.read_bytes()
    for data in (whole[:count], whole + b"x", whole + whole):
        path.write_bytes(data)
        assert open_state(path) is None


@given(st.binary(max_size=400))
def test_no_bytes_whatever_break_the_reader(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.state"
    for start in (b"", b"edgeslm\1", b"edgeslm\1" + bytes(32) + b"\x05\0\0\0"):
        path.write_bytes(start + data)
        assert open_state(path) is None
        read_head(path)


def test_a_full_disk_is_an_error_and_no_end(small_disk: Path) -> None:
    path = small_disk / "one.state"
    path.touch()
    with pytest.raises(OSError, match="space"):
        write_state(path, ORIGIN, TOKENS, 1 << 20, lambda target: None)
