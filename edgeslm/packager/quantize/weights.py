"""Tensors of a GGUF file as float32 matrices, read one at a time, rescaled where told so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeslm.errors import InvalidGGUF, reading
from edgeslm.llama.rows import decode_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeslm.gguf.reader import Header, TensorInfo

    Array = NDArray[Any]

_PIECE_ROWS = 4096


@dataclass(frozen=True)
class Weights:
    """The weights of a model.

    Attributes:
        header: The file they are in.
        rows: Factors that the rows of a matrix, or the elements of a vector, are multiplied
            with, by name of the tensor.
        columns: The same for the columns of a matrix.
    """

    header: Header
    rows: Mapping[str, Array] = field(default_factory=dict)
    columns: Mapping[str, Array] = field(default_factory=dict)

    def find(self, name: str) -> TensorInfo | None:
        """The tensor called `name`."""
        return next((tensor for tensor in self.header.tensors if tensor.name == name), None)

    def vector(self, name: str) -> Array:
        """[n] of the vector called `name`, which is known to be there."""
        values: Array = self.read(self._known(name))[0]
        return values

    def matrix(self, name: str) -> Array:
        """[rows, columns] of the matrix called `name`, which is known to be there."""
        return self.read(self._known(name))

    def pieces(self, name: str) -> Iterator[Array]:
        """The same some rows at a time, for what needs not all of it at once."""
        tensor = self._known(name)
        rows = tensor.elements // tensor.shape[0]
        for first in range(0, rows, _PIECE_ROWS):
            yield self.read(tensor, np.arange(first, min(first + _PIECE_ROWS, rows)))

    def block(self, index: int) -> dict[str, Array]:
        """Every tensor of one block, by its name without `blk.N.`."""
        prefix = f"blk.{index}."
        found: dict[str, Array] = {}
        for tensor in self.header.tensors:
            if tensor.name.startswith(prefix):
                values = self.read(tensor)
                short = tensor.name.removeprefix(prefix)
                found[short] = values[0] if len(tensor.shape) == 1 else values
        return found

    def read(self, tensor: TensorInfo, picked: NDArray[np.int64] | None = None) -> Array:
        """[rows, columns] of a tensor, or of some of its rows; a vector is one row.

        Raises:
            InvalidGGUF: it holds infinities or what is not a number.
            NotFound: the file is gone.
        """
        values = _decoded(self.header, tensor, picked)
        rows = self.rows.get(tensor.name)
        if rows is not None:
            rows = rows if picked is None else rows[picked]
            values = values * (rows if len(tensor.shape) == 1 else rows[:, None])
        columns = self.columns.get(tensor.name)
        return values if columns is None else values * columns

    def _known(self, name: str) -> TensorInfo:
        tensor = self.find(name)
        assert tensor is not None, name  # noqa: S101  callers name what they have seen
        return tensor


def _decoded(header: Header, tensor: TensorInfo, picked: NDArray[np.int64] | None) -> Array:
    width = tensor.shape[0]
    count = tensor.elements // width
    with reading(header.path):
        shape = (count, tensor.type.bytes_for((width,)))
        stored = np.memmap(header.path, np.uint8, "r", tensor.offset, shape)
        data = np.array(stored if picked is None else stored[picked])
    values = decode_rows(tensor.type, data, width)
    if not np.isfinite(values).all():
        raise InvalidGGUF(
            f"{header.path}: tensor {tensor.name} holds infinities or what is not a number",
            hint="The file is damaged: convert or download it again.",
        )
    return values
