import json
from pathlib import Path

import pytest

from edgeslm.bundle.model_path import find_model, name_of
from edgeslm.errors import EdgeslmError, InvalidBundle, NotFound, UserError


@pytest.fixture
def packed(tmp_path):
    entry = {
        "file": "model.gguf",
        "sha256": "0" * 64,
        "file_bytes": 4,
        "architecture": None,
        "name": None,
        "license": None,
        "parameters": 1,
        "bits_per_weight": None,
    }
    manifest = {
        "schema": "edgeslm.manifest/1",
        "created_by": "edgeslm 0",
        "model": entry,
        "prediction": {},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    return tmp_path


def test_a_file_is_itself(packed):
    assert find_model(packed / "model.gguf") == packed / "model.gguf"


def test_a_packed_directory_has_a_model(packed):
    assert find_model(packed) == packed / "model.gguf"
    (packed / "model.gguf").unlink()
    with pytest.raises(InvalidBundle, match="missing"):
        find_model(packed)


def test_nothing_there(tmp_path):
    with pytest.raises(NotFound) as caught:
        find_model(tmp_path / "none")
    assert caught.value.hint


def test_a_checkpoint_is_to_be_converted_first(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="Hugging Face") as caught:
        find_model(tmp_path)
    assert f"edgeslm convert {tmp_path}" in (caught.value.hint or "")


def test_another_directory_with_a_gguf_file(tmp_path):
    with pytest.raises(UserError):
        find_model(tmp_path)
    (tmp_path / "some.gguf").touch()
    with pytest.raises(UserError) as caught:
        find_model(tmp_path)
    assert "some.gguf" in (caught.value.hint or "")


def test_a_name_too_long_for_the_disk(tmp_path):
    with pytest.raises(EdgeslmError, match="too long"):
        find_model(tmp_path / ("x" * 300))


def test_what_a_model_is_called(tmp_path, monkeypatch):
    (tmp_path / "helper-v1.5").mkdir()
    (tmp_path / "model-0.5b.q4.gguf").touch()
    (tmp_path / "link").symlink_to("helper-v1.5")
    monkeypatch.chdir(tmp_path / "helper-v1.5")
    assert name_of(tmp_path / "helper-v1.5") == "helper-v1.5"
    assert name_of(tmp_path / "link") == "helper-v1.5"
    assert name_of(Path()) == "helper-v1.5"
    assert name_of(tmp_path / "model-0.5b.q4.gguf") == "model-0.5b.q4"
