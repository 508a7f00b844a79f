"""Labels against contents."""

from __future__ import annotations

import json

import pytest

from edgeslm.gguf.inspection import inspect
from edgeslm.gguf.reader import read_header
from edgeslm.gguf.types import FILE_TYPES, Field, ValueType, tensor_type
from edgeslm.gguf.writer import TensorSpec, write_gguf
from edgeslm.records import INSPECTION_SCHEMA, document
from edgeslm.testing import tiny_gguf


def _labelled(path, label, tensors):
    number = next((key for key, name in FILE_TYPES.items() if name == label), label)
    fields = [
        Field("general.architecture", ValueType.STRING, "llama"),
        Field("general.file_type", ValueType.UINT32, number),
    ]
    specs = [
        TensorSpec(f"blk.{index}.ffn_up.weight", tensor_type(kind), shape)
        for index, (kind, shape) in enumerate(tensors)
    ]
    write_gguf(path, fields, specs, lambda index: bytes(specs[index].bytes))
    return inspect(read_header(path))


def test_everything_of_a_tiny_model(tmp_path):
    header = read_header(tiny_gguf(tmp_path / "m.gguf", weight_type="F16"))
    found = inspect(header)
    assert (found.architecture, found.name, found.license) == ("llama", "Tiny llama", "apache-2.0")
    assert found.parameters == sum(tensor.elements for tensor in header.tensors)
    assert found.bits_per_weight == pytest.approx(16.1, abs=0.1)
    assert (found.context_length, found.embedding_length, found.block_count) == (256, 32, 2)
    assert (found.head_count, found.head_count_kv) == (2, 1)
    assert (found.vocabulary_size, found.tokenizer, found.chat_template) == (270, "gpt2", True)
    assert (found.file_type, found.true_type, found.label_matches) == ("F16", "F16", True)
    assert found.label_note is None
    assert [share.type for share in found.types] == ["F16", "F32"]
    assert sum(share.share for share in found.types) == pytest.approx(1)
    assert sum(share.tensors for share in found.types) == len(found.tensors)


def test_json(tmp_path):
    found = inspect(read_header(tiny_gguf(tmp_path / "m.gguf")))
    shown = json.loads(json.dumps(document(INSPECTION_SCHEMA, found)))
    assert shown["schema"] == INSPECTION_SCHEMA
    assert shown["tensors"][0] == {
        "name": "token_embd.weight",
        "type": "F32",
        "shape": [32, 270],
        "bytes": 34560,
    }


def test_fallback_is_explained(tmp_path):
    found = _labelled(tmp_path / "m", "Q2_K", [("Q4_0", (576, 100)), ("Q2_K", (1536, 10))])
    assert found.label_matches is False
    assert found.true_type == "Q4_0"
    assert found.label_note == (
        "labelled Q2_K, but 21% of the weights are: 79% Q4_0, 21% Q2_K; 4.11 bits per weight. "
        "79% of the weights have rows that are no multiple of 256, which Q2_K needs, so wider "
        "types replace it there"
    )


def test_a_wrong_label_is_not_excused(tmp_path):
    found = _labelled(tmp_path / "m", "Q4_K_M", [("Q8_0", (512, 100))])
    assert found.label_matches is False
    assert found.label_note == (
        "labelled Q4_K_M, but 0% of the weights are: 100% Q8_0; 8.50 bits per weight"
    )


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("Q4_K_M", "Q4_K"),
        ("IQ3_M", "IQ3_S"),
        ("IQ4_XS", "IQ4_XS"),
        ("MXFP4_MOE", "MXFP4"),
        ("Q2_K", "Q3_K"),
        ("BF16", "BF16"),
    ],
)
def test_honest_labels(tmp_path, label, kind):
    found = _labelled(tmp_path / "m", label, [(kind, (512, 3)), ("Q6_K", (512, 1))])
    assert (found.file_type, found.label_matches, found.label_note) == (label, True, None)


def test_guessed_and_unknown_labels(tmp_path):
    assert _labelled(tmp_path / "a", 1024 + 2, [("Q4_0", (32, 1))]).file_type == "Q4_0"
    found = _labelled(tmp_path / "b", 999, [("Q4_0", (32, 1))])
    assert (found.file_type, found.label_matches) == (None, None)


def test_what_is_not_there_is_none(tmp_path):
    write_gguf(tmp_path / "m", [], [], lambda _: b"")
    found = inspect(read_header(tmp_path / "m"))
    assert found.parameters == 0
    assert (found.architecture, found.bits_per_weight, found.true_type) == (None, None, None)
    assert (found.context_length, found.head_count, found.vocabulary_size) == (None, None, None)
    assert found.chat_template is False


def test_every_label_names_a_type(tmp_path):
    for label in FILE_TYPES.values():
        assert _labelled(tmp_path / "m", label, [("F64", (1, 1))]).label_matches is False
