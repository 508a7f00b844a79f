"""Joins the parts: a model, what it is compared with, and the card that comes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import InvalidOption, NativeFailure
from edgeslm.gguf.reader import Header
from edgeslm.gguf.validation import read_model
from edgeslm.llama.model import Model
from edgeslm.llama.native import build_info
from edgeslm.packager.evaluate import divergence
from edgeslm.packager.evaluate.card import (
    QualityCard,
    card_file,
    file_name,
    identify,
    identify_text,
)
from edgeslm.packager.evaluate.chunks import (
    SHORTEST_CHUNK,
    ChunkReader,
    cut,
    require_suitable,
)
from edgeslm.packager.evaluate.divergence import Average
from edgeslm.packager.evaluate.reference import Reference, require_same_vocabulary
from edgeslm.packager.evaluate.tasks import TaskFile, TaskScores, by_chance, read_tasks, score
from edgeslm.packager.evaluate.text import text_of_file
from edgeslm.progress import bar

_MOST_NATS = 300


def evaluate(
    model: Path,
    reference: Path | None = None,
    *,
    text: Path | None = None,
    tasks: Path | None = None,
    context_length: int = 512,
    chunks: int | None = None,
    threads: int = 1,
    card: Path | None = None,
) -> QualityCard:
    """How good `model` is: against a reference, on a text, at answering questions.

    Args:
        model: A GGUF file.
        reference: What it was made from. Without one there is no divergence.
        text: A text file; None for text sampled from the reference.
        tasks: Multiple choice, JSON lines.
        context_length: Tokens in a chunk; the second half of each counts.
        chunks: How many; None for all of a file, or 16 of a sampled text.
        threads: How many to compute with.
        card: Where to write the card as JSON; None for nowhere.

    Raises:
        InvalidOption: nothing to measure, a text that is too short, or a number out of range.
        Unsupported: an embedding model, or vocabularies that differ.
        UserError: a text or task file that is malformed.
        NativeFailure: llama.cpp failed, or computed what is no number.
        OutputFailure: the card or the reference's results cannot be written.
    """
    _check(reference, text, tasks, context_length, chunks)
    with card_file(card) as write:
        questions = read_tasks(tasks) if tasks else None
        if reference is not None:
            theirs, ours = read_model(reference), read_model(model)
            require_same_vocabulary(theirs, ours)  # now, and not after long work
            opened = Reference(
                reference,
                text,
                length=context_length,
                chunks=chunks,
                threads=threads,
                header=theirs,
            )
            result = evaluate_against(opened, model, questions, header=ours)
        else:
            result = _evaluate_alone(model, text, questions, context_length, chunks, threads)
        write(result)
    return result


def evaluate_against(
    reference: Reference,
    model: Path,
    tasks: TaskFile | None = None,
    *,
    header: Header | None = None,
) -> QualityCard:
    """Compare one model with a reference that is held open; errors as for `evaluate`.

    `header` is the model's, where `read_model` has read it already.
    """
    header = header or read_model(model)
    theirs = reference.scores(tasks) if tasks else None
    with Model(model, header=header) as opened:
        figures = reference.figures(opened, header)
        scores = None
        if tasks is not None:
            scores = _task_scores(tasks, score(opened, tasks, reference.threads), theirs)
        identity = identify(header)
    build = build_info()
    _refuse_overflow(model, figures.surprise, figures.reference_surprise)
    ratio = divergence.perplexity_ratio(figures)
    same_top = divergence.share(figures.same_top)
    return QualityCard(
        model=identity,
        reference=reference.identity,
        text=identify_text(reference.text),
        context_length=reference.length,
        chunks=len(reference.chunks),
        tokens=len(figures.surprise),
        perplexity=divergence.perplexity(figures.surprise),
        reference_perplexity=divergence.perplexity(figures.reference_surprise),
        perplexity_ratio=ratio.value,
        perplexity_ratio_standard_error=ratio.standard_error,
        kl_divergence=divergence.kl_divergence(figures),
        same_top_1=same_top.value,
        same_top_1_standard_error=same_top.standard_error,
        tasks=scores,
        llama_cpp_python=build.binding,
        features=build.features,
    )


def _evaluate_alone(
    path: Path,
    text: Path | None,
    tasks: TaskFile | None,
    length: int,
    most: int | None,
    threads: int,
) -> QualityCard:
    """Perplexity on a text, and tasks, whichever are given."""
    read = text_of_file(text) if text else None
    with Model(path) as model:
        chunks: tuple[tuple[int, ...], ...] = ()
        surprises = None
        if read is not None:
            require_suitable(model, length)
            tokens = model.tokenize(read.text, add_special=True)
            chunks = cut(model, tokens, length, most)
            surprises = _surprises(model, chunks, threads)
            _refuse_overflow(path, surprises)
        scores = None
        if tasks is not None:
            scores = _task_scores(tasks, score(model, tasks, threads), None)
        identity = identify(model.header)
    build = build_info()
    return QualityCard(
        model=identity,
        text=identify_text(read) if read else None,
        context_length=length if read else None,
        chunks=len(chunks) if read else None,
        tokens=None if surprises is None else len(surprises),
        perplexity=None if surprises is None else divergence.perplexity(surprises),
        tasks=scores,
        llama_cpp_python=build.binding,
        features=build.features,
    )


def _surprises(
    model: Model, chunks: tuple[tuple[int, ...], ...], threads: int
) -> NDArray[np.float64]:
    parts = []
    with (
        ChunkReader(model, len(chunks[0]), threads) as reader,
        bar("Reading the text", total=len(chunks), unit="chunks") as advance,
    ):
        for chunk in chunks:
            parts += [divergence.surprise(rows.logits, rows.targets) for rows in reader.rows(chunk)]
            advance(1)
    return np.concatenate(parts)


def _refuse_overflow(model: Path, *surprises: NDArray[np.float64]) -> None:
    """Perplexities end where floating-point numbers do, at 710 nats per token."""
    if max(float(values.mean()) for values in surprises) > _MOST_NATS:
        raise NativeFailure(
            f"{model}: what it predicts has nothing to do with the text; its weights are damaged",
            hint="Fetch, convert or quantize the model again.",
        )


def _task_scores(
    tasks: TaskFile, own: tuple[Average, Average], reference: tuple[Average, Average] | None
) -> TaskScores:
    theirs = reference or (None, None)
    return TaskScores(
        file=file_name(tasks.path),
        sha256=tasks.sha256,
        questions=len(tasks.questions),
        accuracy=own[0],
        accuracy_normalised=own[1],
        reference_accuracy=theirs[0],
        reference_accuracy_normalised=theirs[1],
        by_chance=by_chance(tasks),
    )


def _check(
    reference: Path | None,
    text: Path | None,
    tasks: Path | None,
    context_length: int,
    chunks: int | None,
) -> None:
    if reference is None and text is None and tasks is None:
        raise InvalidOption(
            "nothing to measure the model by",
            hint="Give --reference (what it was made from), --text or --tasks.",
        )
    if context_length < SHORTEST_CHUNK:
        raise InvalidOption(
            f"a context of {context_length} tokens is too short to predict from",
            hint=f"Give --context {SHORTEST_CHUNK} or more; 512 is usual.",
        )
    if chunks is not None and chunks < 1:
        raise InvalidOption(f"{chunks} chunks are nothing", hint="Give --chunks 1 or more.")
