"""How errors in each tensor are judged, by the best that is known of the model.

Families whose gradients are known get a study: forms of columns and rows, and equalization. For
others the inputs are watched in llama.cpp's own forward pass, which gives the form of the columns;
how much a tensor's noise harms the answer is then taken from one model that was measured.
Without calibration all columns count alike.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeslm import progress
from edgeslm.errors import Unsupported, reading, writing
from edgeslm.files import atomic_path
from edgeslm.llama.activations import watch_inputs
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.packager.quantize.calibration import Calibration
from edgeslm.packager.quantize.decoder import Block, Shape, norm, shape_of
from edgeslm.packager.quantize.encoders import Forms
from edgeslm.packager.quantize.encoders.forms import Form, factor
from edgeslm.packager.quantize.result import is_quantized
from edgeslm.packager.quantize.sensitivity import EMBEDDING, HEAD, HEAD_NORM, embed
from edgeslm.packager.quantize.study import VERSION, Study
from edgeslm.packager.quantize.weights import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

INPUT_DAMPING = 0.05
OUTPUT_DAMPING = 0.3
"""Relative to the mean of the diagonal. Of 0.01 to 0.2 and 0.02 to 0.5 none was better."""
_AGREEMENT = 0.05
"""Most that our logits may differ from llama.cpp's, in standard deviations of them."""
_COMPARED_TOKENS = 48
_HEAD_OUTPUTS = 64
_MOST_FORM_BYTES = 2 * 10**9
"""Forms that are summed up at a time; more of them take more passes."""

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
_LAYER = re.compile(r"blk\.(\d+)\.(\w+?)\.weight")


@dataclass(frozen=True)
class Judge:
    """The weights as they will be encoded, and how their errors count.

    Attributes:
        weights: The model, equalized where that is known to be safe.
        forms_of: The forms of one tensor, by name.
        folder: Where finished work of this judge is kept; None for nowhere.
        note: What the user should know; None where everything is known.
        coupled: Names of the matrices in which rows interact.
    """

    weights: Weights
    forms_of: Callable[[str], Forms]
    folder: Path | None
    note: str | None = None
    coupled: frozenset[str] = frozenset()


def judge_by_gains(weights: Weights) -> Judge:
    """Without calibration: every column alike, tensors by their role."""
    return Judge(weights, lambda name: _by_gain(weights, name), None)


def _by_gain(weights: Weights, name: str) -> Forms:
    """Every column alike, the whole by the tensor's role."""
    signal = sum(float(np.square(part).sum()) for part in weights.pieces(name))
    return Forms(None, scale=_scale(weights, name, signal))


def study_folder(cache: Path, model_sha256: str, calibration: Calibration) -> Path:
    """Where the results for a model and a text are kept."""
    identity = f"{VERSION} {model_sha256} {calibration.sha256}"
    return cache / hashlib.sha256(identity.encode()).hexdigest()[:24]


def judge_by_study(
    weights: Weights, model: Model, calibration: Calibration, folder: Path, threads: int
) -> Judge:
    """With calibration: by gradients where the family's are known, else by inputs alone.

    Args:
        weights: The model as it is in the file.
        model: The same, loaded.
        calibration: What it reads.
        folder: Where results for these two are kept.
        threads: To compute with.

    Raises:
        OutputFailure: the cache cannot be written.
        NativeFailure: llama.cpp failed.
    """
    try:
        shape = shape_of(weights)
        if not Study.begun(folder):  # then it was seen to agree
            _refuse_disagreement(weights, shape, model, calibration)
    except Unsupported as error:
        note = f"{error.message}: tensors are weighed by what was found on another model"
        judge = _judge_by_inputs(weights, model, calibration, folder, threads)
        return dataclasses.replace(judge, note=note)
    study = Study(folder, weights, shape, calibration.tokens, threads)
    equalized = study.run()
    covered = study.names()

    def forms_of(name: str) -> Forms:
        if name not in covered:
            return _by_gain(equalized, name)
        found = study.without_outputs(name)
        inputs = factor(found.inputs, INPUT_DAMPING)
        if name not in study.coupled:
            return Forms(inputs, found.rows, 0.5, found.noise)

        def outputs() -> Form:
            return factor(study.outputs_of(name), OUTPUT_DAMPING)

        return Forms(inputs, found.rows, 0.5, found.noise, outputs)

    return Judge(equalized, forms_of, folder, coupled=study.coupled)


def _refuse_disagreement(
    weights: Weights, shape: Shape, model: Model, calibration: Calibration
) -> None:
    """Our forward pass against llama.cpp's, on a few tokens.

    Raises:
        Unsupported: the logits differ; something of this model is not known here.
    """
    header = weights.header
    tokens = calibration.tokens[0, :_COMPARED_TOKENS].tolist()
    x = embed(weights, shape, tokens)
    for index in range(len(shape.layers)):
        x = Block(shape, index, weights.block(index), len(tokens)).forward(x)
    y, _ = norm(x[-1:], weights.vector(HEAD_NORM), shape.epsilon)
    head = weights.matrix(HEAD if weights.find(HEAD) else EMBEDDING)
    ours = (y @ head.T)[0]
    with Context(model, ContextOptions(length=len(tokens))) as context:
        context.prefill(tokens)
        theirs = context.logits().copy()
    difference = np.abs(ours - theirs)
    # llama.cpp rounds what meets quantized weights, which moves every logit a little
    worst = np.sqrt(np.square(difference).mean()) if is_quantized(header) else difference.max()
    if not float(worst) <= _AGREEMENT * float(theirs.std()):
        raise Unsupported(
            f"this {shape.architecture} model computes something that is not known here"
        )


def _judge_by_inputs(
    weights: Weights, model: Model, calibration: Calibration, folder: Path, threads: int
) -> Judge:
    """The mean outer product of each weight's input, from llama.cpp."""
    names = [
        tensor.name
        for tensor in weights.header.tensors
        if len(tensor.shape) == 2 and tensor.name.endswith(".weight")
    ]
    missing = [name for name in names if not _form_file(folder, name).exists()]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    groups = _groups(weights, missing)
    total = len(groups) * len(calibration.tokens)
    with progress.bar("watching what weights are multiplied with", total) as advance:
        for group in groups:
            _watch(model, calibration, group, folder, threads, advance)

    def forms_of(name: str) -> Forms:
        path = _form_file(folder, name)
        if not path.exists():  # experts: each sees other tokens
            return _by_gain(weights, name)
        with reading(path):
            matrix = np.load(path)
        if matrix.size == 0:
            return _by_gain(weights, name)
        form = factor(matrix, INPUT_DAMPING)
        signal = 0.0
        for values in weights.pieces(name):
            signal += float(np.einsum("ij,ij->", values @ form.matrix, values))
        return Forms(form, scale=_scale(weights, name, signal))

    return Judge(weights, forms_of, folder)


def _form_file(folder: Path, name: str) -> Path:
    return folder / f"inputs-{name}.npy"


def _groups(weights: Weights, names: Sequence[str]) -> list[list[str]]:
    """The names in groups whose forms fit into memory together."""
    groups: list[list[str]] = []
    room = 0
    for name in names:
        tensor = weights.find(name)
        assert tensor is not None  # noqa: S101  the names come from there
        size = 4 * tensor.shape[0] ** 2
        if size > room:
            groups.append([])
            room = _MOST_FORM_BYTES
        groups[-1].append(name)
        room -= size
    return groups


def _watch(
    model: Model,
    calibration: Calibration,
    group: Sequence[str],
    folder: Path,
    threads: int,
    advance: progress.Advance,
) -> None:
    sums: dict[str, Array] = {}
    counts: dict[str, int] = {}

    def add(name: str, x: Array) -> None:
        product = x.T @ x
        sums[name] = sums[name] + product if name in sums else product
        counts[name] = counts.get(name, 0) + len(x)

    watch_inputs(
        model,
        calibration.tokens.tolist(),
        frozenset(group),
        add,
        threads=threads,
        outputs=_HEAD_OUTPUTS,
        advance=advance,
    )
    for name in group:
        path = _form_file(folder, name)
        found = sums[name] / counts[name] if name in sums else np.zeros((0, 0), np.float32)
        with atomic_path(path) as temporary, writing(path), temporary.open("wb") as file:
            np.save(file, found)


def _scale(weights: Weights, name: str, signal: float) -> float:
    """Nats per unit of the form, `signal` being the form's value for the weights themselves."""
    return _gain(weights, name) / signal if signal > 0 else 0.0


def _gain(weights: Weights, name: str) -> float:
    """How much relative noise in this tensor's product harms the answer."""
    if name == HEAD or (name == EMBEDDING and weights.find(HEAD) is None):
        return _HEAD_GAIN
    match = _LAYER.fullmatch(name)
    if match is None:
        return _OTHER_GAIN
    layers = int(weights.header.hyper("block_count", 1))
    layer, edge = int(match[1]), layers // 8
    part = 0 if layer < edge else 2 if layer >= layers - edge else 1
    gains = _GAINS.get(match[2].removesuffix("_exps"))
    return gains[part] if gains else _OTHER_GAIN
