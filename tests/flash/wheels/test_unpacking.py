from __future__ import annotations

import base64
import hashlib
import stat
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_wheels import make_wheel

from edgeslm.errors import InvalidBundle
from edgeslm.flash.wheels.tags import parse_name
from edgeslm.flash.wheels.unpacking import unpack

NAME = "some-1.0-py3-none-any.whl"


def by_hand(folder: Path, files: dict[str, bytes], *, record: str | None = None) -> Path:
    """A wheel whose names and list nobody has looked at."""
    rows = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f'"{name}",sha256={digest},{len(data)}')
    path = folder / NAME
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
        text = "\n".join([*rows, "some-1.0.dist-info/RECORD,,"]) if record is None else record
        archive.writestr("some-1.0.dist-info/RECORD", text)
    return path


def unpacked(path: Path, site: Path) -> Path:
    site.mkdir(exist_ok=True)
    unpack(path, parse_name(path.name), site, {})
    return site


def test_files_arrive_with_their_rights(tmp_path: Path) -> None:
    files = {"pack/a.py": b"a = 1\n", "pack/lib/x.so": b"x", "some-1.0.data/purelib/b.py": b"b"}
    files |= {"some-1.0.data/scripts/run": b"#!python\n"}
    site = unpacked(make_wheel(tmp_path, NAME, files), tmp_path / "site")

    assert (site / "pack" / "a.py").read_bytes() == b"a = 1\n"
    assert (site / "b.py").read_bytes() == b"b"
    assert stat.S_IMODE((site / "pack" / "a.py").stat().st_mode) == 0o644
    assert stat.S_IMODE((site / "pack" / "lib" / "x.so").stat().st_mode) == 0o755
    assert not list(site.rglob("run"))


@pytest.mark.parametrize(
    "name",
    [
        *("../out.py", "/out.py", "a/../../out.py", "a\\..\\out.py", "a//b.py", "./a.py", "c:a.py"),
        *("some-1.0.data/purelib/../../../out.py", "x" * 300, "a\nb"),
    ],
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    path = by_hand(tmp_path, {"fine.py": b"", name: b"evil"})
    with pytest.raises(InvalidBundle, match=r"leads out|too long"):
        unpacked(path, tmp_path / "site")
    assert not list((tmp_path / "site").iterdir())
    assert not list(tmp_path.rglob("out.py"))


def test_links_are_refused(tmp_path: Path) -> None:
    path = by_hand(tmp_path, {})
    with zipfile.ZipFile(path, "a") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(InvalidBundle, match="neither a file nor a folder"):
        unpacked(path, tmp_path / "site")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("", "not in both"),
        ("a.py,sha256=AAAA,1\n", "was changed"),
        ("a.py,md5=AAAA,1\n", "no SHA-256"),
        ("a.py,,1\n", "no SHA-256"),
        ("a.py,sha256=AAAA,1\nb.py,sha256=AAAA,1\n", "'b.py' is not in both"),
        ("a.py,sha256=AAAA,1\na.py,sha256=AAAA,1\n", "no SHA-256"),
        ("a.py\n", "damaged"),
    ],
)
def test_the_list_has_to_be_true(tmp_path: Path, record: str, message: str) -> None:
    with pytest.raises(InvalidBundle, match=message):
        unpacked(by_hand(tmp_path, {"a.py": b"a"}, record=record), tmp_path / "site")


def test_no_file_twice_and_none_below_another(tmp_path: Path) -> None:
    path = by_hand(tmp_path, {"a": b"a", "a/b": b"b"})
    with pytest.raises(InvalidBundle, match="lies in a file"):
        unpacked(path, tmp_path / "site")
    with zipfile.ZipFile(by_hand(tmp_path, {"a": b"a"}), "a") as archive, pytest.warns(UserWarning):
        archive.writestr("a", b"again")
    with pytest.raises(InvalidBundle, match="there twice"):
        unpacked(path, tmp_path / "site")


def test_two_wheels_do_not_share_a_place(tmp_path: Path) -> None:
    taken: dict[str, str] = {}
    one = make_wheel(tmp_path, "one-1-py3-none-any.whl", {"a.py": b"1", "same.py": b"s"})
    two = make_wheel(tmp_path, "two-1-py3-none-any.whl", {"a.py": b"2", "same.py": b"s"})
    unpack(one, parse_name(one.name), tmp_path / "site", taken)
    with pytest.raises(InvalidBundle, match=r"a\.py is in another wheel"):
        unpack(two, parse_name(two.name), tmp_path / "site", taken)
    assert (tmp_path / "site" / "a.py").read_bytes() == b"1"


@pytest.mark.parametrize("what", ["no name", "another compression", "no list", "no beginning"])
def test_damage_that_zipfile_does_not_see_is_refused(tmp_path: Path, what: str) -> None:
    path = by_hand(tmp_path, {"a.py": b"a" * 100})
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    if what == "no name":
        data[entry + 46 : entry + 50] = b"\0.py"
    elif what == "another compression":
        data[entry + 10] = zipfile.ZIP_BZIP2
    elif what == "no list":
        data[end + 12 : end + 16] = (end + 1).to_bytes(4, "little")
        data[end + 16 : end + 20] = bytes(4)
    else:
        data[end + 18] = 0xFF
    path.write_bytes(data)
    with pytest.raises(InvalidBundle):
        unpacked(path, tmp_path / "site")
    assert not [each for each in (tmp_path / "site").rglob("*") if each.is_file()]


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(at=st.floats(0, 0.999), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_wheel_is_refused_or_the_same(
    tmp_path: Path, at: float, value: int, cut: bool
) -> None:
    path = make_wheel(tmp_path, NAME, {"pack/a.py": b"a = 1\n" * 50, "pack/b.py": b"b"})
    data = bytearray(path.read_bytes())
    place = int(at * len(data))
    if cut:
        del data[place:]
    else:
        data[place] = value
    path.write_bytes(data)
    site = Path(tempfile.mkdtemp(dir=tmp_path))
    try:
        unpacked(path, site)
    except InvalidBundle:
        return
    names = [file for file in site.rglob("*.py") if file.stat().st_size]
    assert {file.read_bytes() for file in names} <= {b"a = 1\n" * 50, b"b"}
