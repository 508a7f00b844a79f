"""Quantize to a budget: each tensor gets the type that serves the whole file best.

Calibrate, score every tensor at every type, allocate under the limits, encode, write. What takes
long is kept by content: a run that was killed, or another budget for the same model and text, goes
on from there.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from edgeslm import progress
from edgeslm.errors import InvalidOption, Unsupported
from edgeslm.estimate.work import shares_read
from edgeslm.files import cache_folder, exclusive, sha256
from edgeslm.gguf.reader import Header
from edgeslm.gguf.types import ALIGNMENT_KEY, DEFAULT_ALIGNMENT, TensorType
from edgeslm.gguf.validation import read_model
from edgeslm.llama.model import Model
from edgeslm.llama.quantizer import quantizable_tensors
from edgeslm.packager.quantize.allocation import Allocation, marginal
from edgeslm.packager.quantize.calibration import (
    Calibration,
    calibrate_on_file,
    calibrate_on_itself,
)
from edgeslm.packager.quantize.candidates import Options
from edgeslm.packager.quantize.decoder import shape_of
from edgeslm.packager.quantize.effort import Effort
from edgeslm.packager.quantize.encoders import way
from edgeslm.packager.quantize.judge import (
    INPUT_DAMPING,
    Judge,
    judge_by_gains,
    judge_by_study,
    study_folder,
)
from edgeslm.packager.quantize.label import label_of
from edgeslm.packager.quantize.limits import Demands, demands_for
from edgeslm.packager.quantize.plain import write_plain
from edgeslm.packager.quantize.recipe import MadeFor, Recipe, Replay
from edgeslm.packager.quantize.result import QuantizeResult, describe
from edgeslm.packager.quantize.rules import compress
from edgeslm.packager.quantize.scores import LAST_RESORT, VERSION, score_tensors, unscored
from edgeslm.packager.quantize.weights import Weights
from edgeslm.packager.quantize.wishes import Wishes
from edgeslm.packager.quantize.write import forget_encoded, write_mix
from edgeslm.targets.target import Target

_NEARLY_ALL = 0.99


@dataclass(frozen=True)
class Mix:
    """A chosen mix, before it is written.

    Attributes:
        words: What was asked for.
        types: Of each tensor that may change.
        losses: Nats that are expected to be lost in each.
        price: Nats that one more byte would save, to first order.
        warnings: What the user should know.
    """

    words: str
    types: Mapping[str, TensorType]
    losses: Mapping[str, float] = field(default_factory=dict)
    price: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def loss(self) -> float | None:
        """Nats of KL divergence to expect in all."""
        return sum(self.losses.values()) if self.losses else None


@dataclass(frozen=True)
class Session:
    """A model that is being quantized, once or to several budgets."""

    header: Header
    names: Collection[str]
    effort: Effort
    judge: Judge
    calibration: Calibration | None
    source_sha256: str

    @cached_property
    def options(self) -> list[Options]:
        """Every tensor at every type, scored once for all mixes."""
        kept = self.judge.folder / f"scores-{VERSION}-{way()}" if self.judge.folder else None
        judge, threads = self.judge, self.effort.threads
        return score_tensors(judge.weights, self.names, judge.forms_of, threads, kept)

    def choose(self, demands: Demands) -> Mix:
        """The best mix that meets the demands.

        Raises:
            InvalidOption: there is none.
        """
        options, allocation, notes = _allocated(demands, self.options)
        chosen = list(zip(options, allocation.chosen, strict=True))
        if self.judge.note:
            notes.append(self.judge.note)
        notes += [*demands.warnings(options, allocation), *_unspent(demands, options, allocation)]
        return Mix(
            words=demands.words,
            types={item.tensor: candidate.type for item, candidate in chosen},
            losses={item.tensor: candidate.score for item, candidate in chosen},
            price=marginal(allocation).score_per_megabyte / 1e6,
            warnings=tuple(notes),
        )

    def replayed(self, recipe: Recipe, types: Mapping[str, TensorType]) -> Mix:
        """The mix that a recipe asks for, `types` being what it gives this model's tensors."""
        made, own = recipe.made_for.calibration_sha256, self.calibration
        notes = []
        if made is not None and own is not None and made != own.sha256:
            notes.append(
                f"recipe {recipe.name!r} was made on another calibration text: "
                "the types are the same, the bytes are not"
            )
        return Mix(f"recipe {recipe.name!r}", types, warnings=tuple(notes))

    def recipe(self, mix: Mix, wishes: Wishes) -> Recipe:
        """A mix as something to save, share and edit."""
        name = self.header.get("general.name")
        known = name if isinstance(name, str) else None
        calibration = self.calibration
        return Recipe(
            name=f"{known or self.header.path.stem}, {mix.words}",
            rules=compress(mix.types),
            made_for=MadeFor(
                model=known,
                source_sha256=self.source_sha256,
                size_bytes=wishes.size_bytes,
                bits_per_weight=wishes.bits,
                predicted_kld=mix.loss,
                calibration_sha256=calibration.sha256 if calibration else None,
            ),
            replay=Replay(
                encoder="error-feedback" if calibration else "ggml",
                damping=INPUT_DAMPING if calibration else None,
                calibration_tokens=calibration.tokens.size if calibration else None,
            ),
        )

    def write(self, mix: Mix, output: Path, *, keep_encoded: bool = False) -> QuantizeResult:
        """Encode and write a mix; gives what is in the file.

        Args:
            mix: Which type each tensor gets.
            output: Where the file appears once it is complete.
            keep_encoded: Another mix follows, which may need tensors in the same types.

        Raises:
            OutputFailure: the output cannot be written.
        """
        started = time.perf_counter()
        threads = self.effort.threads
        if self.effort.quick:
            label = label_of(self.header, mix.types)
            write_plain(self.header, mix.types, output, threads, label)
        else:
            write_mix(self.judge, mix.types, output, threads, keep_encoded=keep_encoded)
        written = read_model(output)
        return describe(
            self.header,
            written,
            requested=mix.words,
            warnings=mix.warnings,
            predicted_kld=mix.loss,
            encoding_seconds=time.perf_counter() - started,
        )

    def forget_encoded(self) -> None:
        """No further mix follows."""
        forget_encoded(self.judge)


def changing(header: Header) -> frozenset[str]:
    """Names of the tensors that a mix has types for.

    Raises:
        Unsupported: the file cannot be quantized to a mix.
        NativeFailure: llama.cpp refused it or crashed.
    """
    if header.alignment != DEFAULT_ALIGNMENT:
        raise Unsupported(
            f"{header.path}: {ALIGNMENT_KEY} is {header.alignment}; only {DEFAULT_ALIGNMENT} can "
            "be written",
            hint="Convert the checkpoint again.",
        )
    return quantizable_tensors(header.path)


def demands_of(
    header: Header,
    names: Collection[str],
    wishes: Wishes,
    target: Target | None,
    *,
    quick: bool = False,
) -> Demands:
    """What is asked for, refused at once where no mix can meet it.

    Args:
        header: The model.
        names: What `changing` gave.
        wishes: What is asked for.
        target: The board it is for.
        quick: Without calibration, which some types need.

    Raises:
        InvalidOption: an impossible or contradictory wish.
    """
    demands = demands_for(header, wishes, target)
    tensors = [tensor for tensor in header.tensors if tensor.name in names]
    demands.refuse_impossible(unscored(tensors, () if quick else _calibrated(header, names)))
    return demands


def _calibrated(header: Header, names: Collection[str]) -> Collection[str]:
    """The tensors whose inputs calibration will know."""
    try:
        shape_of(Weights(header))
    except Unsupported:
        shares = shares_read(header)  # what is looked up is multiplied with nothing to be seen
        flat = (tensor.name for tensor in header.tensors if len(tensor.shape) == 2)
        return [name for name in flat if name in names and shares[name]]
    return names


@contextmanager
def session(header: Header, names: Collection[str], effort: Effort) -> Iterator[Session]:
    """Find out what there is to know of a model; finished work is kept in the cache folder.

    Others that work on the same model and text wait until the block ends.

    Args:
        header: The model.
        names: What `changing` gave.
        effort: How much to find out.

    Raises:
        EdgeslmError: the calibration text cannot be read, or something failed.
    """
    weights = Weights(header)
    digest = sha256(header.path)
    if effort.quick:
        yield Session(header, names, effort, judge_by_gains(weights), None, digest)
        return
    with _work_folder() as cache, ExitStack() as held:
        with Model(header.path) as model:
            calibration = _calibration(model, digest, effort)
            folder = study_folder(cache, digest, calibration)
            held.enter_context(exclusive(folder, _say_that_we_wait))
            judge = judge_by_study(weights, model, calibration, folder, effort.threads)
        yield Session(header, names, effort, judge, calibration, digest)


def _say_that_we_wait() -> None:
    progress.note("another edgeslm works on this model: waiting until it is done")


@contextmanager
def _work_folder() -> Iterator[Path]:
    cache = cache_folder("quantize")
    if cache is not None:
        yield cache
        return
    with tempfile.TemporaryDirectory(prefix="edgeslm-") as folder:
        yield Path(folder)


def _calibration(model: Model, model_sha256: str, effort: Effort) -> Calibration:
    if effort.calibration is not None:
        return calibrate_on_file(model, effort.calibration, effort.sequences)
    return calibrate_on_itself(model, model_sha256, effort.sequences, effort.threads)


def _allocated(
    demands: Demands, options: list[Options]
) -> tuple[list[Options], Allocation, list[str]]:
    """The best mix, with types that are slow on common machines only if nothing else will do."""
    usual = [
        dataclasses.replace(
            item,
            candidates=tuple(c for c in item.candidates if c.type.name not in LAST_RESORT),
        )
        for item in options
    ]
    with suppress(InvalidOption):
        return usual, demands.allocate(usual), []
    names = " and ".join(sorted(LAST_RESORT))
    note = f"nothing but {names} makes it that small; llama.cpp computes it slowly on x86"
    return options, demands.allocate(options), [note]


def _unspent(demands: Demands, options: list[Options], allocation: Allocation) -> list[str]:
    """That the budget is larger than anything the file could become."""
    limit = demands.limits(options).bytes
    if limit is None or demands.by_seconds or allocation.bytes >= limit * _NEARLY_ALL:
        return []
    return [f"the file is smaller than {demands.words}: no larger mix would lose less"]
