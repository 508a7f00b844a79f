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
    """An array of tokens; filled anew for each step.

    Args:
        count: How many there are: 1, or the size of the vocabulary.
    """

    def __init__(self, count: int) -> None:
        lib = native.library()
        self._tokens = np.zeros(count, _TOKEN)
        self._ids = np.arange(count, dtype=np.int32)
        self._native: Any = lib.llama_token_data_array()
        self.pointer: Any = ctypes.byref(self._native)

    def set_all(self, logits: NDArray[np.float32]) -> None:
        """Every token of the vocabulary with its logit, shape (count,)."""
        self._tokens["id"] = self._ids
        self._tokens["logit"] = logits
        self._reset()

    def set_one(self, token: int) -> None:
        """One token alone."""
        self._tokens[0] = (token, 0.0, 0.0)
        self._reset()

    def any_left(self) -> bool:
        """Whether some have not been ruled out."""
        return bool((self._tokens["logit"] > -np.inf).any())

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
