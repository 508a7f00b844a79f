"""The physical model with its factors fitted to every row there is, ready for use.

Fitting takes a second or two and the rows change rarely, so the result lies beside them
(`targets/rows/fitted.json`, written by `scripts/bench_predict --write`) and is used while the rows
are those it was fitted to. With other rows, such as a contributed one, it is fitted anew once and
kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from edgeslm.errors import EdgeslmError
from edgeslm.estimate.physics import Machine, Priors, decode_terms, machine_of, prefill_terms
from edgeslm.estimate.regression import (
    Observation,
    Posterior,
    Term,
    from_plain,
    most_probable,
    to_plain,
)
from edgeslm.estimate.rows import Row, all_rows
from edgeslm.estimate.work import Work
from edgeslm.files import atomic_path, cache_folder
from edgeslm.gguf import types
from edgeslm.records import Provenance
from edgeslm.targets.loading import boards, data_directory, shipped_targets
from edgeslm.targets.target import Target

_USUAL_ERROR = 0.06
"""Relative error of a published row as the fit takes it: its noise, and what the model ignores."""
_LEFT_OVER: Mapping[str, float] = {"decode": 0.06, "prefill": 0.1}
"""What stays of the error where all factors are known: chosen so that nine in ten rows of models
that were left out lie in the interval (`scripts/bench_predict`)."""
_NINE_IN_TEN = 1.645
_FILE = "fitted.json"
_MODULES = [
    *("cache", "config", "mixes", "physics", "regression", "rows", "shapes", "speed_model", "work")
]
_SCHEMA = "edgeslm.fitted/1"
PHASES = ("decode", "prefill")


class Interval(NamedTuple):
    """Tokens per second, or another rate: nine of ten lie between `low` and `high`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fitted:
    """Both phases, and what they rest on.

    Attributes:
        decode, prefill: The factors of each.
        sources: How many rows each board has, by source.
        types: How many rows have a type among their main ones, by phase, kind of cores and type.
        priors: What was known beforehand.
    """

    decode: Posterior
    prefill: Posterior
    sources: Mapping[str, Mapping[str, int]]
    types: Mapping[str, Mapping[str, Mapping[str, int]]]
    priors: Priors

    def speed(self, phase: str, terms: Sequence[Term], machine: Machine) -> Interval:
        """Tokens per second of `machine` from the terms of a token's seconds."""
        posterior = self.decode if phase == "decode" else self.prefill
        seconds, deviation = posterior.predict(terms, self.priors.including(machine))
        width = math.exp(_NINE_IN_TEN * math.hypot(deviation, _LEFT_OVER[phase]))
        return Interval(1 / seconds, 1 / (seconds * width), width / seconds)

    def rows_by_type(self, phase: str, machine: Machine, work: Work) -> dict[str, int]:
        """How many rows of cores of this kind have the types that most weights of `work` are of."""
        rows = self.types[phase].get(machine.kind, {})
        return {name: rows.get(name, 0) for name in main_types(_weights(phase, work))}


def main_types(weights: Mapping[str, int]) -> list[str]:
    """Those that more than a hundredth of the weights are of, most first."""
    least = sum(weights.values()) / 100
    return sorted(
        (name for name in weights if weights[name] > least), key=lambda name: -weights[name]
    )


def _weights(phase: str, work: Work) -> Mapping[str, int]:
    return work.multiplied if phase == "decode" else work.prompt


def rests_on_rows(target: Target) -> bool:
    """Whether the fit speaks for `target`: rows of its board are there, and no own measurement."""
    return not is_calibrated(target) and target.board in fitted().sources


def is_calibrated(target: Target) -> bool:
    """Whether the target's own figures were measured on the machine that it describes."""
    figures = (
        figure
        for kernel in target.kernels.values()
        for figure in (kernel.decode_gigabytes_per_second, kernel.prefill_gigaflops)
    )
    own = (Provenance.MEASURED, Provenance.CALIBRATED)
    return any(figure.provenance in own for figure in figures)


def fit_rows(rows: Iterable[Row], targets: Mapping[str, Target]) -> Fitted:
    """Fit both phases to `rows`; `targets` by the ids that the rows name.

    Rows of boards that are not among them, such as a contributor's own, are left out.
    """
    rows = tuple(row for row in rows if row.target in targets)
    priors = Priors({target.board: machine_of(target) for target in (*boards(), *targets.values())})
    found = {
        phase: most_probable(
            [
                Observation(
                    tuple(terms_of(row, phase, targets[row.target])),
                    1 / getattr(row, phase),
                    math.hypot(_USUAL_ERROR, row.doubt),
                )
                for row in rows
                if getattr(row, phase) is not None
            ],
            priors,
        )
        for phase in PHASES
    }
    sources: dict[str, Counter[str]] = {}
    for row in rows:
        sources.setdefault(targets[row.target].board, Counter())[row.source] += 1
    types = {phase: _types(phase, rows, targets) for phase in PHASES}
    return Fitted(found["decode"], found["prefill"], sources, types, priors)


def _types(
    phase: str, rows: Sequence[Row], targets: Mapping[str, Target]
) -> dict[str, Counter[str]]:
    """How many rows have a type among their main ones, by kind of cores."""
    types: dict[str, Counter[str]] = {}
    for row in rows:
        if getattr(row, phase) is not None:
            kind = _machine(row, targets[row.target]).kind
            types.setdefault(kind, Counter()).update(main_types(_weights(phase, row.work)))
    return types


def predicted(found: Fitted, row: Row, phase: str, target: Target) -> Interval:
    """Tokens per second that `found` expects where `row` was measured."""
    return found.speed(phase, terms_of(row, phase, target), _machine(row, target))


def _machine(row: Row, target: Target) -> Machine:
    return machine_of(target, threads=row.threads, cores=row.cores, name=row.machine, blas=row.blas)


def terms_of(row: Row, phase: str, target: Target) -> list[Term]:
    """What a row's seconds per token are a sum of."""
    machine = _machine(row, target)
    if phase == "decode":
        return decode_terms(machine, row.work, row.depth)
    return prefill_terms(machine, row.work, row.prefill_depth)


def targets_of(rows: Iterable[Row]) -> dict[str, Target]:
    """The shipped boards that rows name; a user's own files have no say in a shared fit."""
    shipped = shipped_targets()
    return {row.target: shipped[row.target] for row in rows if row.target in shipped}


@lru_cache(maxsize=1)
def fitted() -> Fitted:
    """The fit to all rows: the one beside them, one from the cache, or a new one.

    Raises:
        InvalidTarget: a file of rows breaks its schema.
    """
    digest = rows_digest()
    kept = cache_folder("fitted")
    for path in (data_directory() / "rows" / _FILE, kept and kept / f"{digest}.json"):
        if path and (found := _read(path, digest)):
            return found
    rows = all_rows()
    found = fit_rows(rows, targets_of(rows))
    if kept:
        with suppress(EdgeslmError, OSError):
            kept.mkdir(parents=True, exist_ok=True)
            write_fitted(found, kept / f"{digest}.json", digest)
    return found


def write_fitted(found: Fitted, path: Path, digest: str) -> None:
    """Keep a fit in a file.

    Raises:
        OutputFailure: it cannot be written.
    """
    content = {
        "schema": _SCHEMA,
        "rows": digest,
        "sources": found.sources,
        "types": found.types,
        "decode": to_plain(found.decode),
        "prefill": to_plain(found.prefill),
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def rows_digest() -> str:
    """A hash of all files that the fit follows from: rows, boards, and the model's own code."""
    folder = data_directory()
    data = [
        path
        for pattern in ("*.toml", "rows/*.toml", "community/*.json")
        for path in sorted(folder.glob(pattern))
    ]
    code = [Path(__file__).with_name(f"{name}.py") for name in _MODULES]
    state = hashlib.sha256()
    for path in (*data, *code, Path(types.__file__)):
        state.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()


def _read(path: Path, digest: str) -> Fitted | None:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        if content["schema"] != _SCHEMA or content["rows"] != digest:
            return None
        priors = Priors({target.board: machine_of(target) for target in boards()})
        decode, prefill = (from_plain(content[phase], priors) for phase in PHASES)
        return Fitted(decode, prefill, content["sources"], content["types"], priors)
    except (OSError, ValueError, KeyError, TypeError):
        return None
