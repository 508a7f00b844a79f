"""What a report says, before anybody decides how it looks: names, order, comparisons, sources."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeslm.errors import InvalidOption, UserError
from edgeslm.profiling.comparison import Comparison, compare
from edgeslm.profiling.measurement import Speed
from edgeslm.profiling.report.measures import has_meter
from edgeslm.profiling.report.naming import host_name, names
from edgeslm.profiling.report.summary import Summary, summarise
from edgeslm.profiling.results import (
    LLAMA_BENCH_SCHEMA,
    FailedCell,
    Loaded,
    Quality,
    Result,
    SustainedRun,
    TuningRun,
)
from edgeslm.profiling.sustained import Sustained
from edgeslm.profiling.tuning import Tuning
from edgeslm.records import Provenance, Statistic
from edgeslm.units import format_bytes

_MOST = 1e18


@dataclass(frozen=True)
class Entry:
    """A result under the name it has in this report."""

    name: str
    host: str
    result: Result


@dataclass(frozen=True)
class Difference:
    """The runs of one kind of one entry, against the baseline's.

    Attributes:
        what: "writing", "reading at 512".
        alike: Whether both had as many tokens in a run.
    """

    name: str
    what: str
    figures: Statistic
    baseline: Statistic
    comparison: Comparison
    alike: bool


@dataclass(frozen=True)
class Origin:
    """Where the numbers of one or more entries come from, in words."""

    names: tuple[str, ...]
    speed: str
    memory: str
    energy: str
    quality: str


@dataclass(frozen=True)
class Machine:
    """One machine and build, what is known of it line by line, and who ran there."""

    name: str
    facts: tuple[tuple[str, str], ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Long:
    """A sustained run under a name."""

    name: str
    run: Sustained


@dataclass(frozen=True)
class Report:
    """All that a report says.

    Attributes:
        baseline: The name of the entry that the others are compared with; None without two.
        differences: In the order of the entries, writing before reading.
        commands: What measures each of them again.
        notes: What was left out of the files, and why.
    """

    title: str
    summary: Summary
    entries: tuple[Entry, ...]
    baseline: str | None
    differences: tuple[Difference, ...]
    long_runs: tuple[Long, ...]
    tunings: tuple[tuple[str, Tuning], ...]
    failures: tuple[FailedCell, ...]
    machines: tuple[Machine, ...]
    origins: tuple[Origin, ...]
    commands: tuple[str, ...]
    notes: tuple[str, ...]


def build(loaded: Loaded, *, title: str | None = None, baseline: str | None = None) -> Report:
    """The report on all that was read.

    Args:
        loaded: At least one result, sustained run or failure.
        title: Stands above it; default: what was compared.
        baseline: The entry to compare with: its name, its type, or a part of its name that no other
            has; default: the first.

    Raises:
        UserError: nothing was read that could be reported.
        InvalidOption: no entry, or several, are called like `baseline`.
    """
    if not (loaded.results or loaded.sustained or loaded.failures or loaded.tunings):
        raise UserError(
            "nothing to report: the files hold no measurement",
            hint="A quality card is shown beside the measurement of the same file: name both.",
        )
    _refuse_implausible(loaded)
    entries = tuple(
        Entry(name, host_name(result.host), result)
        for name, result in zip(names(loaded.results), loaded.results, strict=True)
    )
    base = _baseline(entries, baseline)
    cards = {each.quality.sha256 for each in loaded.results if each.quality is not None}
    unused = [each for each in loaded.qualities if each.sha256 not in cards]
    return Report(
        title=title or _title(entries),
        summary=summarise([(each.name, each.host, each.result) for each in entries]),
        entries=entries,
        baseline=None if base is None else base.name,
        differences=() if base is None else tuple(_differences(entries, base)),
        long_runs=tuple(_long_runs(loaded, entries)),
        tunings=tuple((each.source.stem, each.tuning) for each in loaded.tunings),
        failures=loaded.failures,
        machines=tuple(_machines(entries)),
        origins=tuple(_origins(entries)),
        commands=tuple(dict.fromkeys(map(_command, loaded.results))),
        notes=(
            *loaded.notes,
            *(f"{each.source}: no measurement of the file it is about" for each in unused),
        ),
    )


def _refuse_implausible(loaded: Loaded) -> None:
    """A file may hold any number; what no machine can have been measured at breaks every axis."""
    read: list[Result | SustainedRun | TuningRun | Quality] = [*loaded.results, *loaded.sustained]
    read += [*loaded.tunings, *loaded.qualities]
    for each in read:
        for number in _numbers(each):
            if not abs(number) <= _MOST:
                raise UserError(
                    f"{each.source}: no measurement: it holds the number {number:g}"[:300],
                    hint="Measure again, or leave the file out.",
                )


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, (int, float)):
        yield min(value, 10**300) if isinstance(value, int) else value
    elif isinstance(value, tuple):
        for item in value:
            yield from _numbers(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _numbers(getattr(value, field.name))


def _title(entries: Sequence[Entry]) -> str:
    models = list(dict.fromkeys(each.result.model.label for each in entries))
    hosts = list(dict.fromkeys(each.host for each in entries))
    if not models:
        return "Measurements"
    what = models[0] if len(models) == 1 else f"{len(models)} models"
    return f"{what} on {hosts[0] if len(hosts) == 1 else f'{len(hosts)} machines'}"


def _baseline(entries: Sequence[Entry], wanted: str | None) -> Entry | None:
    if wanted is None:
        return entries[0] if len(entries) > 1 else None
    for fits in (
        [each for each in entries if each.name == wanted],
        [each for each in entries if wanted in (each.result.model.type, each.result.model.file)],
        [each for each in entries if wanted.lower() in each.name.lower()],
    ):
        if len(fits) == 1:
            return fits[0]
    raise InvalidOption(
        f"--baseline {wanted!r}: {'no result is' if not fits else 'several results are'} called so",
        hint=f"One of: {'; '.join(each.name for each in entries[:8])}"
        + (" ..." if len(entries) > 8 else ""),
    )


def _differences(entries: Sequence[Entry], base: Entry) -> Iterator[Difference]:
    theirs = dict(_speeds(base.result))
    rows = [
        (each.name, what, speed, theirs[what])
        for each in entries
        if each is not base
        for what, speed in _speeds(each.result)
        if what in theirs
    ]
    pairs = [
        (speed.tokens_per_second.samples, other.tokens_per_second.samples)
        for _, _, speed, other in rows
    ]
    for (name, what, speed, other), found in zip(rows, compare(pairs), strict=True):
        yield Difference(
            name,
            what,
            speed.tokens_per_second,
            other.tokens_per_second,
            found,
            alike=speed.tokens == other.tokens,
        )


def _speeds(result: Result) -> Iterator[tuple[str, Speed]]:
    """Those with runs; of what failed to tell a time nothing can be compared."""
    for kind in ("writing", "reading"):
        for each in result.depths:
            speed = each.decode if kind == "writing" else each.prefill
            if speed is None:
                continue
            runs = speed.tokens_per_second.samples
            if runs and min(runs) > 0:
                yield (f"{kind} at {each.depth}" if each.depth else kind), speed


def _long_runs(loaded: Loaded, entries: Sequence[Entry]) -> Iterator[Long]:
    for each in entries:
        if each.result.sustained is not None:
            yield Long(each.name, each.result.sustained)
    for run in loaded.sustained:
        yield Long(run.label, run.sustained)


def _machines(entries: Sequence[Entry]) -> Iterator[Machine]:
    for host in dict.fromkeys(each.result.host for each in entries):
        facts = (
            ("board", host.target),
            ("processor", host.cpu),
            ("cores", None if host.cores is None else f"{host.cores}"),
            ("memory", None if host.memory_bytes is None else format_bytes(host.memory_bytes)),
            ("system", host.system),
            ("runs", host.build),
            ("llama.cpp's commit", host.commit),
            ("instruction sets", ", ".join(host.features) or None),
        )
        yield Machine(
            host_name(host),
            tuple((name, value) for name, value in facts if value is not None),
            tuple(each.name for each in entries if each.result.host == host),
        )


def _origins(entries: Sequence[Entry]) -> Iterator[Origin]:
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for each in entries:
        words = (
            _speed_origin(each.result),
            _memory_origin(each.result),
            _energy_origin(each.result),
            _quality_origin(each.result),
        )
        found.setdefault(words, []).append(each.name)
    for words, called in found.items():
        yield Origin(tuple(called), *words)


def _speed_origin(result: Result) -> str:
    speeds = [speed for _, speed in _speeds(result)]
    runs = {len(speed.tokens_per_second.samples) for speed in speeds}
    counted = f"{min(runs)} to {max(runs)}" if len(runs) > 1 else f"{max(runs, default=0)}"
    if result.schema == LLAMA_BENCH_SCHEMA:
        return f"measured by llama-bench: median of {counted} runs"
    return f"measured: median of {counted} runs after one that does not count"


def _memory_origin(result: Result) -> str:
    if result.memory is None:
        return "unknown: llama-bench measures none"
    return "measured: the kernel's counters of the process, Python included"


def _energy_origin(result: Result) -> str:
    energy = result.energy
    figure = None if energy is None else energy.decode_joules_per_token
    if energy is None or figure is None or figure.value is None:
        return "unknown: no instrument, and no figure of the board"
    label = (figure.provenance or Provenance.ESTIMATED).value
    if not has_meter(energy):
        return f"{label}, not measured: {figure.source or 'no source'}"
    enough = "" if energy.enough_samples is not False else "; runs too short for this meter"
    return f"{label} with {energy.meter}, covers: {energy.scope or 'unknown'}{enough}"


def _quality_origin(result: Result) -> str:
    quality = result.quality
    if quality is None:
        return "unknown: no quality card of this file"
    against = "" if quality.reference is None else f" against {quality.reference}"
    tokens = "" if quality.tokens is None else f", {quality.tokens:,} tokens"
    return f"measured{against}{tokens} ({quality.source.name})"


def _command(result: Result) -> str:
    """What measures it again; of a model quoted as a shell wants it."""
    used, file = result.settings, shlex.quote(result.model.file)
    depths = ",".join(f"{each.depth}" for each in result.depths) or "0"
    runs = max((len(s.tokens_per_second.samples) for _, s in _speeds(result)), default=1)
    prompt, tokens = used.prompt_tokens or 512, used.generated_tokens or 128
    if result.schema == LLAMA_BENCH_SCHEMA:
        keys, _, values = used.kv_type.lower().partition("/")
        return (
            f"llama-bench -m {file} -p {prompt} -n {tokens} -d {depths} -r {runs} "
            f"-t {used.threads} -b {used.batch} -ub {used.ubatch} "
            f"-ctk {shlex.quote(keys)} -ctv {shlex.quote(values or keys)}"
        )
    more = "".join(f" {option} {value:.15g}" for option, value in _limits(result))
    return (
        f"edgeslm profile {file} -p {prompt} -n {tokens} --depth {depths} -r {runs}"
        f"{_threads(result)} --kv-type {shlex.quote(used.kv_type)}{more} --json"
    )


def _threads(result: Result) -> str:
    """The option; none where prefill had others: only what was tuned here can give that."""
    used = result.settings
    return f" --threads {used.threads}" if used.prefill_threads in (None, used.threads) else ""


def _limits(result: Result) -> Iterator[tuple[str, float]]:
    """Options that a result has a number for."""
    limit = None if result.memory is None else result.memory.limit
    given = {
        "--context": result.settings.context_length,
        "--memory-limit": None if limit is None else limit.limit_bytes,
        "--budget": result.settings.budget_seconds,
        "--sustained": None if result.sustained is None else result.sustained.seconds,
    }
    for option, value in given.items():
        if value:
            yield option, value
