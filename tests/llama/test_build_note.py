from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeslm import processor
from edgeslm.errors import NativeFailure
from edgeslm.llama import native
from edgeslm.llama.build_note import NAME, ensure_suited, read_note

NOTE = {"schema": "edgeslm.build/1", "architecture": "aarch64", "march": "armv8.2-a+dotprod"}


def write(folder: Path, **changed: object) -> Path:
    (folder / NAME).write_text(json.dumps(NOTE | {"features": ["asimd", "asimddp"]} | changed))
    return folder


def able(monkeypatch: pytest.MonkeyPatch, *features: str) -> None:
    monkeypatch.setattr(processor, "features", lambda: features)


def test_a_build_without_a_note_is_taken_as_it_is(tmp_path: Path) -> None:
    ensure_suited(tmp_path)
    assert read_note(tmp_path) is None


def test_what_the_processor_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    able(monkeypatch, "fp", "asimd")
    with pytest.raises(NativeFailure, match=r"for armv8\.2-a\+dotprod, .* has no asimddp$") as told:
        ensure_suited(tmp_path)
    assert "edgeslm wheels --target" in (told.value.hint or "")


def test_a_processor_that_can_or_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    able(monkeypatch, "asimd", "asimddp", "sve")
    ensure_suited(tmp_path)
    able(monkeypatch)
    ensure_suited(tmp_path)


@pytest.mark.parametrize("changed", [{"schema": "other"}, {"features": "asimd"}, {"march": None}])
def test_a_damaged_note_is_told(tmp_path: Path, changed: dict[str, object]) -> None:
    with pytest.raises(NativeFailure, match=NAME):
        ensure_suited(write(tmp_path, **changed))


def test_it_is_asked_before_the_library_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    write(tmp_path / "lib")
    able(monkeypatch, "nothing")
    monkeypatch.setattr(native, "_binding_folder", lambda: tmp_path)
    for load in (native.library.__wrapped__, native.ggml.__wrapped__):
        with pytest.raises(NativeFailure, match="was compiled for"):
            load()
