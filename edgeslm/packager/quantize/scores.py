"""How much each tensor would lose at each type, in nats of KL divergence to first order.

A sample of a tensor's rows is truly encoded at every type, with error feedback along each row,
and the errors judged by the tensor's forms. The final encoding does better, since rows answer
each other there and more is reconsidered, but much alike for all types. To that comes what
rounding activations to 8 bits costs, which depends on the type too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeslm import progress
from edgeslm.errors import reading, writing
from edgeslm.files import atomic_path
from edgeslm.gguf.reader import TensorInfo
from edgeslm.gguf.types import TensorType, tensor_type
from edgeslm.packager.quantize.candidates import Candidate, Options
from edgeslm.packager.quantize.encoders import Forms, compiled, encode_as, room_for
from edgeslm.packager.quantize.threads import FORMS_BYTES, Room, one_blas_thread
from edgeslm.packager.quantize.weights import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

FormsOf = Callable[[str], Forms]

VERSION = 3
"""Raised when the same forms give other scores than before."""
_ALL_WIDTHS = ("Q2_0", "MXFP4", "Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
_WIDE = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K")
_WIDE_HIGH = ("IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "F16")
CHOICES = tuple(map(tensor_type, (*_ALL_WIDTHS, *_WIDE, *_WIDE_HIGH)))
"""What ordinary weights can be rounded to. Left out are types for models trained for them (Q1_0,
TQ1_0, TQ2_0), the one-bit codebooks, which lose most of the signal, and NVFP4, which takes the
bytes of IQ4_NL."""
LAST_RESORT = frozenset({"Q2_0"})
"""Types that llama.cpp has no fast code for on x86 (Q2_0: 0.5 GB/s on one core that reads Q4_0
with 17, as `edgeslm targets calibrate` measured)."""
_NEED_FEEDBACK = frozenset({"Q2_0", "MXFP4"})
"""Types that only error feedback with scales of its own makes useful."""
_NEED_CALIBRATION = frozenset({"IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})
"""Types that ggml encodes badly, or not at all, without an importance of each column."""
_SAMPLED_ROWS, _LEAST_ROWS, _USUAL_WIDTH = 48, 12, 4096
"""A row takes time by its width squared: of wider ones than usual fewer are sampled."""
_LIKELY_ROWS = 256
_SEED = 20260101
_SWEEPS = 1


def types_for(tensor: TensorInfo, *, calibrated: bool) -> tuple[TensorType, ...]:
    """What a tensor could become: stay as it is, or any smaller type that fits its width.

    F32 weights do not stay; F16 holds them as well as any model needs.
    """
    excluded = frozenset() if calibrated else _NEED_FEEDBACK | _NEED_CALIBRATION
    if not compiled():
        excluded |= _NEED_FEEDBACK
    smaller = tuple(
        kind
        for kind in CHOICES
        if kind.fits(tensor.shape)
        and kind.bytes_for(tensor.shape) < tensor.bytes
        and kind.name not in excluded
    )
    return smaller if smaller and tensor.type.name == "F32" else (tensor.type, *smaller)


def unscored(tensors: Sequence[TensorInfo], calibrated: Collection[str]) -> list[Options]:
    """Every type each tensor could get, without knowing what that loses.

    Args:
        tensors: The tensors that may change.
        calibrated: Names of those whose inputs will be known.
    """
    return [
        Options(
            tensor.name,
            tuple(
                Candidate(kind, kind.bytes_for(tensor.shape), 0.0)
                for kind in types_for(tensor, calibrated=tensor.name in calibrated)
            ),
        )
        for tensor in tensors
    ]


def score_tensors(
    weights: Weights,
    names: Collection[str],
    forms_of: FormsOf,
    threads: int,
    kept: Path | None = None,
) -> list[Options]:
    """Measure the tensors called `names` at every type that fits them.

    Args:
        weights: The model.
        names: Tensors that may change their type.
        forms_of: How errors in each are judged.
        threads: How many tensors to measure at a time.
        kept: Folder for finished scores, which are then not computed again.

    Raises:
        InvalidGGUF: a tensor holds infinities or what is not a number.
        NotFound: the file is gone.
    """
    tensors = [tensor for tensor in weights.header.tensors if tensor.name in names]
    room = Room(FORMS_BYTES)
    with (
        progress.bar("measuring what each type loses", len(tensors), unit="tensors") as advance,
        ThreadPoolExecutor(threads) as pool,
        one_blas_thread(),
    ):

        def measure(tensor: TensorInfo) -> Options:
            path = kept / f"{tensor.name}.json" if kept else None
            scores = _stored(path) if path else None
            if scores is None:
                with room.taken(room_for((tensor.shape[0], _SAMPLED_ROWS))):
                    scores = _scores(weights, tensor, forms_of(tensor.name))
                if path:
                    _store(path, scores)
            advance(1)
            kinds = (tensor_type(name) for name in scores)
            return Options(
                tensor.name,
                tuple(
                    Candidate(kind, kind.bytes_for(tensor.shape), scores[kind.name])
                    for kind in kinds
                ),
            )

        return list(pool.map(measure, tensors))


def _scores(weights: Weights, tensor: TensorInfo, forms: Forms) -> dict[str, float]:
    picked, counts = _sample(tensor, forms)
    rows = weights.read(tensor, picked)
    scores = {}
    scaled = tensor.name in weights.rows or tensor.name in weights.columns
    for kind in types_for(tensor, calibrated=forms.inputs is not None):
        if kind == tensor.type and not scaled:
            scores[kind.name] = forms.activation_noise(kind)
            continue
        losses = encode_as(kind, rows, forms, coupled=False, sweeps=_SWEEPS).losses
        loss = forms.scale * float(np.dot(losses, counts))
        scores[kind.name] = loss + forms.activation_noise(kind)
    return scores


def _sample(tensor: TensorInfo, forms: Forms) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Some rows, always the same ones, and how much each one's loss counts for all."""
    width = tensor.shape[0]
    count = tensor.elements // width
    weights = np.asarray(forms.row_weights(count), np.float64)
    rng = np.random.default_rng(_SEED)
    if forms.factored_outputs is not None or forms.rows is None:
        wanted = max(_LEAST_ROWS, min(_SAMPLED_ROWS, _SAMPLED_ROWS * _USUAL_WIDTH // width))
        picked = np.sort(rng.choice(count, min(wanted, count), replace=False))
        return picked, weights[picked] * (weights.sum() / max(weights[picked].sum(), 1e-300))
    chance = weights / max(weights.sum(), 1e-300)
    picked = np.unique(rng.choice(count, _LIKELY_ROWS, p=chance))
    return picked, weights[picked] / (1 - (1 - chance[picked]) ** _LIKELY_ROWS)


def _stored(path: Path) -> dict[str, float] | None:
    if not path.exists():
        return None
    with reading(path):
        scores: dict[str, float] = json.loads(path.read_text())
    return scores


def _store(path: Path, scores: dict[str, float]) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, writing(path):
        temporary.write_text(json.dumps(scores))
