"""Results of measurements from whatever file they lie in, in one form.

Read are documents of `edgeslm profile --json`, the JSON lines of `edgeslm bench`, llama-bench's
JSON and JSON lines, quality cards (which are joined to results of the same model file), and what
`edgeslm tune` prints. What a source does not tell is None.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeslm.errors import UserError
from edgeslm.files import read_text
from edgeslm.profiling.measurement import (
    Conditions,
    Energy,
    Measurement,
    MemoryUse,
    Speed,
    TokenEnergy,
)
from edgeslm.profiling.sustained import Sustained
from edgeslm.profiling.tuning import Tuning
from edgeslm.records import (
    FAILURE_SCHEMA,
    MEASUREMENT_SCHEMA,
    QUALITY_SCHEMA,
    SUSTAINED_SCHEMA,
    TUNING_SCHEMA,
    from_json,
)

LLAMA_BENCH_SCHEMA = "llama-bench"
"""Stands for the schema of files that llama-bench wrote, which name none."""
LINE_START = '{"schema": "edgeslm.'
"""How each line of `edgeslm bench` begins."""
_AS_IT_IS = "original"
_BROKEN = object()


@dataclass(frozen=True)
class ResultModel:
    """Which model.

    Attributes:
        label: A name for people: the matrix's, the file's own, or its name on disk.
        file: Name of the file, without its folder.
        type: As what it was asked for, "Q4_K_M" or "4.5 bits"; else what the file says it is.
        bits_per_weight: What that truly is.
        described: What llama.cpp calls the model: "llama 135M Q4_1".
    """

    label: str
    file: str
    sha256: str | None
    architecture: str | None
    type: str | None
    bits_per_weight: float | None
    file_bytes: int | None
    parameters: int | None
    described: str | None


@dataclass(frozen=True)
class ResultSettings:
    """How it was measured; `prompt_tokens` and `generated_tokens` are those of a run.

    `budget_seconds` is what the runs were allowed to take, None for no limit.
    """

    threads: int
    prefill_threads: int | None
    kv_type: str
    batch: int
    ubatch: int
    context_length: int | None
    prompt_tokens: int | None
    generated_tokens: int | None
    budget_seconds: float | None = None


@dataclass(frozen=True)
class ResultHost:
    """Where it ran.

    Attributes:
        name: As the matrix calls the host; None for the machine that wrote the file.
        target: The board, by id, None if none.
        build: What ran the model: "llama-cpp-python 0.3.36", "llama.cpp 0c1e570 (10012)".
        commit: Of llama.cpp's source.
    """

    name: str | None
    target: str | None
    cpu: str | None
    cores: int | None
    memory_bytes: int | None
    system: str | None
    build: str
    commit: str | None
    features: tuple[str, ...]


@dataclass(frozen=True)
class ResultDepth:
    """Everything measured with `depth` tokens in the KV cache; None where that was not."""

    depth: int
    prefill: Speed | None
    decode: Speed | None
    prefill_energy: TokenEnergy | None
    decode_energy: TokenEnergy | None


@dataclass(frozen=True)
class Quality:
    """What a quality card says; None where it does not.

    Attributes:
        file: The model it is about.
        reference: The file the model was compared with.
        kl_divergence: Mean, in nats per token.
        kl_standard_error: Of it.
        kl_p99: Of a hundred predictions one is further off.
        accuracy: Share of multiple-choice questions answered right.
    """

    sha256: str
    file: str
    reference: str | None
    tokens: int | None
    kl_divergence: float | None
    kl_standard_error: float | None
    kl_p99: float | None
    perplexity: float | None
    perplexity_ratio: float | None
    same_top_1: float | None
    accuracy: float | None
    source: Path


@dataclass(frozen=True)
class Result:
    """One model with one set of settings on one machine.

    Attributes:
        depths: In rising order.
        memory, energy, conditions: None from llama-bench, which measures none.
        sustained: What speed lasts, if that was measured.
        quality: From a quality card of the same file, if one was read.
        tainted: Whether something spoilt the figures; `taints` say what.
        measured_at: In ISO 8601, UTC.
        cell: The key of the matrix's cell; None outside of `edgeslm bench`.
        round: Which pass over the matrix, from 1.
        source: The file it was read from.
        schema: Of the document, or LLAMA_BENCH_SCHEMA.
    """

    model: ResultModel
    settings: ResultSettings
    host: ResultHost
    depths: tuple[ResultDepth, ...]
    memory: MemoryUse | None
    energy: Energy | None
    conditions: Conditions | None
    sustained: Sustained | None
    quality: Quality | None
    tainted: bool
    taints: tuple[str, ...]
    measured_at: str | None
    cell: str | None
    round: int
    source: Path
    schema: str


@dataclass(frozen=True)
class FailedCell:
    """A cell of a matrix that could not be measured, and not since either."""

    cell: str
    model: str
    type: str
    host: str
    reason: str
    hint: str | None
    source: Path


@dataclass(frozen=True)
class SustainedRun:
    """What `edgeslm tune --sustained --json` printed; it names no model but the file's name."""

    label: str
    sustained: Sustained
    source: Path


@dataclass(frozen=True)
class TuningRun:
    """What `edgeslm tune --json` printed."""

    tuning: Tuning
    source: Path


@dataclass(frozen=True)
class Loaded:
    """All that some files hold.

    Attributes:
        qualities: All cards that were read, those joined to a result too.
        notes: What was left out, and why.
    """

    results: tuple[Result, ...] = ()
    failures: tuple[FailedCell, ...] = ()
    qualities: tuple[Quality, ...] = ()
    sustained: tuple[SustainedRun, ...] = ()
    tunings: tuple[TuningRun, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class _Found:
    """What has been read so far; a cell's newest row counts."""

    results: list[Result] = field(default_factory=list)
    cells: dict[tuple[Path, str], Result | FailedCell] = field(default_factory=dict)
    qualities: dict[str, Quality] = field(default_factory=dict)
    sustained: list[SustainedRun] = field(default_factory=list)
    tunings: list[TuningRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load(paths: Iterable[Path]) -> Loaded:
    """Everything in the files at `paths`, in their order.

    Raises:
        UserError: a file is none of those that can be read.
        EdgeslmError: it cannot be read at all.
    """
    found = _Found()
    for path in paths:
        _read(path, found)
    rows = list(found.cells.values())
    results = [*found.results, *(row for row in rows if isinstance(row, Result))]
    return Loaded(
        results=tuple(
            replace(each, quality=found.qualities.get(each.model.sha256 or "")) for each in results
        ),
        failures=tuple(row for row in rows if isinstance(row, FailedCell)),
        qualities=tuple(found.qualities.values()),
        sustained=tuple(found.sustained),
        tunings=tuple(found.tunings),
        notes=tuple(found.notes),
    )


def documents(path: Path) -> tuple[tuple[Any, ...], bool]:
    """The JSON values of a file: one, or one a line; and whether a last line is half-written.

    Raises:
        UserError: it holds something else.
        EdgeslmError: it cannot be read.
    """
    text = read_text(path)
    try:
        return (json.loads(text),), False
    except RecursionError as error:
        raise _not_results(path, "nested too deeply") from error
    except ValueError as error:
        whole = error
    lines = [line for line in text.split("\n") if line.strip()]
    values = [_value(line) for line in lines]
    broken = [number for number, value in enumerate(values, 1) if value is _BROKEN]
    ours = len(lines) > 1 or text.startswith(LINE_START)
    if broken == [len(lines)] and ours and not text.endswith("\n"):
        return tuple(values[:-1]), True
    if broken:
        why = f"line {broken[0]} is no JSON" if broken[0] > 1 else f"no JSON: {whole}"
        raise _not_results(path, why) from whole
    return tuple(values), False


def _value(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return _BROKEN


def _file_name(path: Path) -> str:
    """The name of a model's file; a blob's says nothing, that of its bundle does."""
    folder = path.parent
    if (folder.parent.name, folder.name) == ("blobs", "sha256"):
        return folder.parent.parent.name or path.name
    return path.name


def from_measurement(
    measurement: Measurement, source: Path, cell: Mapping[str, Any] | None = None
) -> Result:
    """A measurement of ours; `cell` as it stands in a line of `edgeslm bench`."""
    model, settings, host = measurement.model, measurement.settings, measurement.host
    cell = cell or {}
    return Result(
        model=ResultModel(
            label=str(cell.get("model") or model.name or model.path.stem),
            file=_file_name(model.path),
            sha256=model.sha256,
            architecture=model.architecture,
            type=_type_of(cell.get("type")) or model.file_type,
            bits_per_weight=model.bits_per_weight,
            file_bytes=model.file_bytes,
            parameters=model.parameters,
            described=model.llama_cpp_name,
        ),
        settings=ResultSettings(
            threads=settings.threads,
            prefill_threads=settings.prefill_threads,
            kv_type=settings.kv_type,
            batch=settings.batch,
            ubatch=settings.ubatch,
            context_length=settings.context_length,
            prompt_tokens=settings.prompt_tokens,
            generated_tokens=settings.generated_tokens,
            budget_seconds=settings.budget_seconds,
        ),
        host=ResultHost(
            name=cell.get("host"),
            target=host.target,
            cpu=host.cpu,
            cores=host.cores,
            memory_bytes=host.memory_bytes,
            system=host.system,
            build=f"llama-cpp-python {host.llama_cpp_python}",
            commit=host.llama_cpp_commit,
            features=host.features,
        ),
        depths=tuple(
            ResultDepth(
                each.depth, each.prefill, each.decode, each.prefill_energy, each.decode_energy
            )
            for each in sorted(measurement.depths, key=lambda each: each.depth)
        ),
        memory=measurement.memory,
        energy=measurement.energy,
        conditions=measurement.conditions,
        sustained=measurement.sustained,
        quality=None,
        tainted=measurement.tainted,
        taints=measurement.taints,
        measured_at=measurement.measured_at,
        cell=cell.get("key"),
        round=int(cell.get("round", 1)),
        source=source,
        schema=MEASUREMENT_SCHEMA,
    )


def _read(path: Path, found: _Found) -> None:
    values, half = documents(path)
    if half:
        found.notes.append(f"{path}: the last line is half-written and left out")
    if not values:
        found.notes.append(f"{path}: empty")
    try:
        rows = [row for value in values for row in _rows(value)]
        if rows and all(_is_llama_bench(row) for row in rows):
            _add_llama_bench(rows, path, found)
            return
        for row in rows:
            _add(row, path, found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _not_results(path, f"{type(error).__name__}: {str(error)[:200]}") from error


def _rows(value: Any) -> Iterator[Any]:
    """A list of documents, as llama-bench writes, or one."""
    if isinstance(value, list):
        yield from value
    else:
        yield value


def _is_llama_bench(row: Any) -> bool:
    return isinstance(row, Mapping) and "schema" not in row and "model_filename" in row


def _add_llama_bench(rows: list[Any], path: Path, found: _Found) -> None:
    from edgeslm.profiling.llama_bench import read_rows

    results, notes = read_rows(rows, path)
    found.results += results
    found.notes += [f"{path}: {note}" for note in notes]


def _add(row: Any, path: Path, found: _Found) -> None:
    schema = row.get("schema") if isinstance(row, Mapping) else None
    if schema == MEASUREMENT_SCHEMA:
        cell = row.get("cell")
        result = from_measurement(from_json(Measurement, row), path, cell)
        if cell is None:
            found.results.append(result)
        else:
            found.cells[path, str(cell["key"])] = result
    elif schema == FAILURE_SCHEMA:
        failed = _failed(row, path)
        found.cells[path, failed.cell] = failed
    elif schema == QUALITY_SCHEMA:
        quality = _quality(row, path)
        found.qualities[quality.sha256] = quality
    elif schema == SUSTAINED_SCHEMA:
        found.sustained.append(SustainedRun(path.stem, from_json(Sustained, row), path))
    elif schema == TUNING_SCHEMA:
        found.tunings.append(TuningRun(from_json(Tuning, row), path))
    else:
        raise ValueError(f"no results: schema {schema!r}")


def _failed(row: Mapping[str, Any], path: Path) -> FailedCell:
    cell, failure = row["cell"], row["failure"]
    return FailedCell(
        cell=str(cell["key"]),
        model=str(cell["model"]),
        type=_type_of(cell["type"]) or str(cell["type"]),
        host=str(cell["host"]),
        reason=str(failure["reason"]),
        hint=failure["hint"],
        source=path,
    )


def _type_of(asked: Any) -> str | None:
    """The type that a cell asks for, in words; None for the file as it is."""
    if not isinstance(asked, str) or asked == _AS_IT_IS:
        return None
    return f"{asked} bits" if asked[:1].isdigit() else asked


def _quality(card: Mapping[str, Any], path: Path) -> Quality:
    divergence, tasks = card["kl_divergence"] or {}, card["tasks"] or {}
    return Quality(
        sha256=str(card["model"]["sha256"]),
        file=str(card["model"]["file"]),
        reference=None if card["reference"] is None else str(card["reference"]["file"]),
        tokens=card["tokens"],
        kl_divergence=_number(divergence.get("mean")),
        kl_standard_error=_number(divergence.get("standard_error")),
        kl_p99=_number(divergence.get("p99")),
        perplexity=_number((card["perplexity"] or {}).get("value")),
        perplexity_ratio=_number(card["perplexity_ratio"]),
        same_top_1=_number(card["same_top_1"]),
        accuracy=_number((tasks.get("accuracy") or {}).get("value")),
        source=path,
    )


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"no number: {value!r}")
    return float(value)


def _not_results(path: Path, why: str) -> UserError:
    return UserError(
        f"{path}: no results ({why})",
        hint="Name what edgeslm profile --json, bench, evaluate, tune --json or llama-bench wrote.",
    )
