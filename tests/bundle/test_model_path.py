"""From what the user named to the model, and what came with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_bundles import layers_of, make_by_hand
from test_directory import make_earlier

from edgeslm.bundle.model_path import bundle_around, find_model, find_package, name_of, pinned
from edgeslm.bundle.planning import Parts
from edgeslm.bundle.store import Store
from edgeslm.bundle.verification import verify_bundle
from edgeslm.bundle.writing import write_bundle
from edgeslm.errors import EdgeslmError, InvalidBundle, NotFound, UserError
from edgeslm.gguf.reader import read_header
from edgeslm.gguf.writer import TensorSpec, write_gguf
from edgeslm.testing import tiny_gguf


def test_a_file_is_itself(model: Path) -> None:
    assert find_model(model) == model


def test_the_model_of_a_bundle_is_its_own_blob(packed: Path, model: Path) -> None:
    found = find_package(packed)
    assert found.model.parent == packed / "blobs" / "sha256"
    assert found.model.read_bytes() == model.read_bytes()
    assert (found.system, found.kv_type) == ("You are kind.", "Q8_0")
    files = layers_of(packed)
    assert found.states == (files["prompt.state"],)
    assert found.adapters == {"poet": files["adapters/poet.gguf"]}


def test_a_bundle_made_by_hand_has_a_model(tmp_path: Path) -> None:
    for named in (True, False):
        bundle = make_by_hand(tmp_path / str(named), b"GGUF and more", named=named)
        found = find_package(bundle)
        assert found.model.read_bytes() == b"GGUF and more"
        assert (found.system, found.states, found.adapters) == (None, (), {})


def test_a_damaged_bundle_is_refused(packed: Path) -> None:
    files = layers_of(packed)
    with files["model.gguf"].open("ab") as stream:
        stream.write(b"!")
    with pytest.raises(InvalidBundle, match="the manifest says"):
        find_model(packed)
    files["model.gguf"].unlink()
    with pytest.raises(InvalidBundle, match="missing"):
        find_model(packed)
    (packed / "oci-layout").unlink()
    with pytest.raises(InvalidBundle, match="oci-layout"):
        find_model(packed)


def test_an_adapter_that_was_cut_is_refused(packed: Path) -> None:
    path = layers_of(packed)["adapters/poet.gguf"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidBundle, match="the manifest says"):
        find_package(packed)


def test_adapters_of_one_name_in_two_folders_are_two(tmp_path: Path, model: Path) -> None:
    names = ("a/x", "b/x", "y")
    for name in names:
        (tmp_path / name.replace("/", "-")).write_text(name)
    files = {name: tmp_path / name.replace("/", "-") for name in names}
    write_bundle(tmp_path / "packed", Parts(model, adapters=files))
    found = find_package(tmp_path / "packed").adapters
    assert {name: file.read_text() for name, file in found.items()} == {
        "adapters/a/x.gguf": "a/x",
        "adapters/b/x.gguf": "b/x",
        "y": "y",
    }


def test_chat_settings_that_were_changed_are_refused(packed: Path) -> None:
    path = layers_of(packed)["chat.json"]
    path.write_bytes(path.read_bytes().replace(b"kind", b"evil"))
    with pytest.raises(InvalidBundle, match="changed"):
        find_model(packed)


def test_a_tar_is_to_be_unpacked_first(tar: Path) -> None:
    with pytest.raises(UserError, match="a tar") as caught:
        find_model(tar)
    assert f"edgeslm unpack {tar} -o {tar.with_suffix('')}" in (caught.value.hint or "")


def test_a_packed_directory_of_earlier_has_a_model(tmp_path: Path) -> None:
    earlier = make_earlier(tmp_path / "earlier", b"GGUF")
    assert find_model(earlier) == earlier / "model.gguf"
    (earlier / "model.gguf").unlink()
    with pytest.raises(InvalidBundle, match="missing"):
        find_model(earlier)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        find_model(tmp_path / "none")
    assert caught.value.hint


def test_a_checkpoint_is_to_be_converted_first(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="Hugging Face") as caught:
        find_model(tmp_path)
    assert f"edgeslm convert {tmp_path}" in (caught.value.hint or "")


def test_another_directory_with_a_gguf_file(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        find_model(tmp_path)
    (tmp_path / "some.gguf").touch()
    with pytest.raises(UserError) as caught:
        find_model(tmp_path)
    assert "some.gguf" in (caught.value.hint or "")


def test_a_name_too_long_for_the_disk(tmp_path: Path) -> None:
    with pytest.raises(EdgeslmError, match="too long"):
        find_model(tmp_path / ("x" * 300))


def test_which_bundle_a_file_belongs_to(packed: Path, model: Path, tmp_path: Path) -> None:
    assert bundle_around(find_model(packed)) == packed
    assert bundle_around(model) is None
    earlier = make_earlier(tmp_path / "earlier", b"GGUF")
    assert bundle_around(earlier / "model.gguf") == earlier


def test_what_a_model_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "helper-v1.5").mkdir()
    (tmp_path / "model-0.5b.q4.gguf").touch()
    (tmp_path / "link").symlink_to("helper-v1.5")
    monkeypatch.chdir(tmp_path / "helper-v1.5")
    assert name_of(tmp_path / "helper-v1.5") == "helper-v1.5"
    assert name_of(tmp_path / "link") == "helper-v1.5"
    assert name_of(Path()) == "helper-v1.5"
    assert name_of(tmp_path / "model-0.5b.q4.gguf") == "model-0.5b.q4"


def test_a_store_is_called_after_its_current_model(tmp_path: Path, packed: Path) -> None:
    store = Store(tmp_path / "store")
    version = store.add(packed).version
    with pytest.raises(NotFound, match="no version is current"):
        name_of(store.root)
    store.activate(version)
    said = verify_bundle(packed).contents.model.name
    assert said is not None
    assert name_of(store.root) == said.replace(" ", "-")
    write_bundle(tmp_path / "other", Parts(without_name(tmp_path)))
    store.activate(store.add(tmp_path / "other").version)
    assert name_of(store.root) == "store"


def without_name(folder: Path) -> Path:
    """A model that says nothing of its name."""
    made = tiny_gguf(folder / "named.gguf", layers=1)
    header, data = read_header(made), made.read_bytes()
    fields = [field for field in header.fields() if field.key != "general.name"]
    specs = [TensorSpec(each.name, each.type, each.shape) for each in header.tensors]

    def bytes_of(index: int) -> bytes:
        tensor = header.tensors[index]
        return data[tensor.offset : tensor.offset + tensor.bytes]

    write_gguf(folder / "nameless.gguf", fields, specs, bytes_of)
    return folder / "nameless.gguf"


def test_what_was_looked_up_stays_when_a_store_goes_on(
    tmp_path: Path, packed: Path, tiny_model: Path
) -> None:
    store = Store(tmp_path / "store")
    first = store.add(packed).version
    store.activate(first)
    found = pinned(store.root)
    write_bundle(tmp_path / "newer", Parts(tiny_model))
    store.activate(store.add(tmp_path / "newer").version)

    assert found == store.folder(first) != pinned(store.root)
    assert pinned(packed) == packed
