"""Tokens that may come next with their logits, as llama.cpp's samplers work on them."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeslm.llama import native

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOKEN = np.dtype([("id", np.int32), ("logit", np.float32), ("probability", np.float32)])


class Candidates:
    """Some tokens, each with its logit.

    Args:
        logits: Shape (count,).
        ids: Which tokens, shape (count,); None where they are the whole vocabulary.
    """

    def __init__(self, logits: NDArray[np.float32], ids: NDArray[np.int32] | None = None) -> None:
        self._ids = np.arange(len(logits), dtype=np.int32) if ids is None else ids
        self._tokens = np.empty(len(self._ids), _TOKEN)
        self._native: Any = native.library().llama_token_data_array()
        self.pointer: Any = ctypes.byref(self._native)
        self.set(logits)

    def set(self, logits: NDArray[np.float32]) -> None:
        """The same tokens with these logits, whatever samplers did to them."""
        self._tokens["id"] = self._ids
        self._tokens["logit"] = logits
        self._reset()

    def highest(self) -> float:
        """The highest logit; minus infinity if all tokens have been ruled out."""
        return float(self._tokens["logit"].max())

    def logits(self) -> NDArray[np.float32]:
        """A copy of the logits, as long as no sampler has changed the order."""
        return np.array(self._tokens["logit"], np.float32)

    @property
    def selected(self) -> int:
        """The token that a sampler chose."""
        return int(self._native.data[self._native.selected].id)

    def _reset(self) -> None:
        """Samplers leave their own order, size and even place behind."""
        lib = native.library()
        self._native.data = self._tokens.ctypes.data_as(lib.llama_token_data_p)
        self._native.size = len(self._tokens)
        self._native.selected = -1
        self._native.sorted = False
