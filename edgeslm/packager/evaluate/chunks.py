"""A text in chunks: what a model predicts in the second half of each.

The method is llama-perplexity's, so that figures compare. The tokens of a text are cut into
chunks of the context length, each computed on its own. Only predictions from the middle of a
chunk on are counted: before that the model has seen too little. A chunk of 512 tokens gives
255 predictions, of the tokens 257 to 511. Where the model wants every text to begin with a
certain token, that token replaces the first one of each chunk.

One row of logits is as long as the vocabulary, a megabyte for Gemma. So the second half is
decoded a few tokens at a time, and nobody ever holds the logits of a whole chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import InvalidOption, Unsupported
from edgeslm.llama.closing import Closing
from edgeslm.llama.context import Batch, Context, ContextOptions, require_numbers
from edgeslm.llama.model import Model

SHORTEST_CHUNK = 16
_PREFILL_TOKENS = 512
_MOST_ROWS = 128
_LEAST_ROWS = 16
_LOGITS_AT_ONCE = 1 << 23
"""Numbers in the logits of one decode call: 32 MiB."""


@dataclass(frozen=True)
class Rows:
    """Some predictions of a chunk, in their order; views that change with the next rows.

    Attributes:
        first: Index of the first one among the chunk's counted predictions.
        targets: [rows] the token that truly came.
        logits: [rows, vocabulary].
        hidden: [rows, hidden size], or None where it was not asked for.
    """

    first: int
    targets: NDArray[np.int64]
    logits: NDArray[np.float32]
    hidden: NDArray[np.float32] | None


class ChunkReader(Closing):
    """Runs a model over chunks of one length."""

    def __init__(self, model: Model, length: int, threads: int) -> None:
        self._model = model
        self._rows = rows_at_once(model.vocabulary_size)
        options = ContextOptions(
            length=length,
            batch=_PREFILL_TOKENS,
            ubatch=_PREFILL_TOKENS,
            threads=threads,
            outputs=self._rows,
        )
        self._context = Context(model, options)
        self._batch = Batch(self._rows)

    def close(self) -> None:
        """Free the native context."""
        self._batch.close()
        self._context.close()

    def rows(self, chunk: Sequence[int], *, hidden: bool = False) -> Iterator[Rows]:
        """The counted predictions of `chunk`, a few at a time.

        Raises:
            NativeFailure: llama.cpp failed, or computed what is no number.
        """
        context, begin = self._context, len(chunk) // 2
        context.forget()
        context.keep_hidden(False)
        context.prefill(chunk[:begin], cancelled=not_yet)
        context.keep_hidden(hidden)
        for start in range(begin, len(chunk) - 1, self._rows):
            stop = min(start + self._rows, len(chunk) - 1)
            self._batch.clear()
            for position in range(start, stop):
                self._batch.add(chunk[position], position, logits=True)
            context.decode(self._batch, cancelled=not_yet)
            logits = context.all_logits(stop - start)
            require_numbers(self._model, logits)
            yield Rows(
                first=start - begin,
                targets=np.asarray(chunk[start + 1 : stop + 1], np.int64),
                logits=logits,
                hidden=context.all_hidden(stop - start) if hidden else None,
            )


def rows_at_once(vocabulary_size: int) -> int:
    """How many tokens' logits one decode call computes."""
    return max(_LEAST_ROWS, min(_MOST_ROWS, _LOGITS_AT_ONCE // vocabulary_size))


def counted(length: int) -> int:
    """Predictions that count in a chunk of `length` tokens."""
    return length - 1 - length // 2


def cut(
    model: Model, tokens: Sequence[int], length: int, most: int | None
) -> tuple[tuple[int, ...], ...]:
    """The chunks of a tokenized text, what is left over at its end dropped.

    Args:
        model: Says whether each chunk begins with a token of its own.
        tokens: The whole text.
        length: Tokens in a chunk.
        most: How many chunks to take; None for all.

    Raises:
        InvalidOption: not even one chunk.
    """
    count = len(tokens) // length
    if not count:
        raise InvalidOption(
            f"the text has {len(tokens)} tokens, less than one chunk of {length}",
            hint="Give a longer text or a shorter --context.",
        )
    chunks = [tokens[start * length : (start + 1) * length] for start in range(count)][:most]
    begin = (model.bos,) if model.adds_bos and model.bos is not None else ()
    return tuple((*begin, *chunk[len(begin) :]) for chunk in chunks)


def require_suitable(model: Model, length: int) -> None:
    """Return if `model` can be evaluated in chunks of `length` tokens.

    Raises:
        Unsupported: it does not predict tokens.
        InvalidOption: the chunk is longer than what it was trained for.
    """
    require_predictions(model)
    if length > model.trained_context_length:
        raise InvalidOption(
            f"a context of {length} tokens is more than the {model.trained_context_length} that "
            f"{model.path} was trained for",
            hint=f"Give --context {model.trained_context_length} or less.",
        )


def require_predictions(model: Model) -> None:
    """Return if `model` predicts a next token.

    Raises:
        Unsupported: it is an embedding model.
    """
    if not model.can_generate:
        raise Unsupported(
            f"{model.path}: does not predict text, it is an embedding model",
            hint="Only models that write text can be evaluated.",
        )


def not_yet() -> bool:
    """For `cancelled`: nothing but a signal stops the decode."""
    return False
