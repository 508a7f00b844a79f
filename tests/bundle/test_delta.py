"""Updates: what is sent, what comes out, what goes on after an interruption, what is refused."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from made_bundles import write_pair

from edgeslm.bundle import delta_applying, durable
from edgeslm.bundle.delta_applying import apply_delta
from edgeslm.bundle.delta_blocks import BLOCK_BYTES
from edgeslm.bundle.delta_format import LENGTH_BYTES, MAGIC, read_head
from edgeslm.bundle.delta_inventory import inventory_of, read_inventory, write_inventory
from edgeslm.bundle.delta_making import Made, make_delta
from edgeslm.bundle.documents import canonical
from edgeslm.bundle.durable import Kind, Operation
from edgeslm.bundle.model_path import find_model
from edgeslm.bundle.planning import Parts
from edgeslm.bundle.signing import read_private_key
from edgeslm.bundle.store import Store
from edgeslm.bundle.verification import sign_bundle
from edgeslm.bundle.writing import write_bundle
from edgeslm.errors import EdgeslmError, InvalidBundle, NotFound, Untrusted, UserError
from edgeslm.gguf.reader import read_header
from edgeslm.gguf.types import Field, ValueType
from edgeslm.gguf.writer import TensorSpec, write_gguf
from edgeslm.testing import tiny_adapter, tiny_gguf

LAYER = "blk.1."


@pytest.fixture
def old_model(tmp_path: Path) -> Path:
    return tiny_gguf(tmp_path / "old.gguf", layers=3, width=64, feed_forward=128)


@pytest.fixture
def old(tmp_path: Path, old_model: Path) -> Path:
    write_bundle(tmp_path / "old", Parts(old_model))
    return tmp_path / "old"


@pytest.fixture
def store(tmp_path: Path, old: Path) -> Store:
    """A device that has the old version."""
    store = Store(tmp_path / "store")
    store.activate(store.add(old).version)
    return store


def changed(model: Path, output: Path, *, layer: str = "", fields: tuple[Field, ...] = ()) -> Path:
    """The same model with noise in one layer, or more metadata."""
    header = read_header(model)
    data = model.read_bytes()
    specs = [TensorSpec(each.name, each.type, each.shape) for each in header.tensors]
    noise = random.Random(1)

    def bytes_of(index: int) -> bytes:
        tensor = header.tensors[index]
        found = data[tensor.offset : tensor.offset + tensor.bytes]
        if layer and tensor.name.startswith(layer):
            found = b"".join(
                found[at : at + 2] + noise.randbytes(2) for at in range(0, len(found), 4)
            )
        return found

    write_gguf(output, [*header.fields(), *fields], specs, bytes_of)
    return output


def files(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def carry(store: Store, new: Path, known: Path, delta: Path) -> Made:
    """Make a delta, apply it, and see that the new bundle is there."""
    made = make_delta(new, inventory_of(known), delta)
    assert made.sent_bytes == delta.stat().st_size
    added = apply_delta(store, delta)
    assert files(store.folder(added.version)) == files(new)
    assert made.digest == f"sha256:{read_head(delta)[0].digest}"
    return made


def test_one_layer_changed_sends_that_layer(
    store: Store, old: Path, old_model: Path, tmp_path: Path
) -> None:
    model = changed(old_model, tmp_path / "new.gguf", layer=LAYER)
    write_bundle(tmp_path / "new", Parts(model))
    made = carry(store, tmp_path / "new", old, tmp_path / "delta")
    layer = sum(each.bytes for each in read_header(model).tensors if each.name.startswith(LAYER))
    sent = dict(made.changed)
    assert layer <= sent["model.gguf"] < layer + BLOCK_BYTES  # the header's end is no whole block
    # what else is sent is a few kilobytes, which tells next to such a tiny model
    assert made.sent_bytes < 1.0 * layer + 6000


def test_a_damaged_version_is_mended_by_its_delta(
    store: Store, old: Path, old_model: Path, tmp_path: Path
) -> None:
    model = changed(old_model, tmp_path / "new.gguf", layer=LAYER)
    write_bundle(tmp_path / "new", Parts(model))
    carry(store, tmp_path / "new", old, tmp_path / "delta")
    added = apply_delta(store, tmp_path / "delta")
    assert (added.new, added.written_bytes) == (False, 0)
    place = find_model(store.folder(added.version))
    place.write_bytes(place.read_bytes()[:-1] + b"!")
    added = apply_delta(store, tmp_path / "delta")
    assert (added.new, added.written_bytes) == (False, model.stat().st_size)
    assert files(store.folder(added.version)) == files(tmp_path / "new")


def test_a_delta_may_bring_only_a_signature(
    store: Store, old: Path, private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_bundle(old, read_private_key(private, str))
    make_delta(old, inventory_of(store.root), tmp_path / "delta")
    added = apply_delta(store, tmp_path / "delta")
    assert (added.new, added.written_bytes) == (False, 0)
    assert files(store.folder(added.version)) == files(old)
    other = write_pair(tmp_path / "other.pem", ec.SECP256R1())
    sign_bundle(old, read_private_key(other, str))
    make_delta(old, inventory_of(store.root), tmp_path / "delta")
    monkeypatch.setenv("EDGESLM_TRUSTED_KEYS", str(private.with_suffix(".pub")))
    with pytest.raises(Untrusted):
        apply_delta(store, tmp_path / "delta")
    assert find_model(store.root, to_run=True).is_file()


def test_an_inventory_is_of_what_stays(store: Store, old_model: Path, tmp_path: Path) -> None:
    current = store.state.current
    adapter = tiny_adapter(tmp_path / "poet.gguf", old_model)
    write_bundle(tmp_path / "new", Parts(old_model, adapters={"poet": adapter}))
    version = store.add(tmp_path / "new").version
    assert inventory_of(store.root).versions == (current,)
    store.activate(version)
    found = inventory_of(store.root)
    assert set(found.versions) == {current, version}
    fresh = Store(tmp_path / "fresh")
    fresh.add(tmp_path / "new")
    assert inventory_of(fresh.root).versions == (version,)


def test_changed_metadata_sends_kilobytes(
    store: Store, old: Path, old_model: Path, tmp_path: Path
) -> None:
    note = Field("general.description", ValueType.STRING, "a note " * 20)
    model = changed(old_model, tmp_path / "new.gguf", fields=(note,))
    assert read_header(model).data_offset > read_header(old_model).data_offset
    write_bundle(tmp_path / "new", Parts(model))
    made = carry(store, tmp_path / "new", old, tmp_path / "delta")
    assert made.sent_bytes < 6000
    assert dict(made.changed)["model.gguf"] < 4096


def test_an_added_adapter_sends_the_adapter(
    store: Store, old: Path, old_model: Path, tmp_path: Path
) -> None:
    adapter = tiny_adapter(tmp_path / "poet.gguf", old_model)
    write_bundle(tmp_path / "new", Parts(old_model, adapters={"poet": adapter}))
    made = carry(store, tmp_path / "new", old, tmp_path / "delta")
    assert "model.gguf" not in dict(made.changed)
    assert made.sent_bytes < adapter.stat().st_size + 4096
    versions = {version.name for version in store.versions()}
    blobs = {max(store.folder(each).rglob("blobs/*/*"), key=os.path.getsize) for each in versions}
    assert len({path.stat().st_ino for path in blobs}) == 1  # the model is there once


@pytest.mark.parametrize("known", ["inventory", "store", "tar", "nothing in common"])
def test_whatever_says_what_the_device_has(
    store: Store, old: Path, old_model: Path, tmp_path: Path, known: str
) -> None:
    model = changed(old_model, tmp_path / "new.gguf", layer=LAYER)
    write_bundle(tmp_path / "new.tar", Parts(model))
    write_bundle(tmp_path / "new", Parts(model))
    place = {"inventory": tmp_path / "inventory.json", "store": store.root}.get(known, old)
    if known == "inventory":
        place.write_bytes(write_inventory(inventory_of(store.root)))
        assert read_inventory(place) == inventory_of(store.root)
    if known == "tar":
        place = tmp_path / "old.tar"
        write_bundle(place, Parts(old_model))
    if known == "nothing in common":
        write_bundle(tmp_path / "far", Parts(tiny_gguf(tmp_path / "f.gguf", seed=9)))
        place = tmp_path / "far"
        store.add(place)
    made = make_delta(tmp_path / "new.tar", inventory_of(place), tmp_path / "from-tar")
    carry(store, tmp_path / "new", place, tmp_path / "delta")
    assert (tmp_path / "from-tar").read_bytes() == (tmp_path / "delta").read_bytes()
    assert made.path == tmp_path / "from-tar"


@pytest.fixture
def delta(store: Store, old: Path, old_model: Path, tmp_path: Path) -> Path:
    """One layer and the metadata have changed."""
    note = Field("general.description", ValueType.STRING, "a note")
    model = changed(old_model, tmp_path / "new.gguf", layer=LAYER, fields=(note,))
    write_bundle(tmp_path / "new", Parts(model))
    make_delta(tmp_path / "new", inventory_of(old), tmp_path / "delta")
    return tmp_path / "delta"


class Cut(BaseException):
    """The process ends here."""


def test_it_goes_on_where_it_was_interrupted(
    store: Store, delta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_applying, "_PIECE_BYTES", 4096)
    model = max(path.stat().st_size for path in (tmp_path / "new").rglob("*"))
    written = 0

    def watch(operation: Operation) -> None:
        nonlocal written
        written += len(operation.data)
        if operation.kind is Kind.WRITE and operation.offset > 0.8 * model:
            raise Cut

    with durable.observed(watch), pytest.raises(Cut):
        apply_delta(store, delta)
    assert not (store.root / "versions" / read_head(delta)[0].digest[:32]).exists()
    again: list[Operation] = []
    with durable.observed(again.append):
        added = apply_delta(store, delta)
    assert files(store.folder(added.version)) == files(tmp_path / "new")
    assert sum(len(each.data) for each in again) < 0.5 * model


def test_what_was_left_torn_is_written_again(store: Store, delta: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    blob = max(new.rglob("blobs/*/*"), key=lambda path: path.stat().st_size)
    place = store.root / "incoming" / read_head(delta)[0].digest[:32] / "blobs" / "sha256"
    place.mkdir(parents=True)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    (place / f"{blob.name}.part").write_bytes(data)
    added = apply_delta(store, delta)
    assert files(store.folder(added.version)) == files(new)


def test_what_the_device_lacks_is_told(store: Store, delta: Path, tmp_path: Path) -> None:
    empty = Store(tmp_path / "empty")
    with pytest.raises(NotFound, match="made for a device that has"):
        apply_delta(empty, delta)
    assert not empty.versions()


def test_a_source_that_rotted_is_found(store: Store, delta: Path) -> None:
    model = max(store.root.rglob("versions/*/blobs/*/*"), key=lambda path: path.stat().st_size)
    data = model.read_bytes()
    model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InvalidBundle, match=r"blk\.2\.\S+ comes out changed"):
        apply_delta(store, delta)
    model.write_bytes(data)
    assert apply_delta(store, delta).new


def test_changed_bytes_are_refused_and_the_right_delta_works_then(
    store: Store, delta: Path, tmp_path: Path
) -> None:
    data = delta.read_bytes()
    wrong = tmp_path / "wrong"
    refused = 0
    for number in range(120):
        seed = random.Random(number)
        spoilt = bytearray(data)
        place = seed.randrange(len(data)) if number % 2 else seed.randrange(min(600, len(data)))
        if number % 5:
            spoilt[place] ^= 1 << seed.randrange(8)
        else:
            del spoilt[place : place + seed.randrange(1, 2000)]
        wrong.write_bytes(spoilt)
        try:
            version = apply_delta(store, wrong).version
        except UserError:
            assert len(store.versions()) == 1
            refused += 1
        else:  # a bit of a compressed stream that means nothing
            assert files(store.folder(version)) == files(tmp_path / "new")
        store.collect()  # else what is right already would not be looked at again
    assert refused >= 115
    assert apply_delta(store, delta).new


def with_document(delta: Path, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The delta with another document."""
    data = delta.read_bytes()
    start = len(MAGIC) + LENGTH_BYTES
    length = int.from_bytes(data[len(MAGIC) : start], "little")
    document = json.loads(zlib.decompress(data[start : start + length]))
    change(document)
    packed = zlib.compress(canonical(document))
    return MAGIC + len(packed).to_bytes(LENGTH_BYTES, "little") + packed + data[start + length :]


def _file(document: dict[str, Any], index: int = -1) -> dict[str, Any]:
    found: dict[str, Any] = document["files"][index]
    return found


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "schema": lambda d: d.update(schema="edgeslm.delta/2"),
    "more": lambda d: d.update(more=1),
    "digest": lambda d: d.update(digest="sha256:" + "0" * 64),
    "digest up": lambda d: d.update(digest="sha256:../../../../etc"),
    "no files": lambda d: d.update(files=[]),
    "files": lambda d: d.update(files={}),
    "many files": lambda d: d.update(files=d["files"] * 2000),
    "twice": lambda d: d["files"].append(_file(d)),
    "name up": lambda d: _file(d).update(name="../../evil"),
    "name absolute": lambda d: _file(d).update(name="/etc/passwd"),
    "name of another": lambda d: _file(d).update(name="blobs/sha256/" + "0" * 64),
    "name of the state": lambda d: _file(d, 0).update(name="state.json"),
    "hash": lambda d: _file(d).update(sha256="0"),
    "bytes": lambda d: _file(d).update(bytes=_file(d)["bytes"] + 1),
    "negative": lambda d: _file(d).update(bytes=-1),
    "huge": lambda d: _file(d)["steps"].append({"zeros": [1 << 70]}),
    "huge zeros": lambda d: (
        _file(d)["steps"].append({"zeros": [1 << 60]}),
        _file(d).update(bytes=_file(d)["bytes"] + (1 << 60)),
    ),
    "bool": lambda d: _file(d)["steps"].append({"zeros": [True]}),
    "unknown step": lambda d: _file(d)["steps"].append({"run": [0]}),
    "two in a step": lambda d: _file(d)["steps"].append({"zeros": [0], "copy": [0, 0, 0]}),
    "need": lambda d: _file(d)["steps"].append({"copy": [99, 0, 0]}),
    "past the end": lambda d: _file(d)["steps"].append({"copy": [0, 1 << 40, 0]}),
    "needs": lambda d: d.update(needs=[["0" * 64, 5]] * len(d["needs"])),
    "needs up": lambda d: d.update(needs=[["../x", 5]] * len(d["needs"])),
    "piece": lambda d: _file(d)["steps"].append({"data": [1 << 30, 5]}),
    "piece stored": lambda d: _file(d)["steps"].append({"data": [5, 10]}),
    "empty piece": lambda d: _file(d)["steps"].append({"data": [0, 0]}),
    "float": lambda d: _file(d).update(bytes=1.5),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_document_that_lies_is_refused(
    store: Store, delta: Path, tmp_path: Path, lie: str
) -> None:
    before = files(store.root)
    (tmp_path / "lie").write_bytes(with_document(delta, LIES[lie]))
    with pytest.raises(EdgeslmError):
        apply_delta(store, tmp_path / "lie")
    after = files(store.root)
    assert {path: after[path] for path in before} == before
    assert all(path.parts[0] == "incoming" for path in after if path not in before)
    assert not (tmp_path / "evil").exists()
    store.collect()
    assert apply_delta(store, delta).new


def test_a_small_delta_that_unpacks_without_end_is_refused(store: Store, tmp_path: Path) -> None:
    bomb = zlib.compress(b" " * (64 << 20))
    path = tmp_path / "bomb"
    path.write_bytes(MAGIC + len(bomb).to_bytes(LENGTH_BYTES, "little") + bomb)
    with pytest.raises(InvalidBundle, match="too large"):
        apply_delta(store, path)
    path.write_bytes(MAGIC + (1 << 62).to_bytes(LENGTH_BYTES, "little"))
    with pytest.raises(InvalidBundle, match="a document of"):
        apply_delta(store, path)


def test_a_hash_list_that_lies_is_found_where_the_delta_is_made(
    old: Path, old_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeslm.bundle import planning, tensors

    empty = tmp_path / "far"
    write_bundle(empty, Parts(tiny_gguf(tmp_path / "f.gguf", seed=9)))
    real = planning.write_tensors
    document = json.loads(real(tensors.hash_model(read_header(old_model), lambda _: None)[1]))
    document["tensors"][0]["sha256"] = document["tensors"][1]["sha256"]
    monkeypatch.setattr(planning, "write_tensors", lambda _hashes: canonical(document))
    write_bundle(tmp_path / "new", Parts(old_model, card=b"other"))
    with pytest.raises(InvalidBundle, match=r"not what tensors\.json says"):
        make_delta(tmp_path / "new", inventory_of(empty), tmp_path / "delta")


@pytest.mark.parametrize("text", ["{}", '{"schema":"edgeslm.inventory/1"}', "{", '{"a":1'])
def test_an_inventory_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "inventory.json").write_text(text)
    with pytest.raises(UserError, match=r"inventory\.json"):
        inventory_of(tmp_path / "inventory.json")


PEAK = """
import sys
from pathlib import Path
from edgeslm.bundle.delta_applying import apply_delta
from edgeslm.bundle.store import Store
apply_delta(Store(Path(sys.argv[1])), Path(sys.argv[2]))
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"numpy", "llama_cpp", "cryptography", "typer"}, loaded
line = next(each for each in open("/proc/self/status") if each.startswith("VmHWM"))
print(int(line.split()[1]) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_memory_stays_small(store: Store, tmp_path: Path) -> None:
    big = tiny_gguf(tmp_path / "big.gguf", layers=6, width=512, feed_forward=1024)
    assert big.stat().st_size > 40e6
    write_bundle(tmp_path / "new", Parts(big))
    make_delta(tmp_path / "new", inventory_of(store.root), tmp_path / "delta")
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(store.root), str(tmp_path / "delta")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 40e6
