"""The reader believes nothing: each lie in a file is named, with its place."""

from __future__ import annotations

import math
import os
import random
import struct
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeslm.errors import EdgeslmError, InvalidGGUF, NotFound, Unsupported, UserError
from edgeslm.gguf.reader import read_header
from edgeslm.gguf.types import TENSOR_TYPES, Field, ValueType, padded
from edgeslm.gguf.validation import read_model
from edgeslm.gguf.writer import TensorSpec, write_gguf
from edgeslm.testing import tiny_gguf

# Round trips

_NUMBERS = {
    ValueType.UINT8: st.integers(0, 2**8 - 1),
    ValueType.INT8: st.integers(-(2**7), 2**7 - 1),
    ValueType.UINT16: st.integers(0, 2**16 - 1),
    ValueType.INT16: st.integers(-(2**15), 2**15 - 1),
    ValueType.UINT32: st.integers(0, 2**32 - 1),
    ValueType.INT32: st.integers(-(2**31), 2**31 - 1),
    ValueType.FLOAT32: st.floats(width=32, allow_nan=False),
    ValueType.BOOL: st.booleans(),
    ValueType.STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    ValueType.UINT64: st.integers(0, 2**64 - 1),
    ValueType.INT64: st.integers(-(2**63), 2**63 - 1),
    ValueType.FLOAT64: st.floats(allow_nan=False),
}
_KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@st.composite
def _fields(draw):
    keys = draw(st.lists(_KEYS, unique=True, max_size=6))
    fields = []
    for key in keys:
        kind = draw(st.sampled_from(list(_NUMBERS)))
        if draw(st.booleans()):
            fields.append(Field(key, kind, draw(_NUMBERS[kind])))
        else:
            items = tuple(draw(st.lists(_NUMBERS[kind], max_size=5)))
            fields.append(Field(key, ValueType.ARRAY, items, kind))
    reserved = ("general.alignment", "split.count")
    return [field for field in fields if field.key not in reserved]


@st.composite
def _tensors(draw):
    names = draw(st.lists(st.text("abc.0é", min_size=1, max_size=20), unique=True, max_size=4))
    tensors = []
    for name in names:
        kind = draw(st.sampled_from(list(TENSOR_TYPES.values())))
        rest = draw(st.lists(st.integers(1, 3), max_size=3))
        first = kind.block_elements * draw(st.integers(1, 3))
        tensors.append(TensorSpec(name, kind, (first, *rest)))
    return tensors


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(fields=_fields(), tensors=_tensors())
def test_what_is_written_is_read(tmp_path, fields, tensors):
    path = tmp_path / "m.gguf"
    write_gguf(path, fields, tensors, lambda index: bytes([index]) * tensors[index].bytes)
    header = read_header(path)
    assert list(header.fields()) == fields
    assert [(t.name, t.type, t.shape) for t in header.tensors] == [
        (t.name, t.type, t.shape) for t in tensors
    ]
    data = path.read_bytes()
    for index, tensor in enumerate(header.tensors):
        assert tensor.offset % 32 == 0
        assert tensor.elements == math.prod(tensor.shape)
        assert data[tensor.offset : tensor.offset + tensor.bytes] == bytes([index]) * tensor.bytes


def test_shorthands(tmp_path):
    header = read_header(tiny_gguf(tmp_path / "m.gguf"))
    assert header.architecture == "llama"
    assert header.hyper("block_count") == 2
    assert header.hyper("nothing", 7) == 7
    assert header.get("general.name") == "Tiny llama"
    assert header.file_bytes == header.path.stat().st_size


# Damage


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_gguf(tmp_path_factory.mktemp("tiny") / "m.gguf").read_bytes()


def _survives(path, data):
    """Whether the reader accepts it; any error but ours fails the test."""
    path.write_bytes(data)
    try:
        read_model(path)
    except EdgeslmError as error:
        assert "\n" not in error.message
        return False
    return True


def test_random_damage_never_raises_anything_else(tmp_path, tiny):
    chance = random.Random(7)
    header_bytes = 8000
    accepted = 0
    for _ in range(3000):
        data = bytearray(tiny)
        for _ in range(chance.choice([1, 1, 2, 5])):
            data[chance.randrange(header_bytes)] = chance.choice([0, 1, 255, chance.randrange(256)])
        accepted += _survives(tmp_path / "m.gguf", data)
    assert 0 < accepted < 2900


def test_every_truncation_is_refused(tmp_path, tiny):
    path = tmp_path / "m.gguf"
    lengths = [*range(400), *range(400, len(tiny), 499), len(tiny) - 32]
    assert not any(_survives(path, tiny[:length]) for length in lengths)
    assert _survives(path, tiny)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rest=st.binary(max_size=200), version=st.sampled_from([2, 3]))
def test_random_bytes_after_the_magic(tmp_path, rest, version):
    assert not _survives(tmp_path / "m.gguf", b"GGUF" + struct.pack("<I", version) + rest)


# One lie at a time


def _string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def _entry(key, kind, value):
    return _string(key) + struct.pack("<I", kind) + value


def _tensor(name="t", shape=(4,), kind=0, offset=0):
    return (
        _string(name)
        + struct.pack(f"<I{len(shape)}q", len(shape), *shape)
        + struct.pack("<IQ", kind, offset)
    )


def _file(entries=(), tensors=(), *, version=3, counts=None, data=bytes(64)):
    counts = counts or (len(tensors), len(entries))
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join((*entries, *tensors))
    return head.ljust(padded(len(head), 32), b"\0") + data


U32 = struct.pack("<I", 7)

_LIES = {
    "version 0": (_file(version=0), "version 0 of GGUF"),
    "version 4": (_file(version=4), "version 4 of GGUF"),
    "tensor count": (_file(counts=(2**60, 0)), r"announces 1152921504606846976 tensors, but only"),
    "field count": (_file(counts=(0, 2**63)), r"announces \d+ metadata entries, but only"),
    "key length": (_file([_string("")[:7] + b"\x7f" + bytes(9)]), "metadata key 0 is .* long"),
    "empty key": (_file([_entry("", 4, U32)]), "metadata key 0 is empty"),
    "zero in key": (_file([_entry("a\0b", 4, U32)]), "holds a zero byte"),
    "key twice": (_file([_entry("k", 4, U32)] * 2), "metadata key k occurs twice"),
    "key not text": (_file([_entry(b"\xff", 4, U32)]), "metadata key 0 is not valid UTF-8"),
    "unknown type": (_file([_entry("k", 13, U32)]), "metadata k has the unknown type 13"),
    "item type": (
        _file([_entry("k", 9, struct.pack("<IQ", 99, 1))]),
        "the items of metadata k has the unknown type 99",
    ),
    "nested": (_file([_entry("k", 9, struct.pack("<IQ", 9, 1))]), "metadata k is an array of arr"),
    "bool": (_file([_entry("k", 7, b"\2")]), "metadata k holds a boolean that is neither"),
    "text length": (
        _file([_entry("k", 8, struct.pack("<Q", 10**8))]),
        "announces 100000000 bytes for metadata k, but only",
    ),
    "text": (_file([_entry("k", 8, _string(b"\xc3\x28"))]), "metadata k is not valid UTF-8"),
    "array length": (
        _file([_entry("k", 9, struct.pack("<IQ", 12, 2**61))]),
        r"announces \d+ values in metadata k, but only",
    ),
    "texts length": (
        _file([_entry("k", 9, struct.pack("<IQ", 8, 2**62))]),
        r"announces \d+ strings in metadata k, but only",
    ),
    "text in array": (
        _file([_entry("k", 9, struct.pack("<IQQ", 8, 1, 10**6))]),
        "item 0 of metadata k reaches beyond the end",
    ),
    "bad text in array": (
        _file([_entry("k", 9, struct.pack("<IQ", 8, 1) + _string(b"\xff"))]),
        "item 0 of metadata k is not valid UTF-8",
    ),
    "alignment type": (
        _file([_entry("general.alignment", 5, U32)]),
        "general.alignment is INT32, not UINT32",
    ),
    "alignment": (_file([_entry("general.alignment", 4, U32)]), "is 7, not a power of two"),
    "tensor name": (_file(tensors=[_tensor("x" * 64)]), "name of tensor 0 is 64 bytes long"),
    "empty name": (_file(tensors=[_tensor("")]), "the name of tensor 0 is empty"),
    "name twice": (
        _file(tensors=[_tensor("t"), _tensor("t", offset=32)]),
        "tensor name t occurs twice",
    ),
    "dimensions": (_file(tensors=[_tensor(shape=(1,) * 5)]), "tensor t has 5 dimensions"),
    "no dimension": (_file(tensors=[_tensor(shape=())]), "tensor t has 0 dimensions"),
    "zero wide": (_file(tensors=[_tensor(shape=(4, 0))]), "the impossible shape 4 x 0"),
    "negative": (_file(tensors=[_tensor(shape=(-1,))]), "the impossible shape"),
    "overflow": (_file(tensors=[_tensor(shape=(2**32, 2**32))]), "the impossible shape"),
    "tensor type": (_file(tensors=[_tensor(kind=43)]), "tensor t has the unknown type 43"),
    "removed type": (_file(tensors=[_tensor(kind=31)]), "tensor t is Q4_0_4_4, a type that"),
    "rows": (_file(tensors=[_tensor(shape=(33,), kind=8)]), "33 elements, no multiple of Q8_0's"),
    "offset": (_file(tensors=[_tensor(offset=32)]), "tensor t starts at offset 32 of the data"),
    "overlap": (
        _file(tensors=[_tensor(shape=(16,)), _tensor("u", offset=32)]),
        r"tensor u starts at offset 32 of the data, not right after the one before it \(64\)",
    ),
    "data": (_file(tensors=[_tensor(shape=(17,))]), r"incomplete: tensor t ends at byte \d+"),
    "split": (
        _file([_entry("split.count", 2, struct.pack("<H", 3))]),
        "one part of a model that is split into 3 files",
    ),
}


@pytest.mark.parametrize("name", _LIES)
def test_a_lie_is_named(tmp_path, name):
    data, message = _LIES[name]
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read_header(path)
    assert type(caught.value) in (InvalidGGUF, Unsupported)
    assert caught.value.message.startswith(str(path))
    assert caught.value.hint


def test_the_plain_file_under_the_lies_is_read(tmp_path):
    (tmp_path / "m.gguf").write_bytes(
        _file(
            [_entry("k", 4, U32)],
            [_tensor(shape=(16,)), _tensor("u", (4,), offset=64)],
            data=bytes(80),
        )
    )
    header = read_header(tmp_path / "m.gguf")
    assert header.metadata == {"k": 7}
    assert [tensor.offset - header.data_offset for tensor in header.tensors] == [0, 64]


@pytest.mark.parametrize("name", ["tensor count", "field count", "array length", "texts length"])
def test_an_absurd_count_allocates_nothing(tmp_path, name):
    (tmp_path / "m.gguf").write_bytes(_LIES[name][0])
    tracemalloc.start()
    with pytest.raises(InvalidGGUF):
        read_header(tmp_path / "m.gguf")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1_000_000


# Files of other kinds


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"GG", "starts with b'GG'"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"PK\3\4" + bytes(60), "a zip archive or PyTorch checkpoint"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b'{"error": "not found"}', "JSON"),
        (struct.pack("<Q", 80) + b'{"__metadata__":{}}' + bytes(99), "a safetensors file"),
        (b"tjgg" + bytes(60), "GGJT"),
        (bytes(100), "zeros"),
        (b"hello world", "starts with b'hell'"),
    ],
)
def test_other_formats_are_recognised(tmp_path, data, message):
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(InvalidGGUF, match=message) as caught:
        read_header(tmp_path / "m.gguf")
    assert caught.value.hint


def test_big_endian_and_version_1(tmp_path):
    (tmp_path / "be").write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
    with pytest.raises(Unsupported, match="big-endian"):
        read_header(tmp_path / "be")
    (tmp_path / "v1").write_bytes(b"GGUF" + struct.pack("<III", 1, 0, 0))
    with pytest.raises(Unsupported, match="version 1"):
        read_header(tmp_path / "v1")


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(NotFound, match="no such file"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(UserError, match="is a directory"):
        read_header(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a regular file"):
        read_header(tmp_path / "pipe")


def test_names_from_a_file_cannot_disturb_the_terminal(tmp_path):
    name = "a\x1b[31m\nb"
    (tmp_path / "m.gguf").write_bytes(_file([_entry(name, 4, U32)] * 2))
    with pytest.raises(InvalidGGUF, match="key a\ufffd\\[31m\ufffdb occurs twice"):
        read_header(tmp_path / "m.gguf")
    (tmp_path / "m.gguf").write_bytes(_file([_entry("k" * 5000, 4, U32)] * 2))
    with pytest.raises(InvalidGGUF) as caught:
        read_header(tmp_path / "m.gguf")
    assert len(caught.value.message) < 600


def test_a_name_too_long_for_the_disk(tmp_path):
    with pytest.raises(EdgeslmError, match="too long"):
        read_header(tmp_path / ("x" * 300))
