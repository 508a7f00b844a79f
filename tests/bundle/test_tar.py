"""Tars that are truncated or hostile are refused; what other programs write is read."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from edgeslm.bundle.tar import TAR_END, looks_like_tar, read_tar, tar_header, tar_padding, write_tar
from edgeslm.errors import InvalidBundle


def entry(name: str = "file", data: bytes = b"hello", **more: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + tar_padding(len(data))


def resummed(header: bytes) -> bytes:
    """A header with the checksum that belongs to it."""
    blank = header[:148] + b" " * 8 + header[156:512]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.tar"


def refused(path: Path, data: bytes, words: str | None) -> None:
    path.write_bytes(data)
    with pytest.raises(InvalidBundle, match=words):
        read_tar(path)


def test_what_is_written_is_read(path: Path) -> None:
    files = [("a", 5, [b"he", b"llo"]), ("blobs/sha256/b", 512, [bytes(512)]), ("c", 0, [])]
    with path.open("wb") as stream:
        write_tar(stream, files)
    found = read_tar(path)
    data = path.read_bytes()
    assert [(each.name, each.size) for each in found.values()] == [
        (name, size) for name, size, _ in files
    ]
    assert data[found["a"].offset :][:5] == b"hello"
    assert looks_like_tar(path)
    with tarfile.open(path) as stream:
        assert stream.getnames() == [name for name, *_ in files]


def test_sizes_beyond_octal_are_read(path: Path) -> None:
    size = 3 << 33
    path.write_bytes(tar_header("large", size))
    with path.open("r+b") as stream:
        stream.truncate(512 + size)
        stream.seek(0, io.SEEK_END)
        stream.write(TAR_END)
    assert read_tar(path)["large"].size == size


@pytest.mark.parametrize("arguments", [("--format=gnu",), ("--format=ustar",)])
def test_what_gnu_tar_writes_is_read(path: Path, tmp_path: Path, arguments: tuple[str]) -> None:
    if shutil.which("tar") is None:
        pytest.skip("there is no tar here")
    (tmp_path / "in" / "blobs" / "sha256").mkdir(parents=True)
    (tmp_path / "in" / "blobs" / "sha256" / ("0" * 64)).write_text("hello")
    subprocess.run(["tar", *arguments, "-cf", path, "-C", tmp_path / "in", "."], check=True)
    assert list(read_tar(path)) == ["blobs/sha256/" + "0" * 64]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(path: Path, kind: bytes) -> None:
    refused(path, entry(data=b"", type=kind, linkname="/etc/passwd") + TAR_END, "neither a file")


@pytest.mark.parametrize(
    "kind", [tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, b"x", b"g", b"L", b"V"]
)
def test_what_is_no_plain_file_is_refused(path: Path, kind: bytes) -> None:
    header = bytearray(entry(data=b"")[:512])
    header[156:157] = kind
    refused(path, resummed(bytes(header)) + TAR_END, "neither a file nor a folder")


@pytest.mark.parametrize(
    "name", ["../up", "/etc/passwd", "a/../b", "..", "a//b", "a\\b", "a b", "./../x", "é"]
)
def test_names_that_lead_elsewhere_are_refused(path: Path, name: str) -> None:
    refused(path, entry(name) + TAR_END, "not a plain relative")


def test_folders_that_no_bundle_has_are_refused(path: Path) -> None:
    refused(path, entry("more/", b"", type=tarfile.DIRTYPE) + TAR_END, "a folder more")
    refused(path, entry("blobs/", b"xx", type=tarfile.DIRTYPE) + TAR_END, "a folder blobs")


def test_a_name_in_two_parts(path: Path) -> None:
    header = bytearray(entry("passwd", b"")[:512])
    header[257:265] = b"ustar\x0000"
    header[345:349] = b"/etc"
    refused(path, resummed(bytes(header)) + TAR_END, "not a plain relative")
    header[345:349] = b"etc\0"
    path.write_bytes(resummed(bytes(header)) + TAR_END)
    assert list(read_tar(path)) == ["etc/passwd"]


def test_extended_headers_are_refused_with_a_way_out(path: Path) -> None:
    """Which Python's tarfile writes unless it is told otherwise, for times alone."""
    with tarfile.open(path, "w") as stream:
        member = tarfile.TarInfo("index.json")
        member.mtime = 1.5  # as of any file that is added
        stream.addfile(member)
    with pytest.raises(InvalidBundle, match="extends") as caught:
        read_tar(path)
    assert "--format=ustar" in str(caught.value.hint)


def test_the_same_name_twice(path: Path) -> None:
    refused(path, entry() + entry() + TAR_END, "occurs twice")
    refused(path, entry() + entry("./file") + TAR_END, "occurs twice")


@pytest.mark.parametrize("size", [b"77777777777\0", b"\x80" + b"\0" * 3 + b"\xff" * 8])
def test_huge_sizes_are_refused(path: Path, size: bytes) -> None:
    header = bytearray(entry()[:512])
    header[124:136] = size
    refused(path, resummed(bytes(header)) + TAR_END, "truncated")


@pytest.mark.parametrize("size", [b"\xff" * 12, b"0000000000x\0", b" " * 12, b"-0000000001\0"])
def test_sizes_that_are_none_are_refused(path: Path, size: bytes) -> None:
    header = bytearray(entry()[:512])
    header[124:136] = size
    refused(path, resummed(bytes(header)) + TAR_END, "no size")


def test_every_truncation_is_refused(path: Path) -> None:
    whole = entry() + entry("other", bytes(600)) + TAR_END
    path.write_bytes(whole)
    assert len(read_tar(path)) == 2
    for end in range(0, len(whole), 37):
        refused(path, whole[:end], None)
    refused(path, whole[:-1], "truncated")


def test_what_lies_between_and_after_files_is_refused(path: Path) -> None:
    whole = entry() + TAR_END
    refused(path, whole[:600] + b"x" + whole[601:], "between the end of file")
    refused(path, whole + bytes(9000) + b"x", "after its end")
    refused(path, whole[:-512] + entry("more") + TAR_END, "after its end")
    path.write_bytes(whole + bytes(9000))
    assert list(read_tar(path)) == ["file"]


def test_a_damaged_header_is_refused(path: Path) -> None:
    whole = entry() + TAR_END
    for place in range(512):
        changed = bytearray(whole)
        changed[place] ^= 0x10
        refused(path, bytes(changed), None)


def test_no_end_of_entries(path: Path) -> None:
    many = b"".join(entry(str(number), b"") for number in range(8193))
    refused(path, many + TAR_END, "more than 8192")


def test_what_is_no_tar(path: Path) -> None:
    path.write_bytes(b"GGUF" + bytes(1000))
    assert not looks_like_tar(path)
    refused(path, b"GGUF" + bytes(1000), "not a tar")
    refused(path, b"", "truncated")
