"""Encode every tensor in its chosen type and write the file.

An encoded tensor is kept until the file is complete, so that a run that was killed goes on with
the next tensor. Which one comes first makes no difference to any byte.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeslm import progress
from edgeslm.errors import reading, writing
from edgeslm.files import atomic_path
from edgeslm.gguf.reader import TensorInfo
from edgeslm.gguf.types import TensorType
from edgeslm.gguf.writer import TensorSpec, write_gguf
from edgeslm.llama.rows import encode_rows
from edgeslm.packager.quantize.encoders import Forms, encode_as, room_for, way
from edgeslm.packager.quantize.judge import Judge
from edgeslm.packager.quantize.label import label_of, labelled
from edgeslm.packager.quantize.threads import FORMS_BYTES, Room, one_blas_thread
from edgeslm.packager.quantize.weights import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 2
"""Raised when the same forms give other bytes than before."""
_SWEEPS = 3
_PIECE_ROWS = 4096
"""A matrix whose rows do not interact is encoded in pieces of so many, several at a time."""


def write_mix(
    judge: Judge,
    types: Mapping[str, TensorType],
    output: Path,
    threads: int,
    *,
    keep_encoded: bool = False,
) -> None:
    """Write the model of `judge` with the types given; all other tensors stay as they are.

    Args:
        judge: The model, and how errors count.
        types: Of the tensors that change.
        output: Where the file appears once it is complete.
        threads: To compute with.
        keep_encoded: Leave encoded tensors for the next mix, until `forget_encoded`.

    Raises:
        InvalidGGUF: a tensor holds infinities or what is not a number.
        OutputFailure: the output cannot be written.
    """
    assert judge.folder is not None  # noqa: S101  only a judge without calibration has none
    _write(judge, types, output, threads, _encoded_folder(judge.folder))
    if not keep_encoded:
        forget_encoded(judge)


def forget_encoded(judge: Judge) -> None:
    """Remove the tensors that are kept for other mixes of the same model."""
    if judge.folder is not None:
        shutil.rmtree(_encoded_folder(judge.folder), ignore_errors=True)


def _encoded_folder(folder: Path) -> Path:
    return folder / f"encoded-{VERSION}-{way()}"


def _write(
    judge: Judge, types: Mapping[str, TensorType], output: Path, threads: int, folder: Path
) -> None:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    header = judge.weights.header
    elements = sum(tensor.elements for tensor in header.tensors if tensor.name in types)
    with progress.bar("encoding", elements) as advance:
        encode_all(judge, types, threads, folder, advance)
    specs = [
        TensorSpec(tensor.name, types.get(tensor.name, tensor.type), tensor.shape)
        for tensor in header.tensors
    ]

    def read(index: int) -> NDArray[np.uint8]:
        tensor = header.tensors[index]
        if tensor.name not in types:
            return _kept(judge.weights, tensor)
        path = _file(folder, tensor, types[tensor.name])
        with reading(path):
            return np.fromfile(path, np.uint8)

    write_gguf(output, labelled(header, label_of(header, types)), specs, read)


def encode_all(
    judge: Judge,
    types: Mapping[str, TensorType],
    threads: int,
    folder: Path,
    advance: Callable[[int], None],
) -> None:
    """Put each tensor's blocks into a file of `folder`, unless it is there already."""
    todo = []
    for tensor in judge.weights.header.tensors:
        kind = types.get(tensor.name)
        if kind is None:
            continue
        path = _file(folder, tensor, kind)
        if path.exists() and path.stat().st_size == kind.bytes_for(tensor.shape):
            advance(tensor.elements)
        else:
            todo.append((tensor, kind, path))
    room = Room(FORMS_BYTES)
    with ThreadPoolExecutor(threads) as pool, one_blas_thread():

        def job(task: tuple[TensorInfo, TensorType, Path]) -> None:
            tensor, kind, path = task
            if _unchanged(judge.weights, tensor, kind):
                data = _kept(judge.weights, tensor)
            else:
                with room.taken(room_for(tensor.shape)):
                    forms, values = judge.forms_of(tensor.name), judge.weights.read(tensor)
                    data = encode_as(kind, values, forms, sweeps=_SWEEPS).data
            _store(path, data)
            advance(tensor.elements)

        tall = [task for task in todo if _separable(judge, task[0])]
        for tensor, kind, path in tall:
            forms = judge.forms_of(tensor.name)
            pieces = _pieces(judge.weights, tensor, kind, forms, pool)
            _store(path, pieces)
            advance(tensor.elements)
        list(pool.map(job, [task for task in todo if task not in tall]))


def _separable(judge: Judge, tensor: TensorInfo) -> bool:
    """Whether a tensor has many rows that do not interact."""
    rows = tensor.elements // tensor.shape[0]
    return rows >= 2 * _PIECE_ROWS and tensor.name not in judge.coupled


def _pieces(
    weights: Weights, tensor: TensorInfo, kind: TensorType, forms: Forms, pool: ThreadPoolExecutor
) -> NDArray[np.uint8]:
    rows = tensor.elements // tensor.shape[0]

    def encode(first: int) -> NDArray[np.uint8]:
        picked = np.arange(first, min(first + _PIECE_ROWS, rows))
        return encode_as(kind, weights.read(tensor, picked), forms, sweeps=_SWEEPS).data

    return np.concatenate(list(pool.map(encode, range(0, rows, _PIECE_ROWS))))


def _file(folder: Path, tensor: TensorInfo, kind: TensorType) -> Path:
    return folder / f"{tensor.name}.{kind.name}"


def _store(path: Path, data: NDArray[np.uint8]) -> None:
    with atomic_path(path) as temporary, writing(path):
        data.tofile(temporary)


def _unchanged(weights: Weights, tensor: TensorInfo, kind: TensorType) -> bool:
    scaled = tensor.name in weights.rows or tensor.name in weights.columns
    return kind == tensor.type and not scaled


def _kept(weights: Weights, tensor: TensorInfo) -> NDArray[np.uint8]:
    """A tensor's bytes as they are, or rescaled in its own type."""
    if tensor.name in weights.rows or tensor.name in weights.columns:
        return encode_rows(tensor.type, weights.read(tensor))
    with reading(weights.header.path):
        stored = np.memmap(weights.header.path, np.uint8, "r", tensor.offset, (tensor.bytes,))
        return np.array(stored)
