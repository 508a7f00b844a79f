"""How much each tensor would lose at each type.

The loss is measured: a sample of the tensor's rows is encoded and decoded by ggml, and the
squared error taken relative to the squared values. That is the noise a matrix product with
this weight gets, relative to its result, whatever the size of the matrix. How much noise in
one place harms the model's answer cannot be seen from the weights; the gains below, measured
once on one model, stand for it.
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
    "attn_q": (0.03, 0.09, 0.02),
    "attn_k": (0.02, 0.09, 0.02),
    "attn_v": (0.28, 0.40, 0.15),
    "attn_qkv": (0.28, 0.40, 0.15),
    "attn_output": (0.10, 0.07, 0.04),
    "ffn_gate": (0.09, 0.10, 0.18),
    "ffn_up": (0.15, 0.15, 0.50),
    "ffn_down": (0.47, 0.32, 0.81),
}
"""Nats of KL divergence per unit of relative error, by role, in the first eighth of the
layers, the middle, and the last eighth. Measured on SmolLM2-135M with one group of tensors
at a time in Q4_0 and the rest in F16, on 768 tokens of English prose. For other models
they are a prior: better than none, and than the same for all."""
_OTHER_GAIN = 0.2
_HEAD_GAIN = 5.7
"""The same for the matrix that makes the logits, which a tied embedding is."""
_LAYER = re.compile(r"blk\.(\d+)\.(\w+?)\.weight")


def score_tensors(header: Header, names: Collection[str], threads: int | None) -> list[Options]:
    """Measure the tensors called `names` of a file at every type that fits them.

    Raises:
        InvalidGGUF: a tensor holds infinities or what is not a number.
        NotFound: the file is gone.
    """
    tensors = [tensor for tensor in header.tensors if tensor.name in names]
    layers = int(header.hyper("block_count", 1))
    tied = all(tensor.name != "output.weight" for tensor in header.tensors)
    with (
        progress.bar("measuring what each type loses", len(tensors), unit="tensors") as advance,
        ThreadPoolExecutor(threads or os.cpu_count()) as pool,
    ):

        def measure(tensor: TensorInfo) -> Options:
            sample = sample_rows(header.path, tensor)
            gain = _gain(tensor.name, layers, tied=tied)
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


def _gain(name: str, layers: int, *, tied: bool) -> float:
    """How much an error in this tensor harms the model's answer, relative to others."""
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return _HEAD_GAIN
    match = _LAYER.fullmatch(name)
    if match is None:
        return _OTHER_GAIN
    layer, edge = int(match[1]), layers // 8
    part = 0 if layer < edge else 2 if layer >= layers - edge else 1
    gains = _GAINS.get(match[2].removesuffix("_exps"))
    return gains[part] if gains else _OTHER_GAIN
