"""A store of versions: what is brought in, what is refused, switched, taken back and removed."""

from __future__ import annotations

import errno
import json
import os
import select
from pathlib import Path

import pytest
from made_bundles import make_by_hand

from edgeslm.bundle import durable
from edgeslm.bundle import store as stores
from edgeslm.bundle.image import Blob
from edgeslm.bundle.model_path import find_model, find_package
from edgeslm.bundle.planning import Parts
from edgeslm.bundle.signing import read_private_key
from edgeslm.bundle.store import Store
from edgeslm.bundle.store_state import is_store
from edgeslm.bundle.verification import sign_bundle, verify_bundle
from edgeslm.bundle.writing import write_bundle
from edgeslm.errors import (
    InvalidBundle,
    NotFound,
    OutputFailure,
    Unhealthy,
    Untrusted,
    UserError,
)
from edgeslm.files import remembered_sha256, sha256
from edgeslm.testing import tiny_adapter, tiny_gguf


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "deep" / "store")


@pytest.fixture
def adapted(tmp_path: Path, model: Path) -> Path:
    """The same model with an adapter beside it."""
    adapter = tiny_adapter(tmp_path / "poet.gguf", model)
    write_bundle(tmp_path / "adapted", Parts(model, adapters={"poet": adapter}))
    return tmp_path / "adapted"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "other", Parts(tiny_gguf(tmp_path / "o.gguf", layers=1, seed=5)))
    return tmp_path / "other"


def files(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_what_is_added_is_the_bundle_and_not_yet_current(store: Store, packed: Path) -> None:
    added = store.add(packed)
    assert files(store.folder(added.version)) == files(packed)
    assert added.new
    assert added.written_bytes == sum(path.stat().st_size for path in packed.rglob("*/*/*"))
    assert store.state.current is None
    assert not list((store.root / "incoming").iterdir())
    digest = verify_bundle(packed).contents.digest
    assert [each.digest for each in store.versions()] == [f"sha256:{digest}"]
    with pytest.raises(NotFound, match="no version is current"):
        find_model(store.root)
    again = store.add(packed)
    assert (again.version, again.new, again.written_bytes) == (added.version, False, 0)


def test_a_tar_and_a_bundle_of_others(store: Store, tar: Path, tmp_path: Path, model: Path) -> None:
    assert store.add(tar).new
    assert store.add(make_by_hand(tmp_path / "hand", model.read_bytes())).new
    assert len(store.versions()) == 2


def test_the_same_blob_in_two_versions_is_one_file(
    store: Store, packed: Path, adapted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = store.add(packed), store.add(adapted)
    models = [find_model(store.folder(each.version)) for each in (first, second)]
    assert models[0].samefile(models[1])
    assert second.shared_bytes > models[0].stat().st_size
    assert second.written_bytes < 20_000


def test_without_links_it_is_copied(
    store: Store, packed: Path, adapted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(durable, "link", refuse)
    first, second = store.add(packed), store.add(adapted)
    models = [find_model(store.folder(each.version)) for each in (first, second)]
    assert not models[0].samefile(models[1])
    assert models[0].read_bytes() == models[1].read_bytes()


def test_a_blob_that_rotted_in_the_store_is_not_shared(
    store: Store, packed: Path, adapted: Path
) -> None:
    model = find_model(store.folder(store.add(packed).version))
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    verify_bundle(store.folder(store.add(adapted).version))


def rot(path: Path) -> None:
    """Another bit, the size as it was."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("damage", ["a bit", "cut", "gone", "index", "stray"])
def test_a_damaged_version_is_mended_by_its_bundle(store: Store, packed: Path, damage: str) -> None:
    version = store.add(packed).version
    store.activate(version)
    folder = store.folder(version)
    model = find_model(folder)
    if damage == "a bit":
        rot(model)
    elif damage == "cut":
        os.truncate(model, 100)
    elif damage == "gone":
        model.unlink()
    elif damage == "index":
        (folder / "index.json").write_bytes(b"")
    else:
        (folder / "blobs" / "sha256" / "stray").touch()
    added = store.add(packed)
    assert (added.version, added.new) == (version, False)
    of_model = damage in ("a bit", "cut", "gone")
    assert added.written_bytes == (model.stat().st_size if of_model else 0)
    assert files(folder) == files(packed)
    assert not list((store.root / "incoming").iterdir())
    assert store.add(packed).written_bytes == 0


def test_a_blob_is_mended_in_all_versions_that_have_it(
    store: Store, packed: Path, adapted: Path
) -> None:
    one, two = store.add(packed).version, store.add(adapted).version
    rot(find_model(store.folder(one)))
    store.add(adapted)
    for name in (one, two):
        verify_bundle(store.folder(name))
    first, second = (find_model(store.folder(name)) for name in (one, two))
    assert first.samefile(second)


def test_a_good_blob_is_found_behind_a_damaged_one(
    store: Store, packed: Path, adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(durable, "link", refuse)
    versions = [store.add(each).version for each in (packed, adapted)]
    model = find_model(store.folder(min(versions)))
    blob = Blob(model.name, model.stat().st_size)
    rot(model)
    assert store.share(blob, tmp_path / "shared") == blob.size
    assert sha256(tmp_path / "shared") == blob.sha256
    rot(find_model(store.folder(max(versions))))
    assert store.share(blob, tmp_path / "shared") is None


def test_what_is_known_of_a_shared_file_stays_known(
    store: Store, packed: Path, adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "notes"))
    one = store.add(packed).version
    store.activate(one)
    model = find_model(store.folder(one))
    remembered_sha256(model)
    monkeypatch.setattr("edgeslm.files.sha256", lambda _path: pytest.fail("hashed once more"))
    store.add(adapted)
    remembered_sha256(model)
    store.collect()
    assert model.stat().st_nlink == 1
    remembered_sha256(model)


def test_switched_and_taken_back(store: Store, packed: Path, other: Path) -> None:
    one, two = store.add(packed).version, store.add(other).version
    with pytest.raises(NotFound):
        store.rollback()
    store.activate(one)
    assert find_model(store.root) == find_model(store.folder(one))
    assert find_package(store.root).system == "You are kind."
    store.activate(two)
    assert (store.state.current, store.state.previous) == (two, one)
    store.activate(two)
    assert store.state.previous == one
    assert store.rollback().current == one
    assert store.state.previous == two
    assert find_model(store.root) == find_model(store.folder(one))
    assert json.loads((store.root / "state.json").read_text()) == {
        "schema": "edgeslm.store/1",
        "current": one,
        "previous": two,
        "refused": [],
    }


def test_what_fails_its_check_is_not_switched_to_and_remembered(
    store: Store, packed: Path, other: Path
) -> None:
    one, two = store.add(packed).version, store.add(other).version
    store.activate(one)
    with pytest.raises(Unhealthy, match=f"{one} stays: it hums"):
        store.activate(two, lambda folder: f"it hums in {folder.name}")
    assert store.state.current == one
    assert store.state.refusal(two) is not None
    for attempt in (lambda: store.activate(two), lambda: store.add(other)):
        with pytest.raises(UserError, match=r"did not pass its check before: it hums"):
            attempt()
    store.collect()
    with pytest.raises(UserError, match="did not pass"):
        store.add(other)
    assert store.add(other, again=True).new
    assert store.activate(two, lambda _: None, again=True).current == two
    assert store.state.refusal(two) is None


def test_a_current_version_that_passes_after_all_is_refused_no_more(
    store: Store, packed: Path
) -> None:
    one = store.add(packed).version
    store.activate(one)
    with pytest.raises(Unhealthy):
        store.activate(one, lambda _: "it hums")
    assert store.activate(one, lambda _: None, again=True).refusal(one) is None
    assert not store.add(packed).new


def test_a_version_is_activated_by_its_beginning(store: Store, packed: Path) -> None:
    one = store.add(packed).version
    assert store.activate(one[:6]).current == one
    with pytest.raises(Unhealthy):
        store.activate(one[:6], lambda _: "it hums")
    assert [each.version for each in store.state.refused] == [one]


def test_what_two_versions_share_is_freed_with_both(
    store: Store, packed: Path, adapted: Path, other: Path
) -> None:
    for bundle in (packed, adapted):
        store.add(bundle)
    store.activate(store.add(other).version)
    model = find_model(packed).stat().st_size
    there = sum(path.stat().st_size for path in packed.rglob("*") if path.is_file())
    assert there < store.collect().freed_bytes < there + model


def test_collecting_keeps_current_and_previous(
    store: Store, packed: Path, other: Path, adapted: Path
) -> None:
    one, two, three = (store.add(each).version for each in (packed, other, adapted))
    store.activate(one)
    store.activate(two)
    (store.root / "incoming" / ("0" * 32)).mkdir()
    (store.root / "incoming" / ("0" * 32) / "x").write_bytes(b"half")
    model = find_model(store.folder(three))
    with model.open("rb") as opened:
        collected = store.collect()
        assert len(opened.read()) > 100_000 // 2  # who has it open keeps it
    assert (collected.versions, collected.incoming) == ((three,), 1)
    own = sum(size for size in (each.written_bytes for each in [store.add(adapted)]))
    assert 0 < collected.freed_bytes <= own + 4096
    store.collect()
    assert {each.name for each in store.versions()} == {one, two}
    assert not list((store.root / "incoming").iterdir())


def test_damage_is_refused_and_leaves_nothing(store: Store, packed: Path) -> None:
    model = find_model(packed)
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    with pytest.raises(InvalidBundle, match="changed"):
        store.add(packed)
    assert not store.versions()
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(InvalidBundle, match="the manifest says"):
        store.add(packed)


def test_what_was_left_in_incoming_does_no_harm(store: Store, packed: Path) -> None:
    name = verify_bundle(packed).contents.digest
    folder = store.root / "incoming" / str(name)[:32]
    (folder / "blobs" / "sha256").mkdir(parents=True)
    blob = find_model(packed)
    (folder / "blobs" / "sha256" / f"{blob.name}.part").write_bytes(b"half" * 10)
    (folder / "stray").write_bytes(b"?")
    assert files(store.folder(store.add(packed).version)) == files(packed)


def test_a_wrong_file_in_incoming_is_found_and_the_next_time_is_right(
    store: Store, packed: Path
) -> None:
    name = verify_bundle(packed).contents.digest
    place = store.root / "incoming" / str(name)[:32] / "blobs" / "sha256"
    place.mkdir(parents=True)
    blob = find_model(packed)
    (place / blob.name).write_bytes(bytes(blob.stat().st_size))
    with pytest.raises(UserError):
        store.add(packed)
    assert files(store.folder(store.add(packed).version)) == files(packed)


def test_too_little_room_is_told_before_anything_is_written(
    store: Store, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1_100_000

    monkeypatch.setattr(stores.shutil, "disk_usage", lambda _path: Usage)
    with pytest.raises(OutputFailure, match=r"1\.\d\d MB are needed, 1\.10 MB are free"):
        store.add(packed)
    assert not list((store.root / "incoming").iterdir())


def test_room_for_copies_is_asked_for_where_there_are_no_links(
    store: Store, packed: Path, adapted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = find_model(packed).stat().st_size + (1 << 20)

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "no links here")

    store.add(packed)
    monkeypatch.setattr(stores.shutil, "disk_usage", lambda _path: Usage)
    with monkeypatch.context() as patched:
        patched.setattr(durable, "link", refuse)
        with pytest.raises(OutputFailure, match="are needed"):
            store.add(adapted)
    assert store.add(adapted).new


def test_a_disk_that_fills_up_is_told_with_what_makes_room(
    store: Store, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(_output: object, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(durable.Output, "write", fill)
        with pytest.raises(OutputFailure) as caught:
            store.add(packed)
    assert "store collect" in (caught.value.hint or "")
    assert not list((store.root / "incoming").rglob("*.part"))
    assert store.add(packed).new


def test_a_full_disk_is_an_error_and_then_it_works(small_disk: Path, packed: Path) -> None:
    store = Store(small_disk / "store")
    with pytest.raises(OutputFailure, match="are free"):
        store.add(packed)


def test_only_signed_versions_where_only_those_are_accepted(
    store: Store, packed: Path, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = store.add(packed).version
    store.activate(version)
    monkeypatch.setenv("EDGESLM_TRUSTED_KEYS", str(private.with_suffix(".pub")))
    with pytest.raises(Untrusted):
        find_package(store.root, to_run=True)
    with pytest.raises(Untrusted):
        store.add(packed)
    sign_bundle(packed, read_private_key(private, lambda: ""))
    assert not store.add(packed).new  # but its signature is taken over
    assert find_package(store.root, to_run=True).model.is_file()


def test_versions_are_found_by_their_beginnings(store: Store, packed: Path, other: Path) -> None:
    one, two = store.add(packed).version, store.add(other).version
    assert store.find(one[:6]) == one
    assert store.find(f"sha256:{two}") == two
    for text in ("", "zz", "sha256:"):
        with pytest.raises(NotFound):
            store.find(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"schema":"edgeslm.store/2","current":null,"previous":null,"refused":[]}',
        '{"schema":"edgeslm.store/1","current":"../../etc","previous":null,"refused":[]}',
        '{"schema":"edgeslm.store/1","current":5,"previous":null,"refused":[]}',
        '{"schema":"edgeslm.store/1","current":null,"previous":null,"refused":[5]}',
    ],
)
def test_a_state_that_is_none_is_refused(store: Store, packed: Path, text: str) -> None:
    store.add(packed)
    (store.root / "state.json").write_text(text)
    with pytest.raises(InvalidBundle, match=r"state\.json"):
        store.rollback()


def test_what_a_store_is(tmp_path: Path, store: Store, packed: Path) -> None:
    assert not is_store(tmp_path)
    assert not is_store(packed)
    store.add(packed)
    assert is_store(store.root)


def test_one_command_at_a_time(store: Store, packed: Path) -> None:
    """A second one waits until the first has ended."""
    store.add(packed)
    go, told = os.pipe(), os.pipe()
    child = os.fork()  # before the lock is taken: a child would have it too
    if child == 0:
        os.read(go[0], 1)
        store.collect()
        os.write(told[1], b"collected")
        os._exit(0)
    with store.locked():
        os.write(go[1], b"!")
        assert not select.select([told[0]], [], [], 0.3)[0]
        assert store.versions()
    os.waitpid(child, 0)
    assert os.read(told[0], 20) == b"collected"
    assert not store.versions()
    for end in (*go, *told):
        os.close(end)
