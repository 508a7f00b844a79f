"""Importance matrices: the same after writing and reading, and nothing wrong is believed."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeslm.errors import InvalidGGUF, NotFound, Unsupported, UserError
from edgeslm.gguf.imatrix import Importance, ImportanceMatrix, read_imatrix, write_imatrix
from edgeslm.gguf.types import Field, ValueType, tensor_type
from edgeslm.gguf.writer import TensorSpec, write_gguf
from edgeslm.testing import tiny_gguf

QUERY, EXPERTS = "blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"
MATRIX = ImportanceMatrix(
    {
        QUERY: Importance(np.array([[8.0, 2.0, 0.5]], np.float32), np.array([4])),
        EXPERTS: Importance(np.array([[3.0, 9.0], [0.0, 0.0]], np.float32), np.array([3, 0])),
    },
    sources=("prose.txt",),
    chunk_count=2,
    chunk_tokens=2,
)


def assert_equal(one: ImportanceMatrix, other: ImportanceMatrix) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    for name, entry in one.tensors.items():
        np.testing.assert_array_equal(entry.sums, other.tensors[name].sums, strict=True)
        np.testing.assert_array_equal(entry.counts, other.tensors[name].counts)
    assert (one.sources, one.chunk_count, one.chunk_tokens) == (
        other.sources,
        other.chunk_count,
        other.chunk_tokens,
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "i.gguf", MATRIX)
    assert_equal(read_imatrix(tmp_path / "i.gguf"), MATRIX)


def test_means_are_per_expert_and_one_where_nothing_was_seen() -> None:
    np.testing.assert_array_equal(MATRIX.tensors[QUERY].mean_squares, [[2.0, 0.5, 0.125]])
    np.testing.assert_array_equal(MATRIX.tensors[EXPERTS].mean_squares, [[1, 3], [1, 1]])


SUMS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=5),
    elements=st.floats(0, 2.0**100, width=32),
)
ENTRIES = SUMS.flatmap(
    lambda sums: st.builds(
        Importance,
        st.just(sums),
        hnp.arrays(np.int64, sums.shape[0], elements=st.integers(0, 2**24)),
    )
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(st.from_regex(r"[a-z][a-z0-9_.]{0,40}", fullmatch=True), ENTRIES, min_size=1),
    st.lists(st.text(max_size=20), max_size=3).map(tuple),
    st.integers(0, 2**32 - 1),
)
def test_any_matrix_survives(tmp_path, tensors, sources, chunks) -> None:
    matrix = ImportanceMatrix(tensors, sources, chunks, 512)
    write_imatrix(tmp_path / "i.gguf", matrix)
    assert_equal(read_imatrix(tmp_path / "i.gguf"), matrix)


def legacy(entries, *, chunks=7, source=b"prose.txt") -> bytes:
    data = struct.pack("<i", len(entries))
    for name, calls, values in entries:
        data += struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, len(values))
        data += np.array(values, "<f4").tobytes()
    return data + struct.pack("<ii", chunks, len(source)) + source


GOOD = [(b"blk.0.attn_q.weight", 4, [8.0, 2.0]), (b"blk.0.attn_k.weight", 0, [3.0, 5.0])]


def test_the_older_format_is_read(tmp_path: Path) -> None:
    path = tmp_path / "i.dat"
    path.write_bytes(legacy(GOOD))
    matrix = read_imatrix(path)
    np.testing.assert_array_equal(matrix.tensors[QUERY].mean_squares, [[2.0, 0.5]])
    # llama-quantize takes the sums as they are where no calls were counted
    np.testing.assert_array_equal(matrix.tensors["blk.0.attn_k.weight"].mean_squares, [[3.0, 5.0]])
    assert (matrix.sources, matrix.chunk_count, matrix.chunk_tokens) == (("prose.txt",), 7, 0)


@pytest.mark.parametrize("length", range(0, len(legacy(GOOD)), 3))
def test_a_cut_file_is_refused_or_lacks_only_its_end(tmp_path: Path, length: int) -> None:
    path = tmp_path / "i.dat"
    path.write_bytes(legacy(GOOD)[:length])
    numbers_end = len(legacy(GOOD)) - len("prose.txt") - 8
    if length == numbers_end:
        assert read_imatrix(path).sources == ()
    else:
        with pytest.raises(InvalidGGUF, match="importance matrix"):
            read_imatrix(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "i.dat"
    path.write_bytes(data)
    try:
        read_imatrix(path)
    except UserError as error:
        assert error.hint


def write_raw(path: Path, tensors, *, kind="imatrix", fields=()) -> Path:
    specs = [
        TensorSpec(name, tensor_type("F32" if values.dtype == np.float32 else "F16"), shape)
        for name, shape, values in tensors
    ]
    standard = [
        Field("general.type", ValueType.STRING, kind),
        Field("imatrix.datasets", ValueType.ARRAY, (), ValueType.STRING),
        Field("imatrix.chunk_count", ValueType.UINT32, 1),
        Field("imatrix.chunk_size", ValueType.UINT32, 1),
    ]
    write_gguf(path, fields or standard, specs, lambda index: tensors[index][2])
    return path


def numbers(*values, kind=np.float32):
    return np.array(values, kind)


SUM, COUNT = "a.in_sum2", "a.counts"


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([], "without any"),
        ([(SUM, (2,), numbers(1, 2))], "no counts"),
        ([(COUNT, (1,), numbers(1))], "without any"),
        ([(SUM, (2,), numbers(1, -2)), (COUNT, (1,), numbers(1))], "no sum of squares"),
        ([(SUM, (2,), numbers(1, np.nan)), (COUNT, (1,), numbers(1))], "no sum of squares"),
        ([(SUM, (2,), numbers(1, 2)), (COUNT, (1,), numbers(-1))], "no counts"),
        ([(SUM, (2,), numbers(1, 2)), (COUNT, (1,), numbers(np.inf))], "no counts"),
        ([(SUM, (3,), numbers(1, 2, 3)), (COUNT, (1, 2), numbers(1, 2))], "shared"),
        ([(SUM, (2,), numbers(1, 2, kind=np.float16)), (COUNT, (1,), numbers(1))], "F16"),
    ],
)
def test_what_is_no_importance_is_refused(tmp_path: Path, tensors, words: str) -> None:
    with pytest.raises(InvalidGGUF, match=words):
        read_imatrix(write_raw(tmp_path / "i.gguf", tensors))


def test_metadata_that_is_missing_or_no_count(tmp_path: Path) -> None:
    tensors = [(SUM, (2,), numbers(1, 2)), (COUNT, (1,), numbers(1))]
    fields = [Field("general.type", ValueType.STRING, "imatrix")]
    with pytest.raises(InvalidGGUF, match="chunk_count is None"):
        read_imatrix(write_raw(tmp_path / "i.gguf", tensors, fields=fields))


def test_other_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="llama model"):
        read_imatrix(tiny_gguf(tmp_path / "model.gguf"))
    with pytest.raises(Unsupported, match="adapter"):
        read_imatrix(write_raw(tmp_path / "a.gguf", [], kind="adapter"))
    (tmp_path / "text.txt").write_text("Dear reader, this is a letter.\n" * 10)
    with pytest.raises(InvalidGGUF, match="not an importance matrix"):
        read_imatrix(tmp_path / "text.txt")
    with pytest.raises(NotFound):
        read_imatrix(tmp_path / "none")
