"""What is written: the same every time, as the specifications want it, complete or not there."""

from __future__ import annotations

import hashlib
import json
import resource
import tarfile
import tempfile
from functools import partial
from pathlib import Path

import pytest
from made_bundles import PREDICTION, blob, full_parts, layers_of, manifest_of

from edgeslm.bundle import planning
from edgeslm.bundle.image import Image
from edgeslm.bundle.planning import Parts
from edgeslm.bundle.signing import read_private_key, sign_image
from edgeslm.bundle.verification import sign_bundle, verify_bundle
from edgeslm.bundle.writing import (
    ensure_bundle_writable,
    unpack_bundle,
    unpack_files,
    write_bundle,
)
from edgeslm.errors import EdgeslmError, InvalidBundle, InvalidGGUF, InvalidOption, OutputFailure
from edgeslm.records import to_json
from edgeslm.testing import tiny_gguf

ALL = {
    "model.gguf": "application/vnd.cncf.model.weight.v1.raw",
    "adapters/poet.gguf": "application/vnd.cncf.model.weight.v1.raw",
    "tensors.json": "application/vnd.cncf.model.weight.config.v1.raw",
    "chat.json": "application/vnd.cncf.model.weight.config.v1.raw",
    "prompt.state": "application/vnd.cncf.model.weight.config.v1.raw",
    "target.toml": "application/vnd.cncf.model.weight.config.v1.raw",
    "figures.json": "application/vnd.cncf.model.doc.v1.raw",
    "LICENSE": "application/vnd.cncf.model.doc.v1.raw",
    "README.md": "application/vnd.cncf.model.doc.v1.raw",
    "quality.json": "application/vnd.cncf.model.doc.v1.raw",
    "runtime/some-1-py3-none-any.whl": "application/vnd.cncf.model.code.v1.raw",
}


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_the_manifest_is_as_modelpack_wants_it(packed: Path, model: Path) -> None:
    manifest = manifest_of(packed)
    assert manifest["schemaVersion"] == 2
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    found = {}
    for layer in manifest["layers"]:
        annotations = layer["annotations"]
        name = annotations["org.cncf.model.filepath"]
        assert annotations["org.opencontainers.image.title"] == name
        found[name] = layer["mediaType"]
        assert blob(packed, layer["digest"]).stat().st_size == layer["size"]
    assert found == ALL
    assert next(iter(found)) == "model.gguf"
    assert layers_of(packed)["model.gguf"].read_bytes() == model.read_bytes()


def test_the_config_is_as_modelpack_wants_it(packed: Path) -> None:
    manifest = manifest_of(packed)
    config = json.loads(blob(packed, manifest["config"]["digest"]).read_text())
    assert set(config) == {"descriptor", "config", "modelfs"}
    assert config["descriptor"] == {
        "name": "Tiny llama",
        "family": "llama",
        "licenses": ["apache-2.0"],
    }
    assert config["config"] == {
        "format": "gguf",
        "paramSize": "18.0K",
        "quantization": "F32",
        "capabilities": {"inputTypes": ["text"], "outputTypes": ["text"]},
    }
    digests = [layer["digest"] for layer in manifest["layers"]]
    assert config["modelfs"] == {"type": "layers", "diffIds": digests}


def test_json_is_written_in_one_form(packed: Path) -> None:
    found = [data for data in files(packed).values() if data.startswith(b"{")]
    assert len(found) == 8  # manifest, config, index, layout, four documents
    for data in found:
        value = json.loads(data)
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert data == text.encode()


def test_a_layout_holds_nothing_else(packed: Path) -> None:
    manifest = manifest_of(packed)
    digests = {layer["digest"] for layer in manifest["layers"]} | {manifest["config"]["digest"]}
    index = json.loads((packed / "index.json").read_text())
    digests.add(index["manifests"][0]["digest"])
    expected = {f"blobs/sha256/{digest.removeprefix('sha256:')}" for digest in digests}
    assert set(files(packed)) == expected | {"index.json", "oci-layout"}
    for name, data in files(packed).items():
        if name.startswith("blobs/"):
            assert Path(name).name == hashlib.sha256(data).hexdigest()


def test_the_same_input_gives_the_same_bytes(packed: Path, model: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere" / "again"
    again.parent.mkdir()
    write_bundle(again, full_parts(model, again.parent))
    assert files(again) == files(packed)
    other = tiny_gguf(tmp_path / "other.gguf", layers=1, seed=1)
    write_bundle(again, full_parts(other, again.parent))
    assert manifest_of(again) != manifest_of(packed)


def test_a_tar_holds_the_same(packed: Path, tar: Path, model: Path, tmp_path: Path) -> None:
    with tarfile.open(tar) as stream:
        members = stream.getmembers()
        assert [member.name for member in members] == sorted(files(packed))
        assert {(member.mtime, member.uid, member.mode) for member in members} == {(0, 0, 0o644)}
        for member in members:
            extracted = stream.extractfile(member)
            assert extracted is not None
            assert extracted.read() == (packed / member.name).read_bytes()
    folder = tmp_path / "again"
    folder.mkdir()
    write_bundle(folder / "again.tar", full_parts(model, folder))
    assert (folder / "again.tar").read_bytes() == tar.read_bytes()


def test_what_is_said_of_it(tmp_path: Path, model: Path) -> None:
    contents = write_bundle(tmp_path / "packed", full_parts(model, tmp_path))
    assert contents == verify_bundle(tmp_path / "packed").contents
    assert contents.prediction == to_json(PREDICTION)
    assert contents.measured[0]["schema"] == "edgeslm.measurement/1"
    assert (contents.model.architecture, contents.model.license) == ("llama", "apache-2.0")
    assert contents.prompt is not None
    assert (contents.prompt.system, contents.prompt.kv_type) == ("You are kind.", "Q8_0")
    assert contents.prompt.state is not None
    assert contents.prompt.state.file == "prompt.state"
    assert {each.file for each in contents.files} == set(ALL) - {"model.gguf", "prompt.state"}


def test_moving_takes_the_file(tmp_path: Path, model: Path) -> None:
    data = model.read_bytes()
    write_bundle(tmp_path / "packed", Parts(model, move=True))
    assert not model.exists()
    assert layers_of(tmp_path / "packed")["model.gguf"].read_bytes() == data
    verify_bundle(tmp_path / "packed")


def test_files_with_the_same_bytes_share_a_blob(tmp_path: Path, model: Path) -> None:
    adapters = {name: tmp_path / name for name in ("poet", "clerk")}
    for path in adapters.values():
        path.write_bytes(b"the same")
    write_bundle(tmp_path / "packed", Parts(model, adapters=adapters))
    found = layers_of(tmp_path / "packed")
    assert found["adapters/poet.gguf"] == found["adapters/clerk.gguf"]
    verify_bundle(tmp_path / "packed")


def test_a_card_is_made_where_none_is_given(tmp_path: Path, model: Path) -> None:
    write_bundle(tmp_path / "packed", Parts(model))
    card = layers_of(tmp_path / "packed")["README.md"].read_text()
    assert card.startswith("# Tiny llama\n")
    assert "- licence: apache-2.0\n" in card


def test_a_source_that_changes_meanwhile_is_noticed(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hash_model = planning.hash_model

    def then_touch(header, advance):
        found = hash_model(header, advance)
        data = model.read_bytes()
        model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        return found

    monkeypatch.setattr(planning, "hash_model", then_touch)
    for name in ("packed", "packed.tar"):
        with pytest.raises(OutputFailure, match="changed while"):
            write_bundle(tmp_path / name, Parts(model))
        assert not (tmp_path / name).exists()


def test_texts_too_long_are_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(InvalidOption, match="LICENSE"):
        write_bundle(tmp_path / "packed", Parts(model, license=bytes(5 << 20)))


def test_a_failure_keeps_what_was_there(tmp_path: Path, model: Path, packed: Path) -> None:
    before = files(packed)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(InvalidGGUF):
        write_bundle(packed, Parts(broken))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        for place in (packed, tmp_path / "new", tmp_path / "new.tar"):
            with pytest.raises(OutputFailure, match="cannot write"):
                write_bundle(place, Parts(model))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(packed) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".edgeslm", "new"))]


@pytest.mark.parametrize("name", ["new", "new.tar"])
def test_signed_at_once_or_not_there(tmp_path: Path, model: Path, private: Path, name: str) -> None:
    def lost(_: Image) -> bytes:
        """With a key that is gone when it is needed."""
        raise InvalidOption("gone")

    with pytest.raises(InvalidOption, match="gone"):
        write_bundle(tmp_path / name, Parts(model), sign=lost)
    assert not (tmp_path / name).exists()
    key = read_private_key(private, str)
    write_bundle(tmp_path / name, Parts(model), sign=partial(sign_image, key=key))
    assert verify_bundle(tmp_path / name, private.with_suffix(".pub")).signed
    before = (tmp_path / name).read_bytes() if name.endswith(".tar") else files(tmp_path / name)
    sign_bundle(tmp_path / name, key)
    after = (tmp_path / name).read_bytes() if name.endswith(".tar") else files(tmp_path / name)
    assert len(after) == len(before)


def test_a_tar_takes_the_place_of_nothing_but_a_bundle(
    tmp_path: Path, model: Path, tar: Path
) -> None:
    place = tmp_path / "place.tar"
    with tarfile.open(place, "w") as stream:
        stream.add(model, "model.gguf")
    before = place.read_bytes()
    for _ in range(2):
        with pytest.raises(OutputFailure, match="no bundle"):
            ensure_bundle_writable(place)
        with pytest.raises(OutputFailure, match="no bundle"):
            write_bundle(place, Parts(model))
        assert place.read_bytes() == before
        before = b"precious"
        place.write_bytes(before)
    for fine in (b"", tar.read_bytes()):
        place.write_bytes(fine)
        write_bundle(place, Parts(model))
        verify_bundle(place)


def test_places_that_cannot_be_written(tmp_path: Path, model: Path) -> None:
    (tmp_path / "folder.tar").mkdir()
    for place in (tmp_path / "folder.tar", tmp_path / "no" / "x.tar", model):
        with pytest.raises(OutputFailure, match="cannot write"):
            ensure_bundle_writable(place)
    with pytest.raises(OutputFailure, match="cannot write"):
        write_bundle(tmp_path / "no" / "x", Parts(model))
    with pytest.raises(EdgeslmError, match="too long"):
        ensure_bundle_writable(tmp_path / ("x" * 300))


def test_a_tar_is_unpacked(packed: Path, tar: Path, tmp_path: Path) -> None:
    contents = unpack_bundle(tar, tmp_path / "again")
    assert files(tmp_path / "again") == files(packed)
    assert contents == verify_bundle(packed).contents
    unpack_bundle(tar, tmp_path / "again")
    (tmp_path / "again" / "precious").touch()
    with pytest.raises(OutputFailure, match="precious"):
        unpack_bundle(tar, tmp_path / "again")


def test_unpacking_makes_no_copy_elsewhere(
    tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryDirectory", pytest.fail)
    unpack_bundle(tar, tmp_path / "again")
    unpack_files(tar, tmp_path / "files")


def test_a_damaged_tar_is_not_unpacked(tar: Path, tmp_path: Path) -> None:
    data = bytearray(tar.read_bytes())
    data[data.index(b"Do as you like")] ^= 1
    tar.write_bytes(data)
    for unpack in (unpack_bundle, unpack_files):
        with pytest.raises(InvalidBundle, match="changed"):
            unpack(tar, tmp_path / "again")
        assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("form", ["packed", "tar"])
def test_files_are_unpacked_under_their_names(
    form: str, model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    unpack_files(request.getfixturevalue(form), tmp_path / "files")
    found = files(tmp_path / "files")
    assert set(found) == set(ALL)
    assert found["model.gguf"] == model.read_bytes()
    assert found["LICENSE"] == b"Do as you like.\n"
    with pytest.raises(OutputFailure, match="not empty"):
        unpack_files(request.getfixturevalue(form), tmp_path / "files")
