"""Texts as vectors: what an embedding model is for, and what any other model can be asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import Unsupported, UserError
from edgeslm.llama.closing import Closing
from edgeslm.llama.context import Batch, Context, ContextOptions, rows_of_logits
from edgeslm.llama.model import Model

_RANK = 4
"""llama.cpp's number for models whose output is a score."""


class Embedder(Closing):
    """Makes vectors, one text after the other.

    Embedding models pool as they were trained to; for others it is the mean of the last hidden
    states of all tokens.

    Args:
        model: Stays open, and is not closed, by the embedder.
        length: Most tokens of a text.
        threads: Threads to compute with.

    Raises:
        Unsupported: the model makes no vectors.
    """

    def __init__(self, model: Model, length: int, threads: int) -> None:
        if model.hyper("pooling_type") == _RANK:
            raise Unsupported(
                "this model ranks texts, it makes no vectors of them",
                hint="Choose an embedding model.",
            )
        self.length = min(length, model.trained_context_length)
        self._pooled = not model.can_generate
        most = self.length
        if not self._pooled:
            # llama.cpp computes the logits of each token too, whether they are wanted or not.
            most = min(length, rows_of_logits(model))
        options = ContextOptions(
            length=self.length,
            batch=most,
            ubatch=most,
            outputs=most,
            threads=threads,
            pooled=self._pooled,
        )
        self._context = Context(model, options)
        self._batch = Batch(most)

    def close(self) -> None:
        """Free the context."""
        if self._batch.capacity:
            self._batch.close()
            self._batch.capacity = 0
        self._context.close()

    def embed(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The vector of a text, of length 1; shape (hidden size,).

        Raises:
            UserError: there are no tokens, or too many.
        """
        if not 0 < len(tokens) <= self.length:
            raise UserError(
                f"a text of {len(tokens)} tokens cannot be embedded",
                hint=f"1 to {self.length} tokens fit.",
            )
        self._context.forget()
        vector = self._pooled_states(tokens) if self._pooled else self._mean_state(tokens)
        norm = float(np.linalg.norm(vector))
        return vector / np.float32(norm) if norm else vector

    def _pooled_states(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        self._decode(tokens, 0)
        return np.array(self._context.pooled())

    def _mean_state(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        self._context.keep_hidden(True)
        total = np.zeros(self._context.model.hidden_size, np.float64)
        for start in range(0, len(tokens), self._batch.capacity):
            part = tokens[start : start + self._batch.capacity]
            self._decode(part, start)
            total += self._context.all_hidden(len(part)).sum(axis=0, dtype=np.float64)
        return np.asarray(total / len(tokens), np.float32)

    def _decode(self, tokens: Sequence[int], start: int) -> None:
        self._batch.clear()
        for offset, token in enumerate(tokens):
            self._batch.add(token, start + offset, logits=True)
        self._context.decode(self._batch)
