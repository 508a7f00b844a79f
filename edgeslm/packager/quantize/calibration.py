"""The text that calibration sees: a file, or what the model itself says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeslm import progress
from edgeslm.errors import InvalidOption
from edgeslm.llama.model import Model
from edgeslm.packager.evaluate.store import Store
from edgeslm.packager.evaluate.text import kept_sample, text_of_file
from edgeslm.packager.quantize.effort import DEFAULT_SEQUENCES, LENGTH

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHORTEST = 32
_FIRST_SEED = 1000
"""Far from the seeds that evaluation draws its texts with: the two must not share any."""


@dataclass(frozen=True)
class Calibration:
    """Sequences of tokens, and where they come from.

    Attributes:
        tokens: [sequences, length].
        source: "sampled", or the file's name.
        sha256: Of the tokens.
    """

    tokens: NDArray[np.int32]
    source: str
    sha256: str


def calibrate_on_file(model: Model, path: Path, sequences: int = DEFAULT_SEQUENCES) -> Calibration:
    """Sequences from a text file, spread evenly over it.

    Raises:
        EdgeslmError: it cannot be read or is not UTF-8.
        InvalidOption: the text is too short.
    """
    return _cut(model, model.tokenize(text_of_file(path).text), sequences, path.name)


def calibrate_on_itself(
    model: Model,
    model_sha256: str,
    sequences: int = DEFAULT_SEQUENCES,
    threads: int = 1,
    store: Store | None = None,
) -> Calibration:
    """Sequences that the model draws at temperature 1; the same ones each time on one machine.

    Args:
        model: What is to be calibrated.
        model_sha256: Hash of its file.
        sequences: How many of `LENGTH` tokens.
        threads: To compute with.
        store: Where the text is kept for the next time; None for the cache folder.

    Raises:
        Unsupported: the model says next to nothing.
        NativeFailure: llama.cpp failed.
        OutputFailure: the text cannot be kept.
    """
    store = store or Store()
    wanted = sequences * LENGTH
    tokens: list[int] = []
    seed = _FIRST_SEED
    with progress.bar("sampling calibration text", wanted, unit="tokens") as advance:
        while len(tokens) < wanted:
            text = kept_sample(model, model_sha256, store, seed=seed, threads=threads)
            drawn = model.tokenize(text)
            tokens += drawn
            advance(len(drawn))
            seed += 1
    return _cut(model, tokens, sequences, "sampled")


def _cut(model: Model, tokens: list[int], sequences: int, source: str) -> Calibration:
    length = min(LENGTH, model.trained_context_length, len(tokens))
    count = min(sequences, len(tokens) // max(length, 1))
    if length < _SHORTEST or count < 1:
        raise InvalidOption(
            f"{len(tokens)} tokens of calibration text are too few",
            hint="Give a text of some thousand words, or none: then the model's own is taken.",
        )
    starts = np.linspace(0, len(tokens) - length, count).astype(int)
    cut = np.array([tokens[start : start + length] for start in starts], np.int32)
    if model.adds_bos and model.bos is not None:
        cut[:, 0] = model.bos
    return Calibration(cut, source, hashlib.sha256(cut.tobytes()).hexdigest())
