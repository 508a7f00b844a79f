"""Packed directories of the form before bundles can still be read and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgeslm import files, progress
from edgeslm.bundle.directory import read_manifest, verify_directory
from edgeslm.bundle.verification import verify_bundle
from edgeslm.errors import EdgeslmError, InvalidBundle, NotFound, Unsupported
from edgeslm.progress import Advance

STATE = {"file": "prompt.state", "sha256": "0" * 64, "file_bytes": 3}


def make_earlier(directory: Path, model: bytes, prompt: dict[str, Any] | None = None) -> Path:
    """A packed directory as edgeslm wrote it before bundles."""
    directory.mkdir()
    entry = {
        "file": "model.gguf",
        "sha256": hashlib.sha256(model).hexdigest(),
        "file_bytes": len(model),
        "architecture": "llama",
        "name": None,
        "license": "apache-2.0",
        "parameters": 1,
        "bits_per_weight": 4.5,
    }
    manifest = {
        "schema": "edgeslm.manifest/1",
        "created_by": "edgeslm 0",
        "model": entry,
        "prediction": {"target": "rpi5-4gb"},
        "prompt": prompt,
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    (directory / "model.gguf").write_bytes(model)
    return directory


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    return make_earlier(tmp_path / "earlier", b"GGUF and more")


def edit(packed: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = packed / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_it_is_read_and_verified(earlier: Path) -> None:
    found = verify_directory(earlier)
    assert found == read_manifest(earlier) == verify_bundle(earlier).contents
    assert (found.digest, found.model.license, found.prompt) == (None, "apache-2.0", None)
    assert found.prediction == {"target": "rpi5-4gb"}


def test_it_was_never_signed(earlier: Path, private: Path) -> None:
    with pytest.raises(Unsupported, match="never signed"):
        verify_bundle(earlier, private.with_suffix(".pub"))


def test_the_bar_moves_while_it_is_read(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    totals: list[int] = []

    @contextmanager
    def watched(_: str, total: int, *, unit: str) -> Iterator[Advance]:
        totals.append(total)
        yield moved.append

    monkeypatch.setattr(progress, "bar", watched)
    model = earlier / "model.gguf"
    monkeypatch.setattr(files, "_PIECE_BYTES", 3)
    verify_directory(earlier)
    assert totals == [sum(moved)]
    assert max(moved) == 3
    assert sum(moved) >= model.stat().st_size


def test_a_changed_byte_is_found(earlier: Path) -> None:
    (earlier / "model.gguf").write_bytes(b"GGUF and mire")
    with pytest.raises(InvalidBundle, match=r"model\.gguf: changed"):
        verify_bundle(earlier)


def test_truncated_missing_and_extra_files_are_named(earlier: Path) -> None:
    (earlier / "notes.txt").write_text("hello")
    with pytest.raises(InvalidBundle, match=r"notes\.txt"):
        verify_bundle(earlier)
    (earlier / "notes.txt").unlink()
    (earlier / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(InvalidBundle, match=r"model\.gguf: 4 bytes"):
        verify_bundle(earlier)
    (earlier / "model.gguf").unlink()
    with pytest.raises(InvalidBundle, match=r"model\.gguf: missing"):
        verify_bundle(earlier)
    (earlier / "model.gguf").symlink_to("manifest.json")
    with pytest.raises(InvalidBundle, match="regular"):
        verify_bundle(earlier)


@pytest.mark.parametrize("name", ["../tiny.gguf", "/etc/passwd", "a/b", "..", "", "manifest.json"])
def test_names_that_lead_elsewhere_are_refused(earlier: Path, name: str) -> None:
    edit(earlier, lambda data: data["model"].update(file=name))
    with pytest.raises(InvalidBundle, match="file name"):
        read_manifest(earlier)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(schema="edgeslm.manifest/9"), "edgeslm.manifest/9"),
        (lambda data: data.pop("model"), "model is missing"),
        (lambda data: data["model"].pop("sha256"), "sha256 is missing"),
        (lambda data: data["model"].update(file_bytes="1"), "file_bytes"),
        (lambda data: data["model"].update(file_bytes=True), "file_bytes"),
        (lambda data: data["model"].update(sha256="abc"), "SHA-256"),
        (lambda data: data.update(prediction=None), "prediction"),
    ],
)
def test_malformed_manifests_are_refused(
    earlier: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    edit(earlier, change)
    with pytest.raises(InvalidBundle, match=words):
        read_manifest(earlier)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, "\xff", '{"x": NaN}'])
def test_a_manifest_that_is_no_json_object(earlier: Path, text: str) -> None:
    (earlier / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidBundle, match=r"manifest\.json"):
        read_manifest(earlier)


def test_no_directory_and_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_manifest(tmp_path / "none")
    with pytest.raises(InvalidBundle, match="no bundle"):
        read_manifest(tmp_path)
    with pytest.raises(EdgeslmError, match="too long"):
        read_manifest(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({**STATE, "file": "../prompt.state"}, "not a plain file name"),
        ({**STATE, "file": "/etc/passwd"}, "not a plain file name"),
        ({**STATE, "file": "manifest.json"}, "not a plain file name"),
        ({**STATE, "file": "model.gguf"}, "named twice"),
        ({**STATE, "sha256": "0"}, "not a SHA-256"),
        ({**STATE, "file_bytes": "3"}, "wrong type"),
        ({"file": "prompt.state"}, "missing"),
        ("prompt.state", "wrong type"),
    ],
)
def test_a_state_that_is_not_described_well_is_refused(
    earlier: Path, state: object, message: str
) -> None:
    prompt = {"system": "Be kind.", "kv_type": "F16", "state": state}
    edit(earlier, lambda data: data.update(prompt=prompt))
    with pytest.raises(InvalidBundle, match=message):
        read_manifest(earlier)


def test_a_state_that_is_not_there_is_found_out(earlier: Path) -> None:
    prompt = {"system": "Be kind.", "kv_type": "F16", "state": STATE}
    edit(earlier, lambda data: data.update(prompt=prompt))
    with pytest.raises(InvalidBundle, match=r"prompt\.state: missing"):
        verify_bundle(earlier)
