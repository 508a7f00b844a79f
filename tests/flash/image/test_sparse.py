from __future__ import annotations

import gzip
import lzma
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import InvalidImage
from edgeslm.flash.image import sparse
from edgeslm.flash.image.sparse import copy_region, move_region, unpack, unpacked_bytes

MIXED = b"a" * 100_000 + bytes(3 << 20) + b"b" * 70_000 + bytes(200_000)


@pytest.mark.parametrize("ending", [".img", ".img.xz", ".img.gz"])
def test_an_image_is_unpacked_with_holes(tmp_path: Path, ending: str) -> None:
    pack = {".img.xz": lzma.compress, ".img.gz": gzip.compress}.get(ending, bytes)
    source, target = tmp_path / f"a{ending}", tmp_path / "target"
    source.write_bytes(pack(MIXED))
    target.touch()
    told: list[int] = []

    assert unpack(source, target, told.append) == len(MIXED)
    assert target.read_bytes() == MIXED
    assert sum(told) == source.stat().st_size
    assert target.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("ending", [".img.xz", ".img.gz"])
def test_what_was_cut_off_is_refused(tmp_path: Path, ending: str) -> None:
    pack = lzma.compress if ending.endswith("xz") else gzip.compress
    source, target = tmp_path / f"a{ending}", tmp_path / "target"
    source.write_bytes(pack(MIXED)[:-200])
    target.touch()

    with pytest.raises(InvalidImage, match="damaged or cut off"):
        unpack(source, target, lambda _: None)


def test_what_xz_says_of_its_size(tmp_path: Path) -> None:
    source = tmp_path / "a.img.xz"
    source.write_bytes(lzma.compress(MIXED))

    assert unpacked_bytes(source) == len(MIXED)
    source.write_bytes(lzma.compress(MIXED) + lzma.compress(b"more"))
    assert unpacked_bytes(source) is None


@given(data=st.binary(max_size=200))
def test_no_size_of_what_is_no_xz(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    source = tmp_path_factory.mktemp("xz") / "a.img.xz"
    source.write_bytes(data + b"YZ")

    assert unpacked_bytes(source) is None


def test_a_region_is_copied_behind_what_is_there(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(8 << 20)
        for offset in (1 << 20, (5 << 20) + 3):
            file.seek(offset)
            file.write(b"x" * 5000)
    target.write_bytes(b"head")

    copy_region(source, 512, (7 << 20) + 100, target, 4)

    assert target.read_bytes() == b"head" + source.read_bytes()[512 : 512 + (7 << 20) + 100]
    assert target.stat().st_blocks * 512 < 1 << 20


def test_a_region_is_moved_without_room_for_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "_MOVED_BYTES", 1 << 20)
    source, target = tmp_path / "source", tmp_path / "target"
    content = b"head" + MIXED + b"c" * (5 << 20) + MIXED
    source.write_bytes(content)
    target.write_bytes(b"other")
    most, real = [0], sparse._write_sparsely

    def write(file: BinaryIO, offset: int, piece: bytes) -> None:
        real(file, offset, piece)
        file.flush()
        most.append(sum(path.stat().st_blocks * 512 for path in (source, target)))

    monkeypatch.setattr(sparse, "_write_sparsely", write)
    move_region(source, 4, target, 5)

    assert source.read_bytes() == b"head"
    assert target.read_bytes() == b"other" + content[4:]
    assert max(most) < len(content) + (2 << 20)
    assert target.stat().st_blocks * 512 < 6 << 20
