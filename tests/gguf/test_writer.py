"""Files are complete and readable by others, or not there at all."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgeslm.errors import OutputFailure, Unsupported
from edgeslm.gguf.reader import read_header
from edgeslm.gguf.types import Field, ValueType, tensor_type
from edgeslm.gguf.writer import TensorSpec, write_gguf

ARCHITECTURE = Field("general.architecture", ValueType.STRING, "llama")


def test_upstreams_reader_reads_what_was_written(tmp_path):
    fields = [
        ARCHITECTURE,
        Field("a.texts", ValueType.ARRAY, ["x", "größer"], ValueType.STRING),
        Field("a.numbers", ValueType.ARRAY, [1, -2], ValueType.INT64),
        Field("a.flag", ValueType.BOOL, True),
        Field("a.real", ValueType.FLOAT64, 0.1),
    ]
    tensors = [
        TensorSpec("first", tensor_type("F16"), (5, 3)),
        TensorSpec("second", tensor_type("Q8_0"), (32, 2)),
    ]
    data = [np.arange(15, dtype=np.float16).reshape(3, 5), bytes(range(68))]
    path = tmp_path / "model.gguf"
    advanced: list[int] = []
    write_gguf(path, fields, tensors, data.__getitem__, advance=advanced.append)

    other = gguf.GGUFReader(path)
    for field in fields:
        assert other.fields[field.key].contents() == field.value
    assert [tensor.name for tensor in other.tensors] == ["first", "second"]
    np.testing.assert_array_equal(other.tensors[0].data, data[0])
    assert other.tensors[1].data.tobytes() == data[1]
    assert advanced == [30, 68]
    assert path.stat().st_size % 32 == 0


def test_a_type_that_upstreams_package_does_not_know(tmp_path):
    spec = TensorSpec("t", tensor_type("Q2_0"), (64, 2))
    write_gguf(tmp_path / "m.gguf", [ARCHITECTURE], [spec], lambda _: bytes(36))
    (info,) = read_header(tmp_path / "m.gguf").tensors
    assert (info.type.name, info.bytes) == ("Q2_0", 36)


def _one(path, read):
    write_gguf(path, [ARCHITECTURE], [TensorSpec("t", tensor_type("F32"), (4,))], read)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")

    def interrupted(_):
        raise error

    with pytest.raises(error):
        _one(path, interrupted)
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["m.gguf"]


def test_wrong_amount_of_data(tmp_path):
    with pytest.raises(ValueError, match="t: 15 bytes given, 16 expected"):
        _one(tmp_path / "m.gguf", lambda _: bytes(15))
    assert not list(tmp_path.iterdir())


def test_data_in_pieces(tmp_path):
    advanced: list[int] = []
    tensors = [TensorSpec("t", tensor_type("F32"), (4,)), TensorSpec("u", tensor_type("F32"), (2,))]
    write_gguf(
        tmp_path / "m.gguf",
        [ARCHITECTURE],
        tensors,
        lambda index: iter([b"a" * 8, b"b" * 8]) if index == 0 else b"c" * 8,
        advance=advanced.append,
    )
    first, second = gguf.GGUFReader(tmp_path / "m.gguf").tensors
    assert first.data.tobytes() == b"a" * 8 + b"b" * 8
    assert second.data.tobytes() == b"c" * 8
    assert advanced == [8, 8, 8]


def test_wrong_amount_of_data_in_pieces(tmp_path):
    with pytest.raises(ValueError, match="t: 12 bytes given, 16 expected"):
        _one(tmp_path / "m.gguf", lambda _: iter([bytes(8), bytes(4)]))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputFailure, match="there is no folder"):
        _one(tmp_path / "no" / "m.gguf", lambda _: bytes(16))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (Field("k", ValueType.UINT8, 256), "k: the value does not fit its type"),
        (Field("k", ValueType.ARRAY, [1]), "k: an array needs a plain item type"),
        (Field("general.alignment", ValueType.UINT32, 64), "only 32 can be written"),
        (ARCHITECTURE, "metadata key general.architecture is given twice"),
    ],
)
def test_fields_that_cannot_be_written(tmp_path, field, message):
    with pytest.raises(Unsupported, match=message):
        write_gguf(tmp_path / "m.gguf", [ARCHITECTURE, field], [], lambda _: b"")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("x" * 64, (4,), "longer than the 63 bytes"),
        ("t", (), "cannot hold the shape"),
        ("t", (4, 0), "cannot hold the shape"),
        ("t", (1, 1, 1, 1, 1), "cannot hold the shape"),
    ],
)
def test_tensors_that_cannot_be_written(tmp_path, name, shape, message):
    spec = TensorSpec(name, tensor_type("F32"), shape)
    with pytest.raises(Unsupported, match=message):
        write_gguf(tmp_path / "m.gguf", [ARCHITECTURE], [spec], lambda _: b"")


def test_a_disk_that_is_full_when_the_file_is_closed(tmp_path, monkeypatch):
    """Little is written at once: the buffer goes to the disk at the end."""

    class Full(io.BytesIO):
        def close(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda *_: Full())
    with pytest.raises(OutputFailure, match="No space left"):
        write_gguf(tmp_path / "out.gguf", [ARCHITECTURE], [], [].__getitem__)
    assert list(tmp_path.iterdir()) == []
