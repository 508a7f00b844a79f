"""Multiple choice: does the model find the right answer the likeliest one?

A file of JSON lines, `{"question": "...", "choices": ["...", "..."], "answer": 0}`. Each choice
is put behind the question, and the log-likelihoods of its tokens are added up. The choice with
the largest sum is the model's; since that favours short choices, a second score divides each sum
by the choice's length in bytes. lm-evaluation-harness calls the first acc; its acc_norm divides
by characters, which is the same for ASCII.

The question is computed once and stays in the KV cache; each choice is dropped again from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import InvalidOption, UserError, reading
from edgeslm.llama.context import Batch, Context, ContextOptions, require_numbers
from edgeslm.llama.model import Model
from edgeslm.packager.evaluate.chunks import (
    not_yet,
    require_predictions,
    rows_at_once,
)
from edgeslm.packager.evaluate.divergence import Average, share, surprise
from edgeslm.progress import bar

_GROUP = 16
_FIELDS = ("question", "choices", "answer")
_EXAMPLE = '{"question": "Water is", "choices": ["wet", "dry"], "answer": 0}'


@dataclass(frozen=True)
class Question:
    """One line of the file; `answer` is the index of the right choice, from 0."""

    line: int
    question: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class TaskFile:
    """The questions of a file, and its hash."""

    path: Path
    sha256: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class TaskScores:
    """Shares of right answers, from 0 to 1.

    Attributes:
        accuracy: By the likelihood of a choice.
        accuracy_normalised: By the likelihood per byte of it.
        reference_accuracy: The reference's; None without one.
        reference_accuracy_normalised: As well.
        by_chance: What guessing would score on average.
    """

    file: str
    sha256: str
    questions: int
    accuracy: Average
    accuracy_normalised: Average
    reference_accuracy: Average | None
    reference_accuracy_normalised: Average | None
    by_chance: float


def read_tasks(path: Path) -> TaskFile:
    """The questions of a JSON lines file.

    Raises:
        UserError: a line or field is not as it must be; the message names both.
    """
    with reading(path):
        data = path.read_bytes()
    lines = data.splitlines()
    questions = tuple(
        _question(path, number, line) for number, line in enumerate(lines, 1) if line.strip()
    )
    if not questions:
        raise UserError(f"{path}: no questions in it", hint=f"A line of it reads: {_EXAMPLE}")
    return TaskFile(path, hashlib.sha256(data).hexdigest(), questions)


def score(model: Model, tasks: TaskFile, threads: int) -> tuple[Average, Average]:
    """Accuracy by likelihood, and by likelihood per byte.

    Raises:
        Unsupported: the model does not predict tokens.
        InvalidOption: a question is longer than the model's context.
        NativeFailure: llama.cpp failed.
    """
    plain, normalised = [], []
    found = likelihoods(model, tasks, threads)
    for question, each in zip(tasks.questions, found, strict=True):
        lengths = [len(choice.encode("utf-8", "replace")) for choice in question.choices]
        plain.append(int(np.argmax(each)) == question.answer)
        normalised.append(int(np.argmax(np.divide(each, lengths))) == question.answer)
    return share(np.array(plain)), share(np.array(normalised))


def likelihoods(model: Model, tasks: TaskFile, threads: int) -> list[list[float]]:
    """The log-likelihood of each choice behind its question, in nats; fails as `score` does."""
    require_predictions(model)
    prepared = [_prepare(model, tasks, question) for question in tasks.questions]
    longest = max(item.longest for item in prepared)
    rows = max(_GROUP, rows_at_once(model.vocabulary_size) // _GROUP * _GROUP)
    options = ContextOptions(length=longest, threads=threads, outputs=rows)
    found = []
    with (
        Context(model, options) as context,
        bar("Asking questions", total=len(prepared), unit="questions") as advance,
    ):
        scorer = _Scorer(model, context, rows)
        for item in prepared:
            found.append(scorer.likelihoods(item))
            advance(1)
        scorer.close()
    return found


def by_chance(tasks: TaskFile) -> float:
    """The accuracy that guessing would have on average."""
    return float(np.mean([1 / len(question.choices) for question in tasks.questions]))


@dataclass(frozen=True)
class _Prepared:
    """A question's tokens: what all choices begin with, and what is each one's own."""

    shared: NDArray[np.int32]
    rests: tuple[NDArray[np.int32], ...]

    @property
    def longest(self) -> int:
        """Tokens of the question with its longest choice."""
        return len(self.shared) + max(map(len, self.rests))


def _prepare(model: Model, tasks: TaskFile, question: Question) -> _Prepared:
    space = "" if question.question[-1:].isspace() else " "
    alone = tuple(model.tokenize(question.question, add_special=True))
    choices = tuple(
        tuple(model.tokenize(question.question + space + choice, add_special=True))
        for choice in question.choices
    )
    # A choice's first letters may be one token with the question's last ones.
    shared = max(1, min(_common(alone, tokens) for tokens in choices))
    longest = max(map(len, choices))
    if longest > model.trained_context_length:
        raise InvalidOption(
            f"{tasks.path}, line {question.line}: {longest} tokens, more than the "
            f"{model.trained_context_length} that {model.path} was trained for",
            hint="Shorten the question.",
        )
    rests = tuple(np.array(tokens[shared:], np.int32) for tokens in choices)
    return _Prepared(np.array(choices[0][:shared], np.int32), rests)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))


class _Scorer:
    """Log-likelihoods of choices, with most of the question kept in the KV cache.

    Some of llama.cpp's kernels round differently for tokens in fours and for those left over. So
    each choice is computed from a multiple of sixteen on, to its end, as a prompt of that text is.
    """

    def __init__(self, model: Model, context: Context, rows: int) -> None:
        self._model = model
        self._context = context
        self._batch = Batch(rows)

    def close(self) -> None:
        """Free the batch."""
        self._batch.close()

    def likelihoods(self, item: _Prepared) -> list[float]:
        """Of each choice's tokens behind the shared ones, in nats, the largest is the likeliest."""
        context, shared = self._context, item.shared.tolist()
        kept = (len(shared) - 1) // _GROUP * _GROUP
        context.forget()
        if kept:
            context.prefill(shared[:kept], cancelled=not_yet)
        results = []
        for rest in item.rests:
            tokens = np.array([*shared[kept:], *rest.tolist()], np.int32)
            results.append(-self._surprise(tokens, kept, len(shared) - kept))
            if not context.forget(kept):
                context.forget()
                context.prefill(shared[:kept], cancelled=not_yet)
        return results

    def _surprise(self, tokens: NDArray[np.int32], position: int, first: int) -> float:
        """Surprise at the tokens from the `first` on; the one before all stands at `position`."""
        total = 0.0
        for start in range(0, len(tokens), self._batch.capacity):
            part = tokens[start : start + self._batch.capacity].tolist()
            self._batch.clear()
            wanted = []
            for index, token in enumerate(part, start):
                says = first <= index + 1 < len(tokens)
                self._batch.add(token, position + index, logits=says)
                wanted += [index + 1] if says else []
            self._context.decode(self._batch, cancelled=not_yet)
            if wanted:
                logits = self._context.all_logits(len(wanted))
                require_numbers(self._model, logits)
                total += float(surprise(logits, tokens[wanted].astype(np.int64)).sum())
        return total


def _question(path: Path, number: int, line: bytes) -> Question:
    """One line, checked.

    Raises:
        UserError: it is not as it must be.
    """
    where = f"{path}, line {number}"
    try:
        entry: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}", hint=f"Write: {_EXAMPLE}") from error
    if not isinstance(entry, dict):
        raise UserError(f"{where}: not a JSON object", hint=f"Write: {_EXAMPLE}")
    for field in _FIELDS:
        if field not in entry:
            raise UserError(f"{where}: no field {field!r}", hint=f"Write: {_EXAMPLE}")
    question, choices, answer = (entry[field] for field in _FIELDS)
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: 'question' must be a text", hint=f"Write: {_EXAMPLE}")
    if not isinstance(choices, list) or len(choices) < 2 or not all(map(_is_choice, choices)):
        raise UserError(
            f"{where}: 'choices' must be a list of two or more texts", hint=f"Write: {_EXAMPLE}"
        )
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise UserError(
            f"{where}: 'answer' must be a whole number from 0 to {len(choices) - 1}",
            hint="It is the index of the right choice, the first one is 0.",
        )
    return Question(number, question, tuple(choices), answer)


def _is_choice(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
