from __future__ import annotations

import json
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_images import MIB, SMALL, make_image

from edgeslm.errors import InvalidImage, Unsupported
from edgeslm.flash.image.partitions import SECTOR, Partition, ReadAt, grown, read_table


def reader(data: bytes) -> ReadAt:
    return lambda offset, count: data[offset : offset + count]


def mbr(entries: list[tuple[int, int, int]], sectors: int) -> bytes:
    """A disk with an MBR; each entry is a type, a first sector and a number of sectors."""
    first = bytearray(SECTOR)
    for number, (kind, start, count) in enumerate(entries):
        struct.pack_into("<B3sB3sII", first, 446 + 16 * number, 0, b"", kind, b"", start, count)
    first[510:] = b"\x55\xaa"
    return bytes(first) + bytes((sectors - 1) * SECTOR)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[tuple[int, int, int]], int]:
    at, entries = 1, []
    for _ in range(draw(st.integers(1, 4))):
        at += draw(st.integers(0, 40))
        count = draw(st.integers(1, 60))
        entries.append((draw(st.sampled_from([0x0C, 0x83, 0x82])), at, count))
        at += count
    shuffled = draw(st.permutations(entries))
    return list(shuffled), at + draw(st.integers(0, 20))


@given(layouts())
def test_what_an_mbr_says(layout: tuple[list[tuple[int, int, int]], int]) -> None:
    entries, sectors = layout
    table = read_table(reader(mbr(entries, sectors)), sectors * SECTOR)

    assert table.form == "mbr"
    expected = [
        Partition(number, start * SECTOR, count * SECTOR, f"{kind:02x}")
        for number, (kind, start, count) in enumerate(entries, 1)
    ]
    assert table.partitions == tuple(sorted(expected, key=lambda each: each.start))


@given(layouts(), st.integers(0, 500))
def test_the_last_one_grows_to_the_end(
    layout: tuple[list[tuple[int, int, int]], int], more: int
) -> None:
    entries, sectors = layout
    data = bytearray(mbr(entries, sectors))
    new_size = (sectors + more) * SECTOR
    before = read_table(reader(bytes(data)), len(data))
    told, patches = grown(reader(bytes(data)), len(data), new_size)
    data += bytes(new_size - len(data))
    for patch in patches:
        data[patch.offset : patch.offset + len(patch.data)] = patch.data

    after = read_table(reader(bytes(data)), new_size)
    assert after == told
    assert after.last.end == new_size
    assert after.partitions[:-1] == before.partitions[:-1]
    assert (after.last.number, after.last.start) == (before.last.number, before.last.start)


@given(st.binary(max_size=3 * SECTOR), st.booleans())
def test_anything_else_is_refused_and_nothing_worse(data: bytes, marked: bool) -> None:
    padded = bytearray(data.ljust(4 * SECTOR, b"\0"))
    if marked:
        padded[510:512] = b"\x55\xaa"
        padded[512:520] = b"EFI PART"
        padded[450] = 0xEE
    try:
        table = read_table(reader(bytes(padded)), len(padded))
    except (InvalidImage, Unsupported):
        return
    assert all(part.end <= len(padded) for part in table.partitions)


def test_overlapping_partitions_are_refused() -> None:
    data = mbr([(0x0C, 10, 20), (0x83, 29, 20)], 100)

    with pytest.raises(InvalidImage, match="partition 2 is empty or overlaps"):
        read_table(reader(data), len(data))


def test_a_file_that_was_cut_off_is_refused() -> None:
    data = mbr([(0x83, 10, 90)], 100)

    read_table(reader(data), 100 * SECTOR)
    with pytest.raises(InvalidImage, match="beyond the end"):
        read_table(reader(data), 99 * SECTOR)


def test_partitions_within_partitions_are_refused() -> None:
    data = mbr([(0x83, 10, 20), (0x05, 40, 20)], 100)

    with pytest.raises(Unsupported, match="extended"):
        read_table(reader(data), len(data))


@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_sfdisk_finds_nothing_wrong_with_what_grew(tmp_path: Path, label: str) -> None:
    image = make_image(tmp_path, "bookworm", label=label)
    size = image.stat().st_size
    read = file_reader(image)
    new_size = size + 24 * MIB
    told, patches = grown(read, size, new_size)
    with image.open("r+b") as file:
        file.truncate(new_size)
        for patch in patches:
            file.seek(patch.offset)
            file.write(patch.data)

    assert read_table(read, new_size) == told
    done = subprocess.run(
        ["/usr/sbin/sfdisk", "--verify", image], capture_output=True, text=True, check=True
    )
    assert "No errors detected" in done.stdout
    assert "not" not in done.stderr  # "The backup GPT table is not on the end of the device"
    dump = subprocess.run(
        ["/usr/sbin/sfdisk", "--json", image], capture_output=True, text=True, check=True
    )
    found = json.loads(dump.stdout)["partitiontable"]["partitions"]
    assert [(part["start"], part["size"]) for part in found] == [
        (part.start // SECTOR, part.size // SECTOR) for part in told.partitions
    ]
    if label == "gpt":  # the protective partition covers all of the disk, as UEFI asks
        assert struct.unpack("<I", read(446 + 12, 4))[0] == new_size // SECTOR - 1
    assert told.last.start == SMALL.root_start
    assert new_size - told.last.end <= 64 * SECTOR


def test_a_wrong_checksum_is_noticed(tmp_path: Path) -> None:
    image = make_image(tmp_path, "bookworm", label="gpt")
    with image.open("r+b") as file:
        file.seek(2 * SECTOR + 56)
        file.write(b"\xff")

    with pytest.raises(InvalidImage, match="entries is wrong"):
        read_table(file_reader(image), image.stat().st_size)


def test_entries_that_would_lie_outside_are_refused(tmp_path: Path) -> None:
    image = make_image(tmp_path, "bookworm", label="gpt")
    with image.open("r+b") as file:
        file.seek(SECTOR)
        header = bytearray(file.read(SECTOR))
        struct.pack_into("<Q", header, 72, 1 << 60)
        struct.pack_into("<I", header, 16, 0)
        struct.pack_into("<I", header, 16, zlib.crc32(header[:92]))
        file.seek(SECTOR)
        file.write(header)

    with pytest.raises(InvalidImage, match="outside"):
        read_table(file_reader(image), image.stat().st_size)


def file_reader(image: Path) -> ReadAt:
    def read(offset: int, count: int) -> bytes:
        with image.open("rb") as file:
            file.seek(offset)
            return file.read(count)

    return read
