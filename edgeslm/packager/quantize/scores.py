"""How much each tensor would lose at each type.

The loss is measured: a sample of the tensor's rows is encoded and decoded by ggml, and the
squared error taken relative to the squared values. That is the noise a matrix product with
this weight gets, relative to its result, whatever the size of the matrix. How much noise in
one place harms the model's answer cannot be seen from the weights; the gains below stand for
it until it is measured on text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeslm import progress
from edgeslm.errors import InvalidGGUF, reading
from edgeslm.gguf.reader import Header, TensorInfo
from edgeslm.gguf.types import TensorType, tensor_type
from edgeslm.llama.rows import decode_rows, encode_rows
from edgeslm.packager.quantize.allocation import Candidate, Options

_TYPES = tuple(
    tensor_type(name)
    for name in (
        *("Q4_0", "Q4_1", "IQ4_NL", "Q5_0", "Q5_1", "Q8_0"),
        *("Q2_K", "Q3_K", "IQ3_S", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "F16"),
    )
)
"""What ordinary weights can be rounded to without an importance matrix. The types that fit
any width and are smaller (Q1_0, Q2_0) are for models trained for them: on others they lose
more than a third of the signal."""

_SAMPLE_ELEMENTS = 32768
_SEED = 20260101

_GAINS = {
    "token_embd": 4.0,
    "output": 4.0,
    "attn_v": 2.0,
    "attn_output": 1.5,
    "ffn_down": 1.5,
}
"""Harm per relative error by role; 1 for the rest. Embeddings and head act on every logit
directly, the others named feed the residual stream, which q, k, gate and up do not."""
_FIRST_LAYERS_GAIN = 2.0
"""What the first and last eighth of the layers count: as in llama.cpp's own mixes."""
_LAYER = re.compile(r"blk\.(\d+)\.(\w+?)\.weight")


def score_tensors(header: Header, names: Collection[str], threads: int | None) -> list[Options]:
    """Measure the tensors called `names` of a file at every type that fits them.

    Raises:
        InvalidGGUF: a tensor holds infinities or what is not a number.
        NotFound: the file is gone.
    """
    tensors = [tensor for tensor in header.tensors if tensor.name in names]
    layers = int(header.hyper("block_count", 1))
    with (
        progress.bar("measuring what each type loses", len(tensors), unit="tensors") as advance,
        ThreadPoolExecutor(threads or os.cpu_count()) as pool,
    ):

        def measure(tensor: TensorInfo) -> Options:
            sample = sample_rows(header.path, tensor)
            gain = _gain(tensor.name, layers)
            candidates = [_candidate(tensor, kind, sample, gain) for kind in types_for(tensor)]
            advance(1)
            return Options(tensor.name, tuple(candidates))

        return list(pool.map(measure, tensors))


def sample_rows(path: Path, tensor: TensorInfo) -> NDArray[np.float32]:
    """[rows, width]: some rows of a tensor, always the same ones.

    Raises:
        InvalidGGUF: the rows hold infinities or what is not a number.
        NotFound: the file is gone.
    """
    width = tensor.shape[0]
    count = tensor.elements // width
    wanted = min(count, max(8, _SAMPLE_ELEMENTS // width))
    picked = np.sort(np.random.default_rng(_SEED).choice(count, wanted, replace=False))
    with reading(path):
        shape = (count, tensor.type.bytes_for((width,)))
        rows = np.memmap(path, np.uint8, "r", tensor.offset, shape)[picked]
    values = decode_rows(tensor.type, rows, width)
    if not np.isfinite(values).all():
        raise InvalidGGUF(
            f"{path}: tensor {tensor.name} holds infinities or what is not a number",
            hint="The file is damaged: convert or download it again.",
        )
    return values


def types_for(tensor: TensorInfo) -> tuple[TensorType, ...]:
    """What a tensor could become: stay as it is, or any smaller type that fits its width.

    F32 weights do not stay; F16 holds them as well as any model needs.
    """
    smaller = tuple(
        kind
        for kind in _TYPES
        if kind.fits(tensor.shape) and kind.bytes_for(tensor.shape) < tensor.bytes
    )
    return smaller if smaller and tensor.type.name == "F32" else (tensor.type, *smaller)


def _candidate(
    tensor: TensorInfo, kind: TensorType, sample: NDArray[np.float32], gain: float
) -> Candidate:
    error = 0.0 if kind == tensor.type else relative_error(sample, kind)
    return Candidate(kind, kind.bytes_for(tensor.shape), gain * error)


def relative_error(sample: NDArray[np.float32], kind: TensorType) -> float:
    """Sum of squared errors of rows encoded as `kind`, over the sum of squares."""
    decoded = decode_rows(kind, encode_rows(kind, sample), sample.shape[1])
    lost = np.square(decoded - sample, dtype=np.float64).sum()
    total = np.square(sample, dtype=np.float64).sum()
    return float(lost / total) if total > 0 else 0.0


def _gain(name: str, layers: int) -> float:
    match = _LAYER.fullmatch(name)
    if match is None:
        return _GAINS.get(name.removesuffix(".weight"), 1.0)
    layer, role = int(match[1]), match[2]
    edge = layers // 8
    at_edge = layer < edge or layer >= layers - edge
    return _GAINS.get(role, 1.0) * (_FIRST_LAYERS_GAIN if at_edge else 1.0)
