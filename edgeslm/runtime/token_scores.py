"""How likely a model found a token, before any sampling option changed that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenScore:
    """One token of a prompt or an answer.

    Attributes:
        token: Its id.
        logprob: Natural logarithm of its probability after all that came before it.
        alternatives: The likeliest tokens at this place, each with its logarithm, the likeliest
            first; as many as were asked for.
    """

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


def score(logits: NDArray[np.float32], token: int, alternatives: int) -> TokenScore:
    """The score of `token`.

    Args:
        logits: Of every token at this place, shape (vocabulary,).
        token: Which came.
        alternatives: How many of the likeliest to list.
    """
    highest = float(logits.max())
    total = highest + float(np.log(np.exp(logits - highest, dtype=np.float64).sum()))
    return TokenScore(
        token,
        float(logits[token]) - total,
        tuple((best, float(logits[best]) - total) for best in _likeliest(logits, alternatives)),
    )


def _likeliest(logits: NDArray[np.float32], count: int) -> list[int]:
    if not count:
        return []
    count = min(count, len(logits))
    best = np.argpartition(logits, -count)[-count:]
    order = np.lexsort((best, -logits[best]))
    return [int(token) for token in best[order]]
