"""The text that models are compared on: a file, or what the reference itself says.

Sampling at temperature 1 draws text with just the probabilities the reference gives it. Such a
text shows a quantized model what its original would say, needs no download, and has no
licence but the model's. Several sequences are decoded together, since one alone would use a
fraction of the processor. The same model gives the same text on the same machine and build.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgeslm.errors import Unsupported
from edgeslm.files import read_text
from edgeslm.llama.context import Batch, Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.native import build_info
from edgeslm.llama.sampler import Sampler, SamplingOptions
from edgeslm.packager.evaluate.chunks import not_yet
from edgeslm.packager.evaluate.store import Store, key_of
from edgeslm.progress import bar

SEQUENCES = 8
LONGEST_TOKENS = 576
"""Tokens per sequence and piece."""
_SAMPLER_VERSION = 1
_LEAST_TOKENS = 32
"""In a piece. A model that gives fewer would need pieces without end."""
_SEPARATOR = "\n\n"
_SAMPLING = SamplingOptions(temperature=1, top_k=0, top_p=1, min_p=0)


@dataclass(frozen=True)
class EvaluationText:
    """A text and where it comes from: `source` is "file" or "sampled"."""

    text: str
    source: str
    path: Path
    sha256: str


def text_of_file(path: Path) -> EvaluationText:
    """A text file; as in llama-perplexity, one line break at its end does not count.

    Raises:
        EdgeslmError: it cannot be read, or is not UTF-8.
    """
    text = read_text(path)
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return EvaluationText(text.removesuffix("\n"), "file", path, digest)


def sampled_text(
    model: Model, model_sha256: str, store: Store, least_tokens: int, threads: int
) -> EvaluationText:
    """Text that `model` says, at least `least_tokens` long; kept for the next time.

    Args:
        model: The reference.
        model_sha256: Hash of its file.
        store: Where pieces of the text, and the whole, are kept.
        least_tokens: What the text must give when it is tokenized.
        threads: How many to compute with.

    Raises:
        Unsupported: it ends its texts before they begin.
        NativeFailure: llama.cpp failed.
        OutputFailure: the text cannot be kept.
    """
    pieces: list[str] = []
    while not pieces or len(model.tokenize(_joined(pieces), add_special=True)) < least_tokens:
        with bar("Sampling a text", total=SEQUENCES * _length(model), unit="tokens") as advance:
            pieces.append(
                kept_sample(
                    model, model_sha256, store, seed=len(pieces), threads=threads, advance=advance
                )
            )
    text = _joined(pieces)
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    path = store.save_text(f"sampled-{digest[:16]}.txt", text)
    return EvaluationText(text, "sampled", path, digest)


def kept_sample(
    model: Model,
    model_sha256: str,
    store: Store,
    *,
    seed: int,
    threads: int,
    advance: Callable[[int], None] | None = None,
) -> str:
    """What `sample` gives for a seed, taken from the store where it is kept.

    Raises:
        Unsupported: the model ends its texts before they begin.
        NativeFailure, OutputFailure: as for `sampled_text`.
    """
    name = f"{key_of('text', _SAMPLER_VERSION, model_sha256, seed, *_build())}.txt"
    piece = store.load_text(name)
    if piece is None:
        piece = sample(model, seed=seed, threads=threads, advance=advance)
        store.save_text(name, piece)
    if len(model.tokenize(piece)) < _LEAST_TOKENS:
        raise Unsupported(
            f"{model.path}: says next to nothing when it may say what it likes",
            hint="Give a text: --text FILE, or --calibration FILE for quantize.",
        )
    return piece


def sample(
    model: Model, *, seed: int, threads: int, advance: Callable[[int], None] | None = None
) -> str:
    """Some thousand tokens of text at temperature 1, in paragraphs.

    Args:
        model: What speaks.
        seed: Another seed gives another text.
        threads: How many to compute with.
        advance: Told how many tokens more there are.

    Raises:
        NativeFailure: llama.cpp failed, or computed no valid probabilities.
    """
    length = _length(model)
    options = ContextOptions(
        length=SEQUENCES * length,
        batch=SEQUENCES,
        ubatch=SEQUENCES,
        threads=threads,
        sequences=SEQUENCES,
        outputs=SEQUENCES,
    )
    with Context(model, options) as context:
        voices = [_Voice(model, seed * SEQUENCES + number) for number in range(SEQUENCES)]
        batch = Batch(SEQUENCES)
        try:
            for _ in range(length):
                batch.clear()
                for number, voice in enumerate(voices):
                    voice.place(context, batch, number)
                context.decode(batch, cancelled=not_yet)
                for number, voice in enumerate(voices):
                    voice.listen(context, number)
                if advance is not None:
                    advance(SEQUENCES)
        finally:
            batch.close()
            for voice in voices:
                voice.close()
    texts = [text.strip() for voice in voices for text in voice.texts()]
    return _joined([text for text in texts if text])


class _Voice:
    """One sequence: it says a text to its end, then begins another."""

    def __init__(self, model: Model, seed: int) -> None:
        self._model = model
        self._sampler = Sampler(model, replace(_SAMPLING, seed=seed % 2**32))
        self._said: list[list[int]] = [[]]
        self._next = _beginning(model)
        self._position = 0

    def place(self, context: Context, batch: Batch, sequence: int) -> None:
        """Add the newest token to the batch."""
        if self._position == 0:
            context.forget(sequence=sequence)
        batch.add(self._next, self._position, sequence=sequence, logits=True)

    def listen(self, context: Context, index: int) -> None:
        """Draw the token that follows, from output row `index`."""
        token = self._sampler.sample(context, index)
        if self._model.ends_generation(token):
            self._said.append([])
            self._next, self._position = _beginning(self._model), 0
        else:
            self._said[-1].append(token)
            self._next, self._position = token, self._position + 1

    def texts(self) -> list[str]:
        """What was said so far, control tokens left out."""
        return [self._model.detokenize(tokens) for tokens in self._said]

    def close(self) -> None:
        """Free the sampler."""
        self._sampler.close()


def _length(model: Model) -> int:
    return min(LONGEST_TOKENS, model.trained_context_length)


def _beginning(model: Model) -> int:
    """The token a text starts after: the one for that, else the one that ended the last text."""
    candidates = (model.bos, model.eos, 0)
    return next(token for token in candidates if token is not None)


def _joined(texts: list[str]) -> str:
    return _SEPARATOR.join(texts)


def _build() -> tuple[str, tuple[str, ...]]:
    build = build_info()
    return build.binding, build.features
