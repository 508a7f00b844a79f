import contextlib
import json
import resource
from pathlib import Path

import pytest

from edgeslm.bundle import directory as module
from edgeslm.bundle.directory import (
    ensure_replaceable,
    read_manifest,
    verify_bundle,
    write_bundle,
)
from edgeslm.errors import EdgeslmError, InvalidBundle, InvalidGGUF, NotFound, OutputFailure
from edgeslm.records import UNKNOWN, Figure, MemoryPlan, Prediction, Provenance, to_json
from edgeslm.testing import tiny_gguf

PREDICTION = Prediction(
    target="rpi5-4gb",
    target_name="Raspberry Pi 5, 4 GB",
    context_length=2048,
    memory=MemoryPlan(1, 2, 3, 4),
    memory_free_bytes=None,
    fits=True,
    prefill_tokens_per_second=UNKNOWN,
    decode_tokens_per_second=Figure(10.5, Provenance.ESTIMATED, "bandwidth"),
    decode_joules_per_token=UNKNOWN,
)


@pytest.fixture
def model(tmp_path):
    return tiny_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
def packed(tmp_path, model):
    write_bundle(tmp_path / "packed", model, PREDICTION)
    return tmp_path / "packed"


def edit(packed, change):
    path = packed / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_what_is_written_is_read_and_verified(tmp_path, model):
    written = write_bundle(tmp_path / "packed", model, PREDICTION)
    assert verify_bundle(tmp_path / "packed") == read_manifest(tmp_path / "packed") == written
    assert written.model.architecture == "llama"
    assert written.model.license == "apache-2.0"
    assert written.model.file_bytes == model.stat().st_size
    assert written.prediction == to_json(PREDICTION)
    assert (tmp_path / "packed" / "model.gguf").read_bytes() == model.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"packed", "tiny.gguf"}


def test_moving_takes_the_file(tmp_path, model):
    data = model.read_bytes()
    write_bundle(tmp_path / "packed", model, PREDICTION, move=True)
    assert not model.exists()
    assert (tmp_path / "packed" / "model.gguf").read_bytes() == data
    verify_bundle(tmp_path / "packed")


def test_the_same_input_gives_the_same_bytes(tmp_path, model, packed):
    write_bundle(tmp_path / "again", model, PREDICTION)
    for name in ("manifest.json", "model.gguf"):
        assert (packed / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_changed_byte_is_found(packed):
    path = packed / "model.gguf"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidBundle, match=r"model\.gguf: changed"):
        verify_bundle(packed)


def test_truncated_missing_and_extra_files_are_named(packed):
    (packed / "notes.txt").write_text("hello")
    with pytest.raises(InvalidBundle, match=r"notes\.txt"):
        verify_bundle(packed)
    (packed / "notes.txt").unlink()
    with (packed / "model.gguf").open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(InvalidBundle, match=r"model\.gguf: 100 bytes"):
        verify_bundle(packed)
    (packed / "model.gguf").unlink()
    with pytest.raises(InvalidBundle, match=r"model\.gguf: missing"):
        verify_bundle(packed)


def test_a_link_in_place_of_the_model_is_refused(packed, model):
    (packed / "model.gguf").unlink()
    (packed / "model.gguf").symlink_to(model)
    with pytest.raises(InvalidBundle, match="regular"):
        verify_bundle(packed)


@pytest.mark.parametrize("name", ["../tiny.gguf", "/etc/passwd", "a/b", "..", "", "manifest.json"])
def test_names_that_lead_elsewhere_are_refused(packed, name):
    edit(packed, lambda data: data["model"].update(file=name))
    with pytest.raises(InvalidBundle, match="file name"):
        read_manifest(packed)


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
def test_malformed_manifests_are_refused(packed, change, words):
    edit(packed, change)
    with pytest.raises(InvalidBundle, match=words):
        read_manifest(packed)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, "\xff", '{"x": NaN}'])
def test_a_manifest_that_is_no_json_object(packed, text):
    (packed / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidBundle, match=r"manifest\.json"):
        read_manifest(packed)


def test_no_directory_and_no_manifest(tmp_path):
    with pytest.raises(NotFound):
        read_manifest(tmp_path / "none")
    with pytest.raises(InvalidBundle, match=r"no manifest\.json"):
        read_manifest(tmp_path)


def test_a_bundle_is_replaced(tmp_path, packed):
    other = tiny_gguf(tmp_path / "other.gguf", seed=1)
    manifest = write_bundle(packed, other, PREDICTION)
    assert verify_bundle(packed) == manifest
    assert {path.name for path in tmp_path.iterdir()} == {"packed", "tiny.gguf", "other.gguf"}


STATE = {"file": "prompt.state", "sha256": "0" * 64, "file_bytes": 3}


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
def test_a_state_that_is_not_described_well_is_refused(packed, state, message):
    prompt = {"system": "Be kind.", "kv_type": "F16", "state": state}
    edit(packed, lambda data: data.update(prompt=prompt))
    with pytest.raises(InvalidBundle, match=message):
        read_manifest(packed)


def test_a_state_that_is_not_there_is_found_out(packed):
    prompt = {"system": "Be kind.", "kv_type": "F16", "state": STATE}
    edit(packed, lambda data: data.update(prompt=prompt))
    with pytest.raises(InvalidBundle, match=r"prompt\.state: missing"):
        verify_bundle(packed)


@pytest.mark.parametrize("renames", [1, 2])
def test_an_exchange_that_was_killed_is_settled(tmp_path, model, packed, monkeypatch, renames):
    """After the first of two renames the old bundle comes back, after the second it goes."""
    count = 0
    rename = Path.rename

    def dying(path, target):
        nonlocal count
        count += 1
        if count > renames:
            raise SystemExit
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        patch.setattr(module.shutil, "rmtree", lambda *_, **__: None)
        with contextlib.suppress(SystemExit):
            write_bundle(packed, model, PREDICTION)
    hidden = [path for path in tmp_path.iterdir() if path.suffix == ".old"]
    assert len(hidden) == 1
    assert packed.exists() == (renames == 2)
    write_bundle(packed, model, PREDICTION)
    verify_bundle(packed)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".old"]


def test_anything_else_is_left_alone(tmp_path, model, packed):
    folder = tmp_path / "folder"
    folder.mkdir()
    ensure_replaceable(folder)
    (folder / "precious").write_text("1")
    (packed / "precious").write_text("1")
    for directory in (folder, packed, model, tmp_path / "no" / "parent"):
        with pytest.raises(OutputFailure, match="cannot write"):
            write_bundle(directory, model, PREDICTION)
    assert (folder / "precious").exists()
    assert (packed / "precious").exists()


def test_a_failure_keeps_the_old_bundle(tmp_path, packed):
    before = verify_bundle(packed)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(InvalidGGUF):
        write_bundle(packed, broken, PREDICTION)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OutputFailure, match="packed"):
            write_bundle(packed, tmp_path / "tiny.gguf", PREDICTION)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert verify_bundle(packed) == before
    assert {path.name for path in tmp_path.iterdir()} == {"packed", "tiny.gguf", "broken.gguf"}


def test_a_name_too_long_for_the_disk(tmp_path, model):
    directory = tmp_path / ("x" * 300)
    for call in (
        ensure_replaceable,
        read_manifest,
        verify_bundle,
        lambda path: write_bundle(path, model, PREDICTION),
    ):
        with pytest.raises(EdgeslmError, match="too long"):
            call(directory)
