"""The verb that judges a model: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeslm.cli import options, output
from edgeslm.records import QUALITY_SCHEMA, document
from edgeslm.units import significant

if TYPE_CHECKING:
    from edgeslm.packager.evaluate.card import QualityCard
    from edgeslm.packager.evaluate.divergence import Average
    from edgeslm.packager.evaluate.tasks import TaskScores

_NO_CARD = "none"


def evaluate(
    model: options.Model,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="MODEL", help="What the model was made from."),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text", metavar="FILE", help="A text; default: one the reference says itself."
        ),
    ] = None,
    tasks: Annotated[
        Path | None,
        typer.Option("--tasks", metavar="FILE", help="Multiple choice, JSON lines."),
    ] = None,
    context: Annotated[
        int, typer.Option("--context", metavar="N", help="Tokens in a chunk of the text.")
    ] = 512,
    chunks: Annotated[
        int | None,
        typer.Option(
            "--chunks", metavar="N", help="How many; default: the whole file, 16 without one."
        ),
    ] = None,
    threads: options.Threads = None,
    card: Annotated[
        str | None,
        typer.Option(
            "--card",
            metavar="PATH",
            help="Where to write the quality card, or none; default: beside the model.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure how near a model is to its original, and how well it answers questions.

    Prints the KL divergence from the reference, the ratio of perplexities, how often both
    expect the same token; and writes all that as a quality card beside the model.

    Examples:
        edgeslm evaluate small.gguf --reference model.gguf
        edgeslm evaluate small.gguf --reference model.gguf --text letters.txt --chunks 20
        edgeslm evaluate model.gguf --text letters.txt --card none
    """
    from edgeslm.bundle.model_path import find_model
    from edgeslm.packager.evaluate import card_path
    from edgeslm.packager.evaluate import evaluate as evaluate_model
    from edgeslm.runtime.governor import default_threads

    path = find_model(model)
    destination = card_path(model) if card is None else Path(card)
    result = evaluate_model(
        path,
        find_model(reference) if reference else None,
        text=text,
        tasks=tasks,
        context_length=context,
        chunks=chunks,
        threads=default_threads() if threads is None else threads,
        card=None if card == _NO_CARD else destination,
    )
    if json:
        output.print_json(document(QUALITY_SCHEMA, result))
        return
    _print_card(result)
    if card != _NO_CARD:
        print(f"wrote {destination}")


def _print_card(card: QualityCard) -> None:
    from edgeslm.packager.evaluate.card import in_words

    rows = [("model", f"{card.model.file} ({_bits(card.model.bits_per_weight)})")]
    if card.reference is not None:
        words = f"{card.reference.file} ({_bits(card.reference.bits_per_weight)})"
        rows.append(("reference", words))
    if card.text is not None:
        origin = "sampled from the reference" if card.text.source == "sampled" else card.text.file
        rows.append(("text", f"{origin}, {card.chunks} chunks of {card.context_length} tokens"))
        rows.append(("", f"{card.tokens:,} predictions counted"))
    if card.perplexity is not None:
        rows.append(("perplexity", _with_error(card.perplexity)))
    if card.kl_divergence is not None:
        assert card.same_top_1 is not None  # noqa: S101  known with the divergence
        assert card.perplexity_ratio is not None  # noqa: S101
        divergence = card.kl_divergence
        rows += [
            ("  of the reference", _with_error(card.reference_perplexity)),
            (
                "  ratio",
                f"{card.perplexity_ratio:.4f} ± {card.perplexity_ratio_standard_error:.4f}",
            ),
            ("KL divergence", f"{divergence.mean:.5f} ± {divergence.standard_error:.5f} per token"),
            (
                "",
                f"median {divergence.median:.5f}, 99% below {divergence.p99:.4f}, "
                f"most {divergence.maximum:.3f}",
            ),
            ("same first choice", f"{card.same_top_1:.1%} of the tokens"),
            ("in words", in_words(divergence.mean)),
        ]
    if card.tasks is not None:
        rows += _task_rows(card.tasks)
    output.print_table(rows)


def _task_rows(tasks: TaskScores) -> list[tuple[str, str]]:
    return [
        ("tasks", f"{tasks.file}, {tasks.questions} questions, {tasks.by_chance:.1%} by chance"),
        ("  right", _share(tasks.accuracy, tasks.reference_accuracy)),
        (
            "  right, per byte",
            _share(tasks.accuracy_normalised, tasks.reference_accuracy_normalised),
        ),
    ]


def _share(own: Average, reference: Average | None) -> str:
    text = f"{own.value:.1%}"
    if own.standard_error is not None:
        text += f" ± {own.standard_error:.1%}"
    return text if reference is None else f"{text}; the reference {reference.value:.1%}"


def _with_error(average: Average | None) -> str:
    if average is None:
        return "unknown"
    text = significant(average.value, 5)
    if average.standard_error is None:
        return text
    return f"{text} ± {significant(average.standard_error)}"


def _bits(bits: float | None) -> str:
    return "unknown width" if bits is None else f"{bits:.2f} bits per weight"
