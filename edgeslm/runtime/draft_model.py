"""A smaller model of the same vocabulary that guesses what a larger one will say."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import InvalidOption, Unsupported
from edgeslm.llama.closing import Closing
from edgeslm.llama.context import Batch, Context, ContextOptions
from edgeslm.llama.model import Model

_SURE = 0.4
"""Probability below which a token is not worth guessing."""
_CATCH_UP = 0.5
"""What a token costs that is only read, in tokens that are said."""
_SAMPLES = 9
_MEANINGS = ("model", "tokens", "token_type", "bos_token_id", "eos_token_id", "eot_token_id")


@dataclass
class _Line:
    """What the cache holds of one sequence.

    Attributes:
        held: Its tokens, in their positions.
        sure: How many of them are known to be the text's.
        begun: How many the text had when it was new.
    """

    held: list[int]
    sure: int = 0
    begun: int = 0


class DraftModel(Closing):
    """Guesses for each sequence of the target's context. Close it, or use it as a context manager.

    Args:
        model: Stays open, and is not closed, by this.
        target: The model whose answers it guesses.
        options: Of the target's context.

    Raises:
        InvalidOption: its vocabulary is not the target's.
        Unsupported: it cannot take back what it guessed.
    """

    def __init__(self, model: Model, target: Model, options: ContextOptions) -> None:
        require_same_vocabulary(model, target)
        if model.recurrent:
            raise Unsupported(
                f"{model.path}: a model with recurrent layers cannot take guesses back",
                hint="Choose a draft model that has attention only.",
            )
        self.model = model
        self._context = Context(model, replace(options, outputs=options.sequences))
        self._batch = Batch(self._context.most_tokens)
        self._lines = [_Line([]) for _ in range(options.sequences)]
        self._samples: deque[float] = deque(maxlen=_SAMPLES)
        self._share = model.path.stat().st_size / target.path.stat().st_size

    def close(self) -> None:
        """Free the context."""
        self._batch.close()
        self._context.close()

    def begin(self, sequence: int, prompt: Sequence[int]) -> None:
        """A new text: what the cache holds of it, and nothing else, is of use."""
        line = self._lines[sequence]
        line.sure, line.begun = 0, len(prompt)
        self._keep(sequence, line, prompt)

    def seconds(self, sequence: int, length: int, count: int, step: float) -> float:
        """How long it takes to draft.

        To read the prompt is not counted: that is the price of having a draft model at all.

        Args:
            sequence: For which.
            length: Tokens of its text.
            count: How many to draft.
            step: Seconds of the target's steps; from it the first guess is made.
        """
        line = self._lines[sequence]
        missing = max(0, length - max(line.sure, line.begun) - 1)
        one = median(self._samples) if self._samples else self._share * step
        return one * (count + _CATCH_UP * missing)

    def draft(
        self,
        sequence: int,
        text: Sequence[int],
        count: int,
        *,
        cancelled: Callable[[], bool] | None = None,
    ) -> tuple[int, ...]:
        """What it would say after `text`: up to `count` tokens, as long as it is sure.

        Args:
            sequence: Whose text.
            text: Token ids, at least one; goes on with what was `begin`'s prompt.
            count: At least 1.
            cancelled: Asked while it reads.

        Raises:
            DecodeAborted: `cancelled` returned True.
            NativeFailure: llama.cpp failed.
        """
        line = self._lines[sequence]
        self._keep(sequence, line, text)
        try:
            self._read(sequence, line, text[len(line.held) :], cancelled)
            line.sure = len(text)
            return tuple(self._guesses(sequence, line, count))
        except BaseException:
            self._context.forget(sequence=sequence)
            line.held, line.sure = [], 0
            raise

    def _guesses(self, sequence: int, line: _Line, count: int) -> Iterator[int]:
        """The likeliest tokens one by one; the last one is not read any more."""
        token = self._likeliest()
        for left in range(count - 1, -1, -1):
            if token is None:
                return
            yield token
            if left:
                began = time.perf_counter()
                self._read(sequence, line, (token,), None)
                self._samples.append(time.perf_counter() - began)
                token = self._likeliest()

    def _keep(self, sequence: int, line: _Line, text: Sequence[int]) -> None:
        """Forget what is not a beginning of `text`, and its last token in any case."""
        most = min(len(line.held), len(text) - 1)
        same = min(line.sure, most)
        while same < most and line.held[same] == text[same]:
            same += 1
        if same < len(line.held):
            if not (same and self._context.forget(same, sequence=sequence)):
                self._context.forget(sequence=sequence)
                same = 0
            del line.held[same:]
        line.sure = same

    def _read(
        self,
        sequence: int,
        line: _Line,
        tokens: Sequence[int],
        cancelled: Callable[[], bool] | None,
    ) -> None:
        for first in range(0, len(tokens), self._batch.capacity):
            part = tokens[first : first + self._batch.capacity]
            self._batch.clear()
            for index, token in enumerate(part):
                last = first + index == len(tokens) - 1
                self._batch.add(token, len(line.held) + index, sequence=sequence, logits=last)
            self._context.decode(self._batch, cancelled=cancelled)
            line.held += part

    def _likeliest(self) -> int | None:
        """The next token; None where it is not sure, or would end the text."""
        logits: NDArray[np.float32] = self._context.logits()
        token = int(logits.argmax())
        if 1 / float(np.exp(logits - logits[token]).sum()) < _SURE:
            return None
        return None if self.model.ends_generation(token) else token


def require_same_vocabulary(draft: Model, target: Model) -> None:
    """Return if both models mean the same by each token.

    Raises:
        InvalidOption: they do not.
    """
    for name in _MEANINGS:
        if not draft.says_the_same(target, f"tokenizer.ggml.{name}"):
            sizes = draft.vocabulary_size, target.vocabulary_size
            difference = name if sizes[0] == sizes[1] else f"{sizes[0]} and {sizes[1]} tokens"
            raise InvalidOption(
                f"{draft.path} cannot draft for {target.path}: "
                f"their vocabularies differ ({difference})",
                hint="Choose a smaller model of the same family.",
            )
