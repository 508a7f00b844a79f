"""Each tensor in its type by ggml's own rounding: read, encoded and written side by side.

llama.cpp's quantizer does the same one after the other: while it reads a tensor or writes one, all
cores but one wait.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeslm import progress
from edgeslm.errors import InvalidGGUF, Unsupported, reading
from edgeslm.gguf.reader import Header, TensorInfo
from edgeslm.gguf.types import TensorType
from edgeslm.gguf.writer import TensorSpec, write_gguf
from edgeslm.llama.rows import decode_rows, encode_rows
from edgeslm.packager.quantize.label import labelled
from edgeslm.packager.quantize.threads import in_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PIECE_ELEMENTS = 1 << 20
"""Weights encoded at a time."""
_AHEAD = 32
"""Pieces per thread that may wait to be written: what encodes slowly is not waited for."""
_LARGEST_HALF = 65504.0
"""Scales are kept in half precision; larger weights may have none."""


def write_plain(
    header: Header, types: Mapping[str, TensorType], output: Path, threads: int, label: str
) -> float:
    """Write the model of `header` with other types.

    Args:
        header: The source.
        types: Of the tensors that change; those named come first, in this order.
        output: Where the file appears once it is complete.
        threads: To encode with.
        label: The file type's name, for the metadata.

    Returns:
        Seconds from the first byte read to the last one written.

    Raises:
        InvalidGGUF: a tensor holds infinities or what is not a number.
        Unsupported: a tensor holds weights that are too large for its type.
        OutputFailure: the output cannot be written.
    """
    by_name = {tensor.name: tensor for tensor in header.tensors}
    named = [by_name[name] for name in types]
    tensors = [*named, *(tensor for tensor in header.tensors if tensor.name not in types)]
    specs = [TensorSpec(t.name, types.get(t.name, t.type), t.shape) for t in tensors]
    started = time.perf_counter()
    with reading(header.path):
        stored = np.memmap(header.path, np.uint8, "r")
    with (
        progress.bar(f"writing {label}", sum(spec.bytes for spec in specs), unit="bytes") as bar,
        ThreadPoolExecutor(threads) as pool,
    ):
        pieces = (
            piece
            for spec, tensor in zip(specs, tensors, strict=True)
            for piece in _pieces(header.path, tensor, spec.type)
        )
        encoded = in_order(lambda piece: piece.encoded(stored), pieces, pool, _AHEAD * threads)

        def read(index: int) -> Iterator[NDArray[np.uint8]]:
            """The next tensor's pieces; tensors are asked for in their order."""
            left = specs[index].bytes
            while left:
                data = next(encoded)
                left -= data.nbytes
                yield data

        write_gguf(output, labelled(header, label), specs, read, advance=bar)
    return time.perf_counter() - started


@dataclass(frozen=True)
class _Piece:
    """Some rows of a tensor, and what becomes of them."""

    path: Path
    tensor: TensorInfo
    type: TensorType
    first: int
    rows: int

    def encoded(self, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The rows in their new type, from the bytes of the source."""
        tensor, width = self.tensor, self.tensor.shape[0]
        row_bytes = tensor.type.bytes_for((width,))
        begin = tensor.offset + self.first * row_bytes
        raw = stored[begin : begin + self.rows * row_bytes].reshape(self.rows, row_bytes)
        if self.type == tensor.type:
            return raw
        values = decode_rows(tensor.type, raw, width)
        largest = float(max(values.max(), -values.min()))
        if not np.isfinite(largest):
            raise InvalidGGUF(
                f"{self.path}: tensor {tensor.name} holds infinities or what is not a number",
                hint="The file is damaged: convert or download it again.",
            )
        data = encode_rows(self.type, values)
        if largest > _LARGEST_HALF and not np.isfinite(decode_rows(self.type, data, width)).all():
            raise Unsupported(
                f"{self.path}: tensor {tensor.name} has weights up to {largest:g}, "
                f"too large for {self.type.name}",
                hint="Choose BF16 or F32 for it.",
            )
        return data


def _pieces(path: Path, tensor: TensorInfo, kind: TensorType) -> Iterator[_Piece]:
    width = tensor.shape[0]
    rows, step = tensor.elements // width, max(1, _PIECE_ELEMENTS // width)
    for first in range(0, rows, step):
        yield _Piece(path, tensor, kind, first, min(step, rows - first))
