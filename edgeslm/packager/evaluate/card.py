"""The quality card: how near a model is to its reference, and how that was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeslm.bundle.model_path import bundle_around
from edgeslm.errors import writing
from edgeslm.files import atomic_path, sha256
from edgeslm.gguf.inspection import inspect
from edgeslm.gguf.reader import Header
from edgeslm.packager.evaluate.divergence import Average, KLDivergence
from edgeslm.packager.evaluate.tasks import TaskScores
from edgeslm.packager.evaluate.text import EvaluationText
from edgeslm.records import QUALITY_SCHEMA, document

SUFFIX = ".quality.json"

_WORDS = (
    (0.001, "as good as the reference"),
    (0.01, "hardly to be told from the reference"),
    (0.03, "close to the reference: now and then another word"),
    (0.1, "near the reference: other words, seldom another sense"),
    (0.3, "clearly off the reference: weaker answers are to be expected"),
)
_WORST = "far from the reference: check what it answers before you use it"


@dataclass(frozen=True)
class ModelIdentity:
    """Which file a figure is about."""

    file: str
    sha256: str
    file_bytes: int
    bits_per_weight: float | None


@dataclass(frozen=True)
class TextIdentity:
    """Which text the models were compared on; `source` is "file" or "sampled"."""

    source: str
    file: str
    sha256: str


@dataclass(frozen=True)
class QualityCard:
    """One evaluation. What was not measured is None.

    Attributes:
        context_length: Tokens in a chunk.
        chunks: Chunks.
        tokens: Predictions that were counted.
        perplexity: Of the model on the text.
        perplexity_ratio: Over the reference's; 1 is no loss.
        kl_divergence: Of the model's predictions from the reference's.
        same_top_1: Share of predictions where both find the same token likeliest.
        tasks: Multiple choice.
    """

    model: ModelIdentity
    llama_cpp_python: str
    features: tuple[str, ...]
    reference: ModelIdentity | None = None
    text: TextIdentity | None = None
    context_length: int | None = None
    chunks: int | None = None
    tokens: int | None = None
    perplexity: Average | None = None
    reference_perplexity: Average | None = None
    perplexity_ratio: float | None = None
    perplexity_ratio_standard_error: float | None = None
    kl_divergence: KLDivergence | None = None
    same_top_1: float | None = None
    same_top_1_standard_error: float | None = None
    tasks: TaskScores | None = None


def identify(header: Header) -> ModelIdentity:
    """The identity of a model file."""
    inspection = inspect(header)
    return ModelIdentity(
        file=file_name(bundle_around(header.path) or header.path),
        sha256=sha256(header.path),
        file_bytes=header.file_bytes,
        bits_per_weight=inspection.bits_per_weight,
    )


def identify_text(text: EvaluationText) -> TextIdentity:
    """The identity of a text."""
    return TextIdentity(text.source, file_name(text.path), text.sha256)


def file_name(path: Path) -> str:
    """A file's name as JSON can hold it; bytes that are no UTF-8 become question marks."""
    return path.name.encode("utf-8", "replace").decode("utf-8")


def in_words(mean_divergence: float) -> str:
    """What a mean KL divergence means to somebody who uses the model.

    Judged from SmolLM2-135M, where Q8_0 has 0.0025, Q5_K_M 0.023, Q4_K_M 0.056, Q3_K_M 0.14 and
    Q2_K 0.42.
    """
    return next((words for most, words in _WORDS if mean_divergence < most), _WORST)


def card_path(model: Path) -> Path:
    """Where a card lies by default: beside model.gguf, or packed/, with their name's stem.

    A bundle holds what its manifest lists and no more, so a card lies beside it, even where the
    model inside was named.
    """
    whole = model.resolve() if model.is_dir() else model.absolute()
    if not whole.is_dir():
        whole = bundle_around(whole) or whole
    return whole.with_name((whole.name if whole.is_dir() else whole.stem) + SUFFIX)


@contextmanager
def card_file(path: Path | None) -> Iterator[Callable[[QualityCard], None]]:
    """Yield what writes a card to `path`; that it can be written is known from the start.

    Args:
        path: Where it goes; None for nowhere.

    Raises:
        OutputFailure: it cannot be written.
    """
    if path is None:
        yield lambda _card: None
        return
    with atomic_path(path) as temporary:

        def write(card: QualityCard) -> None:
            text = json.dumps(document(QUALITY_SCHEMA, card), indent=2, ensure_ascii=False)
            with writing(path):
                temporary.write_text(text + "\n", encoding="utf-8")

        yield write
