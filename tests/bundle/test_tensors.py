"""Hashes of a model's parts are those of its bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from made_bundles import layers_of

from edgeslm.bundle.tensors import hash_model, read_tensors, write_tensors
from edgeslm.errors import InvalidBundle
from edgeslm.gguf.reader import read_header
from edgeslm.gguf.validation import read_model
from edgeslm.testing import tiny_gguf


def test_each_part_has_its_hash(model: Path) -> None:
    data, header = model.read_bytes(), read_header(model)
    counted: list[int] = []
    whole, hashes = hash_model(header, counted.append)
    assert whole == hashlib.sha256(data).hexdigest()
    assert sum(counted) == len(data)
    assert hashes.header_sha256 == hashlib.sha256(data[: hashes.header_bytes]).hexdigest()
    assert {each.name for each in hashes.tensors} == {each.name for each in header.tensors}
    rebuilt = bytearray(len(data))
    rebuilt[: hashes.header_bytes] = data[: hashes.header_bytes]
    for each in hashes.tensors:
        part = data[each.offset : each.offset + each.bytes]
        assert each.sha256 == hashlib.sha256(part).hexdigest()
        rebuilt[each.offset : each.offset + each.bytes] = part
    assert bytes(rebuilt) == data  # what lies between is zeros


def test_one_other_tensor_is_one_other_hash(tmp_path: Path, model: Path) -> None:
    other = tmp_path / "other.gguf"
    header = read_header(model)
    data = bytearray(model.read_bytes())
    data[header.tensors[3].offset] ^= 1
    other.write_bytes(data)
    ours, theirs = (hash_model(read_header(path), lambda _: None)[1] for path in (model, other))
    changed = {a.name for a, b in zip(ours.tensors, theirs.tensors, strict=True) if a != b}
    assert changed == {header.tensors[3].name}
    assert ours.header_sha256 == theirs.header_sha256


def test_they_lie_in_the_bundle(packed: Path, model: Path) -> None:
    data = layers_of(packed)["tensors.json"].read_bytes()
    assert json.loads(data)["schema"] == "edgeslm.tensors/1"
    found = read_tensors(data, "tensors.json")
    assert found == hash_model(read_model(model), lambda _: None)[1]
    assert write_tensors(found) == data


@pytest.mark.parametrize(
    "text", ['{"schema":"edgeslm.tensors/2"}', "[]", '{"schema":"edgeslm.tensors/1","tensors":[1]}']
)
def test_malformed_lists_are_refused(text: str) -> None:
    with pytest.raises(InvalidBundle):
        read_tensors(text.encode(), "tensors.json")


def test_a_model_without_padding_at_the_end(tmp_path: Path) -> None:
    model = tiny_gguf(tmp_path / "f16.gguf", weight_type="F16")
    whole, _ = hash_model(read_header(model), lambda _: None)
    assert whole == hashlib.sha256(model.read_bytes()).hexdigest()
