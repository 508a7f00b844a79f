"""A ladder: one model packed at several widths, each measured against its source.

    OUT/4-bits/              a bundle for each rung
    OUT/4-bits.quality.json  its quality card, which lies in the bundle too
    OUT/ladder.json          all rungs in one document
    OUT/pareto.svg           quality against size

What is found out about the model, and tensors that get the same type in several rungs, are
computed once. A rung appears when it is complete; run again, what is there is kept.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm import progress
from edgeslm.bundle.contents import Contents
from edgeslm.bundle.model_path import find_model
from edgeslm.bundle.names import MODEL_NAME
from edgeslm.bundle.planning import Parts
from edgeslm.bundle.replacing import ensure_replaceable
from edgeslm.bundle.verification import verify_bundle
from edgeslm.bundle.writing import write_bundle
from edgeslm.errors import (
    InvalidBundle,
    InvalidOption,
    NotFound,
    OutputFailure,
    Unsupported,
    reading,
    writing,
)
from edgeslm.estimate.prediction import predict
from edgeslm.files import atomic_path, scratch_folder, sha256
from edgeslm.gguf.reader import Header
from edgeslm.gguf.validation import read_model
from edgeslm.packager.extras import Extras, Found, look_beside
from edgeslm.packager.pipeline import as_gguf
from edgeslm.packager.quantize import Effort, Wishes
from edgeslm.packager.quantize.limits import Demands
from edgeslm.records import LADDER_SCHEMA, QUALITY_SCHEMA, Prediction, document
from edgeslm.targets.target import Target
from edgeslm.targets.writing import target_toml

if TYPE_CHECKING:
    from edgeslm.packager.evaluate import QualityCard, Reference
    from edgeslm.packager.quantize.mix import Session

LADDER_NAME, PLOT_NAME = "ladder.json", "pareto.svg"
_CHUNK_TOKENS = 512
_MOST_BYTES = 2**20
_HINT = "Choose another place, or remove it yourself first."


@dataclass(frozen=True)
class MadeWith:
    """What all rungs have in common; another ladder is another directory."""

    source_sha256: str
    target: str
    context_length: int | None
    kv_type: str | None
    quick: bool
    calibration_sha256: str | None
    """Of the file; None for text that the model says itself."""
    calibration_sequences: int
    text_sha256: str | None
    """Of the file that rungs are measured on; None for text that the source says itself."""


@dataclass(frozen=True)
class Quality:
    """How near a rung is to its source."""

    expected_kl_divergence: float | None
    """Nats per token that the choice of types foresaw; None where it knew too little."""
    kl_divergence: float
    """Nats per token, measured."""
    kl_divergence_standard_error: float
    same_top_1: float
    perplexity_ratio: float


@dataclass(frozen=True)
class Rung:
    """One packed model of a ladder."""

    bits: float
    """As asked for; the file has at most so many."""
    directory: str
    card: str
    sha256: str
    file_bytes: int
    bits_per_weight: float | None
    quality: Quality
    prediction: Prediction


@dataclass(frozen=True)
class Ladder:
    """The content of ladder.json: rungs by rising width."""

    made_with: MadeWith
    rungs: tuple[Rung, ...]


@dataclass(frozen=True)
class LadderResult:
    """A ladder, and what there is to say about how it was made."""

    path: Path
    ladder: Ladder
    plot: Path | None
    """None where nothing could be drawn."""
    warnings: tuple[str, ...]


def pack_ladder(
    model: Path,
    output: Path,
    widths: Sequence[float],
    *,
    target: Target,
    context_length: int | None = None,
    kv_type: str | None = None,
    effort: Effort | None = None,
    text: Path | None = None,
) -> LadderResult:
    """Pack a model at each of `widths` bits per weight, and measure what each one loses.

    Args:
        model: A Hugging Face checkpoint, a GGUF file or a bundle.
        output: The directory; new, empty, or an earlier ladder made with the same settings.
        widths: Bits per weight; those that no mix reaches are left out with a warning.
        target: The board it is for.
        context_length: Tokens of context predictions are for; None for the target's default.
        kv_type: The type of the KV cache they are for; None for the target's default.
        effort: How much to find out before mixes are chosen.
        text: What rungs are measured on; None for text that the source says itself.

    Raises:
        UserError: the model or an option is wrong, or no mix reaches any of the widths.
        Failure: a step failed.
    """
    from edgeslm.packager.quantize.mix import changing

    effort = effort or Effort()
    made = MadeWith(
        source_sha256="",
        target=target.id,
        context_length=context_length,
        kv_type=kv_type,
        quick=effort.quick,
        calibration_sha256=sha256(effort.calibration) if effort.calibration else None,
        calibration_sequences=effort.sequences,
        text_sha256=sha256(text) if text else None,
    )
    _refuse_foreign(output)
    texts = look_beside(model, Extras())
    with scratch_folder(output) as folder:
        source = read_model(as_gguf(model, folder / "converted.gguf"))
        made = dataclasses.replace(made, source_sha256=sha256(source.path))
        job = _Job(source, output, folder, target, made, effort, text, texts)
        predict(source, target, context_length=context_length, kv_type=kv_type)  # can it be?
        names = changing(source)
        demands, warnings = _reachable(job, names, widths)
        done = job.finished()
        missing = {bits: asked for bits, asked in demands.items() if bits not in done}
        if missing:
            with _kept_if_used(output):
                warnings += job.climb(names, missing, done)
        ladder = job.record(done)
        plot, notes = _plot(ladder.rungs, output / PLOT_NAME)
    unique = tuple(dict.fromkeys([*warnings, *notes]))
    return LadderResult(output, ladder, plot, unique)


@dataclass(frozen=True)
class _Job:
    """What each rung is made from and for."""

    source: Header
    output: Path
    scratch: Path
    target: Target
    made: MadeWith
    effort: Effort
    text: Path | None
    texts: Found

    def finished(self) -> dict[float, Rung]:
        """Rungs of an earlier run that are there and undamaged.

        Raises:
            OutputFailure: that run had other settings.
        """
        found = _read_ladder(self.output / LADDER_NAME)
        if found is None:
            return {}
        made = found.get("made_with")
        ours = dataclasses.asdict(self.made)
        if made != ours:
            other = made if isinstance(made, dict) else {}
            names = ", ".join(key for key in ours if other.get(key) != ours[key])
            raise OutputFailure(
                f"cannot write {self.output}: it holds a ladder made with another {names}",
                hint=_HINT,
            )
        entries = found.get("rungs")
        rungs = (self._again(entry) for entry in (entries if isinstance(entries, list) else ()))
        return {rung.bits: rung for rung in rungs if rung is not None}

    def climb(
        self, names: Collection[str], missing: Mapping[float, Demands], done: dict[float, Rung]
    ) -> list[str]:
        """Make the missing rungs and put them into `done`; gives warnings."""
        from edgeslm.packager.evaluate import Reference
        from edgeslm.packager.quantize.mix import session

        length = min(_CHUNK_TOKENS, int(self.source.hyper("context_length", _CHUNK_TOKENS)))
        reference = Reference(
            self.source.path, self.text, length=length, threads=self.effort.threads
        )
        warnings: list[str] = []
        with session(self.source, names, self.effort) as work:
            for number, (bits, demands) in enumerate(missing.items(), 1):
                progress.note(f"rung {number} of {len(missing)}: {bits:g} bits per weight")
                done[bits], notes = self._rung(work, reference, bits, demands)
                warnings += notes
                self.record(done)
            work.forget_encoded()
        return warnings

    def record(self, done: Mapping[float, Rung]) -> Ladder:
        """Write ladder.json."""
        ladder = Ladder(self.made, tuple(done[bits] for bits in sorted(done)))
        path = self.output / LADDER_NAME
        text = json.dumps(document(LADDER_SCHEMA, ladder), indent=2, ensure_ascii=False) + "\n"
        with atomic_path(path) as temporary, writing(path):
            temporary.write_text(text, encoding="utf-8")
        return ladder

    def _rung(
        self, work: Session, reference: Reference, bits: float, demands: Demands
    ) -> tuple[Rung, Sequence[str]]:
        from edgeslm.packager.evaluate import evaluate_against
        from edgeslm.packager.evaluate.card import card_file

        name = _name_of(bits)
        packed = self.scratch / MODEL_NAME
        result = work.write(work.choose(demands), packed, keep_encoded=True)
        card = evaluate_against(reference, packed)
        prediction = self._predict(packed)
        with writing(self.output):
            self.output.mkdir(exist_ok=True)
        contents = write_bundle(self.output / name, self._parts(packed, prediction, card))
        with card_file(self.output / f"{name}.quality.json") as write:
            write(card)
        quality = _quality(card, result.predicted_kld)
        return _as_rung(bits, name, contents, quality, prediction), result.warnings

    def _parts(self, packed: Path, prediction: Prediction, card: QualityCard) -> Parts:
        return Parts(
            model=packed,
            prediction=prediction,
            move=True,
            target=target_toml(self.target),
            license=self.texts.license,
            card=self.texts.card,
            quality=document(QUALITY_SCHEMA, card),
        )

    def _predict(self, packed: Path) -> Prediction:
        return predict(
            read_model(packed),
            self.target,
            context_length=self.made.context_length,
            kv_type=self.made.kv_type,
        )

    def _again(self, entry: object) -> Rung | None:
        """A rung of an earlier run, if it is there and undamaged."""
        quality = _stored_quality(entry)
        if quality is None or not isinstance(entry, dict):
            return None
        bits = entry.get("bits")
        if not isinstance(bits, float | int) or isinstance(bits, bool):
            return None
        name = _name_of(bits)
        folder = self.output / name
        if not (self.output / f"{name}.quality.json").is_file():
            return None
        try:
            contents = verify_bundle(folder).contents
        except (InvalidBundle, NotFound):
            return None
        if contents.model.sha256 != entry.get("sha256"):
            return None
        prediction = self._predict(find_model(folder))
        return _as_rung(float(bits), name, contents, quality, prediction)


def _reachable(
    job: _Job, names: Collection[str], widths: Sequence[float]
) -> tuple[dict[float, Demands], list[str]]:
    """What can be asked for, by rising width, and a warning for each width that cannot.

    Raises:
        InvalidOption: none of them can.
    """
    demands: dict[float, Demands] = {}
    refusals = []
    for bits in sorted({_name_of(bits): bits for bits in widths}.values()):
        asked = _demands(job, names, bits)
        if isinstance(asked, InvalidOption):
            refusals.append(asked)
        else:
            demands[bits] = asked
    if not demands:
        raise refusals[-1] if refusals else InvalidOption("no rungs", hint="Try --ladder 4,5,6,8.")
    return demands, [f"left out: {error.message}" for error in refusals]


def _demands(job: _Job, names: Collection[str], bits: float) -> Demands | InvalidOption:
    """What can be asked for, or why it cannot."""
    from edgeslm.packager.quantize.mix import demands_of

    made = job.made
    wishes = Wishes(bits=bits, context_length=made.context_length, kv_type=made.kv_type)
    try:
        return demands_of(job.source, names, wishes, job.target, quick=job.effort.quick)
    except InvalidOption as error:
        return error


def _name_of(bits: float) -> str:
    """A rung's directory; widths that read alike are one rung."""
    return f"{bits:g}-bits"


def _as_rung(
    bits: float, name: str, contents: Contents, quality: Quality, prediction: Prediction
) -> Rung:
    return Rung(
        bits=bits,
        directory=name,
        card=f"{name}.quality.json",
        sha256=contents.model.sha256,
        file_bytes=contents.model.file_bytes,
        bits_per_weight=contents.model.bits_per_weight,
        quality=quality,
        prediction=prediction,
    )


def _quality(card: QualityCard, expected: float | None) -> Quality:
    divergence = card.kl_divergence
    assert divergence is not None  # noqa: S101  there is a reference
    assert card.same_top_1 is not None  # noqa: S101
    assert card.perplexity_ratio is not None  # noqa: S101
    return Quality(
        expected_kl_divergence=expected,
        kl_divergence=divergence.mean,
        kl_divergence_standard_error=divergence.standard_error,
        same_top_1=card.same_top_1,
        perplexity_ratio=card.perplexity_ratio,
    )


def _stored_quality(entry: object) -> Quality | None:
    """The figures of an entry in ladder.json; None where somebody changed their form."""
    stored = entry.get("quality") if isinstance(entry, dict) else None
    names = [field.name for field in dataclasses.fields(Quality)]
    if not isinstance(stored, dict) or sorted(stored) != sorted(names):
        return None
    values = {key: value for key, value in stored.items() if isinstance(value, float | int)}
    absent = {key for key, value in stored.items() if value is None}
    if len(values) + len(absent) != len(names) or absent - {"expected_kl_divergence"}:
        return None
    return Quality(**{name: values.get(name) for name in names})  # type: ignore[arg-type]


def _read_ladder(path: Path) -> dict[str, Any] | None:
    """ladder.json, or None where there is none.

    Raises:
        OutputFailure: it is something else.
    """
    with reading(path):
        if not path.exists():
            return None
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("schema") != LADDER_SCHEMA:
        raise OutputFailure(f"cannot write {path}: it is there and no {LADDER_SCHEMA}", hint=_HINT)
    return found


def _refuse_foreign(output: Path) -> None:
    """Return if nothing would be lost: no directory, or one of a ladder's rungs only.

    Raises:
        OutputFailure: something else is there; the message names it.
    """
    with writing(output):
        if not output.exists():
            return
        if not output.is_dir():
            raise OutputFailure(f"cannot write {output}: it is a file", hint=_HINT)
        children = sorted(output.iterdir())
    for path in children:
        if path.name.endswith("-bits") and path.is_dir():
            ensure_replaceable(path)
        elif path.name not in (LADDER_NAME, PLOT_NAME) and not path.name.endswith(
            ("-bits.quality.json", ".tmp")
        ):
            raise OutputFailure(f"cannot write {output}: it also holds {path.name}", hint=_HINT)
    _read_ladder(output / LADDER_NAME)


@contextmanager
def _kept_if_used(directory: Path) -> Iterator[None]:
    """Remove the directory again if nothing came into it."""
    try:
        yield
    finally:
        with suppress(OSError):
            directory.rmdir()


def _plot(rungs: Sequence[Rung], path: Path) -> tuple[Path | None, list[str]]:
    """Draw the rungs; where that cannot be done, say why."""
    from edgeslm.packager.quantize.explain import Point, Series
    from edgeslm.packager.quantize.plots import save_pareto_plot

    points = [
        Point(f"{rung.bits:g} bits", rung.file_bytes, rung.quality.kl_divergence)
        for rung in rungs
        if rung.quality.kl_divergence > 0
    ]
    if not points:
        return None, [f"no {path.name}: no rung loses anything"]
    try:
        save_pareto_plot([Series("edgeslm", points)], path)
    except Unsupported as error:
        return None, [f"no {path.name}: {error.message}"]
    return path, []
