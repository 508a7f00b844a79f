"""A machine that accepts signed bundles only."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from made_bundles import layers_of, write_pair

from edgeslm.bundle import trust
from edgeslm.bundle.model_path import find_model, find_package
from edgeslm.bundle.signing import read_private_key
from edgeslm.bundle.store import Store
from edgeslm.bundle.trust import refuse_unsigned, trusted_keys
from edgeslm.bundle.verification import sign_bundle
from edgeslm.errors import InvalidBundle, InvalidOption, NotFound, Untrusted
from edgeslm.files import identity, sha256
from edgeslm.flash import places


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch, private: Path) -> Path:
    """A private key whose public one is trusted here."""
    monkeypatch.setenv("EDGESLM_TRUSTED_KEYS", str(private.with_suffix(".pub")))
    return private


def test_without_keys_everything_is_accepted(packed: Path, model: Path) -> None:
    assert trusted_keys() is None
    find_package(packed, to_run=True)
    refuse_unsigned(model)


def test_only_what_is_signed_is_accepted(packed: Path, trusting: Path, model: Path) -> None:
    with pytest.raises(Untrusted, match="not signed"):
        find_package(packed, to_run=True)
    with pytest.raises(Untrusted, match="accepts nothing else"):
        find_model(model, to_run=True)
    find_model(model)  # to look at it
    sign_bundle(packed, read_private_key(trusting, str))
    found = find_package(packed, to_run=True)
    assert found.model.read_bytes() == model.read_bytes()
    with pytest.raises(NotFound):
        find_model(packed / "none", to_run=True)


def test_the_machines_own_folder_of_keys_counts(
    packed: Path, private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Path("/", places.TRUSTED_KEYS) == trust._DEVICE_FOLDER
    folder = tmp_path / "trusted_keys"
    monkeypatch.setattr(trust, "_DEVICE_FOLDER", folder)
    assert trusted_keys() is None
    folder.mkdir()
    shutil.copy(private.with_suffix(".pub"), folder)
    with pytest.raises(Untrusted, match="not signed"):
        find_package(packed, to_run=True)
    sign_bundle(packed, read_private_key(private, str))
    find_package(packed, to_run=True)


def test_a_good_signature_stays_where_no_key_can_tell(
    packed: Path, private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_bundle(packed, read_private_key(private, str))
    store = Store(tmp_path / "store")
    store.activate(store.add(packed).version)
    sign_bundle(packed, read_private_key(write_pair(tmp_path / "o.pem", ec.SECP256R1()), str))
    store.add(packed)
    monkeypatch.setenv("EDGESLM_TRUSTED_KEYS", str(private.with_suffix(".pub")))
    find_package(store.root, to_run=True)
    monkeypatch.setenv("EDGESLM_TRUSTED_KEYS", str(tmp_path / "o.pub"))
    with pytest.raises(Untrusted):
        find_package(store.root, to_run=True)
    store.add(packed)
    find_package(store.root, to_run=True)


def test_another_keys_signature_is_refused(packed: Path, trusting: Path, tmp_path: Path) -> None:
    other = write_pair(tmp_path / "other.pem", ec.SECP256R1())
    sign_bundle(packed, read_private_key(other, str))
    with pytest.raises(Untrusted, match="another key"):
        find_package(packed, to_run=True)


@pytest.mark.parametrize("name", ["model.gguf", "chat.json", "adapters/poet.gguf", "LICENSE"])
def test_what_was_changed_after_signing_is_refused(packed: Path, trusting: Path, name: str) -> None:
    sign_bundle(packed, read_private_key(trusting, str))
    find_package(packed, to_run=True)
    path = layers_of(packed)[name]
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InvalidBundle, match="changed"):
        find_package(packed, to_run=True)


def _exchange(path: Path, *, by_copy: bool) -> None:
    """Change a file, its size and time of modification as they were."""
    status = path.stat()
    data = path.read_bytes()
    source = path.parent.parent.parent / "evil" if by_copy else path
    source.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    if by_copy:
        shutil.copy2(source, path)
        source.unlink()
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert path.stat().st_ino == status.st_ino


def test_what_is_copied_over_a_known_file_is_hashed(packed: Path, trusting: Path) -> None:
    sign_bundle(packed, read_private_key(trusting, str))
    find_package(packed, to_run=True)
    _exchange(layers_of(packed)["model.gguf"], by_copy=True)
    with pytest.raises(InvalidBundle, match="changed"):
        find_package(packed, to_run=True)


def test_notes_say_nothing_of_another_disk(
    packed: Path, trusting: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever brings a disk can have any file on it look as an earlier one did."""
    sign_bundle(packed, read_private_key(trusting, str))
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "cache"))
    find_package(packed, to_run=True)
    model = layers_of(packed)["model.gguf"]
    note = tmp_path / "cache" / "hashes" / identity(model)
    assert note.exists()
    elsewhere = Path("/dev/shm")  # a disk of its own on most Linux systems
    if not os.access(elsewhere, os.W_OK) or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk")
    with TemporaryDirectory(dir=elsewhere) as folder:
        stick = Path(shutil.copytree(packed, Path(folder) / "stick"))
        find_package(stick, to_run=True)
        model = layers_of(stick)["model.gguf"]
        right = sha256(model)
        _exchange(model, by_copy=False)
        (note.parent / identity(model)).write_text(right)
        with pytest.raises(InvalidBundle, match="changed"):
            find_package(stick, to_run=True)


def test_a_packed_directory_of_earlier_is_refused(trusting: Path, tmp_path: Path) -> None:
    from test_directory import make_earlier

    make_earlier(tmp_path / "earlier", b"GGUF")
    find_model(tmp_path / "earlier")
    with pytest.raises(Untrusted):
        find_model(tmp_path / "earlier", to_run=True)


def test_keys_in_folders(
    packed: Path, private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_bundle(packed, read_private_key(private, str))
    monkeypatch.setenv("EDGESLM_CONFIG", str(tmp_path / "config"))
    folder = tmp_path / "config" / "trusted_keys"
    folder.mkdir(parents=True)
    with pytest.raises(InvalidOption, match="nothing is trusted"):
        find_package(packed, to_run=True)
    (folder / "notes.txt").write_text("not a key")
    other = write_pair(tmp_path / "other.pem", ec.SECP384R1())
    shutil.copy(other.with_suffix(".pub"), folder / "a.pub")
    with pytest.raises(Untrusted):
        find_package(packed, to_run=True)
    shutil.copy(private.with_suffix(".pub"), folder / "b.pem")
    find_package(packed, to_run=True)
    both = os.pathsep.join(str(key.with_suffix(".pub")) for key in (other, private))
    (folder / "b.pem").unlink()
    monkeypatch.setenv("EDGESLM_TRUSTED_KEYS", both)
    find_package(packed, to_run=True)
    monkeypatch.setenv("EDGESLM_TRUSTED_KEYS", str(tmp_path / "none.pub"))
    with pytest.raises(NotFound):
        find_package(packed, to_run=True)
