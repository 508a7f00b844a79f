from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgeslm.errors import OutputFailure
from edgeslm.packager.evaluate.store import Store, key_of

VALUES = {"values": np.arange(1000, dtype=np.float32)}


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    assert Store(folder).load("a") is None
    assert not Store(folder).holds("a")
    Store(folder).save("a", VALUES)
    assert Store(folder).holds("a")
    found = Store(folder).load("a")
    assert found is not None
    np.testing.assert_array_equal(found["values"], VALUES["values"])
    assert Store(folder).save_text("t.txt", "größer\r\n").read_bytes() == "größer\r\n".encode()
    assert Store(folder).load_text("t.txt") == "größer\r\n"
    assert [path.suffix for path in sorted(folder.iterdir())] == [".npz", ".txt"]


@pytest.mark.parametrize("damage", [b"", b"PK", b"\0" * 4000])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damage: bytes) -> None:
    store = Store(tmp_path)
    store.save("a", VALUES)
    (tmp_path / "a.npz").write_bytes(damage)
    assert store.load("a") is None
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe")
    assert store.load_text("t.txt") is None


def test_a_cut_file_is_as_good_as_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save("a", VALUES)
    whole = (tmp_path / "a.npz").read_bytes()
    for size in range(0, len(whole), 97):
        (tmp_path / "a.npz").write_bytes(whole[:size])
        assert store.load("a") is None


def test_no_code_is_ever_loaded(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as file:
        np.savez(file, values=np.array([{"an": "object"}], dtype=object))
    assert Store(tmp_path).load("a") is None


def _save(folder: Path, key: str, age_seconds: float, most_bytes: int = 10**9) -> None:
    Store(folder, most_bytes).save(key, VALUES)
    then = (folder / f"{key}.npz").stat().st_mtime - age_seconds
    os.utime(folder / f"{key}.npz", (then, then))


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir())


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    for key, age in (("a", 300), ("b", 200), ("c", 100)):
        _save(tmp_path, key, age)
    each = (tmp_path / "a.npz").stat().st_size
    Store(tmp_path).load("a")
    _save(tmp_path, "d", 0, most_bytes=3 * each)
    assert _names(tmp_path) == ["a", "c", "d"]
    _save(tmp_path, "e", 0, most_bytes=each)
    assert _names(tmp_path) == ["e"]


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    store = Store(tmp_path, most_bytes=1)
    store.save("a", VALUES)
    store.save("b", VALUES)
    assert _names(tmp_path) == ["a", "b"]
    Store(tmp_path, most_bytes=1).save("c", VALUES)
    assert _names(tmp_path) == ["c"]


def test_files_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("mine")
    Store(tmp_path, most_bytes=1).save("a", VALUES)
    assert _names(tmp_path) == ["README", "a"]


def test_a_full_disk_is_said(small_disk: Path) -> None:
    with pytest.raises(OutputFailure, match="No space"):
        Store(small_disk).save("a", {"values": np.zeros(10**6)})
    assert _names(small_disk) == []


def test_keys_depend_on_every_part() -> None:
    parts = [("a", 1), ("a", 2), ("b", 1), ("a", 1, None), ("a1",), ("a", (1,))]
    assert len({key_of(*part) for part in parts}) == len(parts)
    assert key_of("a", (1, 2)) == key_of("a", [1, 2])


def test_without_a_home_there_is_a_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeslm.packager.evaluate.store.cache_folder", lambda _name: None)
    store = Store()
    store.save("a", VALUES)
    assert store.holds("a")
