"""The tables of a report, before anybody decides how they look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeslm.profiling.report.charts import memory_parts
from edgeslm.profiling.report.content import Difference, Entry, Report
from edgeslm.profiling.report.measures import (
    DECODE,
    ENERGY,
    MEMORY,
    PREFILL,
    Measure,
    deciding,
    energy_is_comparable,
    quality_is_comparable,
    quality_measure,
)
from edgeslm.profiling.report.words import (
    UNKNOWN,
    bits_text,
    bytes_text,
    change_text,
    energy_note,
    energy_text,
    interval_text,
    measure_text,
    range_text,
    speed_text,
    verdict_text,
)
from edgeslm.profiling.results import Result
from edgeslm.units import significant


@dataclass(frozen=True)
class Cell:
    """What stands in a place of a table.

    Attributes:
        note: Below it, smaller.
        value: What it is sorted by; None where text does.
        css: How the page shows it: "number", "words", "top".
        flag: A mark beside it: "tainted".
    """

    text: str
    note: str = ""
    value: float | None = None
    css: str = ""
    flag: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of as many cells as there are heads; the first cell of a row names it."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sortable: bool = False


def results(report: Report) -> Table:
    """Every entry in a row; the best of each column is marked."""
    found = [each.result for each in report.entries]
    quality = quality_measure(found)
    has_quality = any(quality.value(each) is not None for each in found)
    has_energy = any(ENERGY.value(each) is not None for each in found)
    best = _Best(deciding(found), quality)
    heads = ["", "file", "writing, tokens/s", "reading, tokens/s", "peak RAM"]
    heads += ["J per written token"] if has_energy else []
    heads += [quality.axis] if has_quality else []
    rows = []
    for each in report.entries:
        result = each.result
        first = result.depths[0] if result.depths else None
        writing = None if first is None else first.decode
        reading = None if first is None else first.prefill
        cells = [
            _name(each),
            _size(result),
            _cell(DECODE, result, best, speed_text(writing), range_text(writing)),
            _cell(PREFILL, result, best, speed_text(reading), range_text(reading)),
            _cell(MEMORY, result, best, measure_text(MEMORY, result)),
        ]
        if has_energy:
            cells.append(_cell(ENERGY, result, best, energy_text(result), energy_note(result)))
        if has_quality:
            text = measure_text(quality, result)
            cells.append(_cell(quality, result, best, text, _quality_note(result, quality)))
        rows.append(tuple(cells))
    caption = "Medians, with the slowest and the fastest run; at the first depth."
    return Table(caption, tuple(heads), tuple(rows), sortable=True)


def depths(report: Report) -> Table | None:
    """Speeds at each depth; None where nobody measured several."""
    rows = [
        (
            Cell(each.name),
            Cell(f"{depth.depth}", value=float(depth.depth), css="number"),
            Cell(speed_text(depth.decode), range_text(depth.decode), css="number"),
            Cell(speed_text(depth.prefill), range_text(depth.prefill), css="number"),
        )
        for each in report.entries
        if len(each.result.depths) > 1
        for depth in each.result.depths
    ]
    heads = ("", "depth", "writing, tokens/s", "reading, tokens/s")
    caption = "Speed by the tokens that the context holds already."
    return Table(caption, heads, tuple(rows)) if rows else None


def memory(report: Report) -> Table | None:
    """What resident memory consists of; None where nobody measured it."""
    measured = [(each, used) for each in report.entries if (used := each.result.memory) is not None]
    if not measured:
        return None
    places = {(css, name) for _, used in measured for name, css, _ in memory_parts(used)}
    names = [name for _, name in sorted(places)]
    rows = []
    for each, used in measured:
        parts = {name: count for name, _, count in memory_parts(used)}
        rows.append(
            (
                Cell(each.name),
                _bytes(used.peak_rss_bytes),
                _bytes(used.steady_rss_bytes),
                _bytes(used.pss_bytes),
                *(_bytes(parts.get(name)) for name in names),
                Cell("" if used.limit is None else used.limit.summary, css="words"),
            )
        )
    heads = ("", "peak", "after the runs", "PSS", *names, "with little memory")
    if not any(row[-1].text for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return Table("Resident memory of the process.", heads, tuple(rows))


def differences(report: Report) -> Table | None:
    """Each entry's runs against the baseline's; None without any."""
    if not report.differences:
        return None
    rows = tuple(_difference(each) for each in report.differences)
    heads = ("", "what", "tokens/s", "change", "what the runs say")
    level = report.differences[0].comparison.level
    caption = (
        f"Compared with {report.baseline}. Intervals hold the true change in {level:.1%} of cases."
    )
    return Table(caption, heads, rows)


def winners(report: Report) -> Table | None:
    """Who is best at what on each machine; None if there is none, or only one."""
    groups = report.summary.winners
    if len(groups) < 2:
        return None
    what = list(dict.fromkeys(best.what for each in groups for best in each.best))
    rows = []
    for each in groups:
        found = {best.what: best for best in each.best}
        cells = [
            Cell(f"{found[name].name}", found[name].figure, css="words")
            if name in found
            else Cell(UNKNOWN)
            for name in what
        ]
        rows.append((Cell(each.host), *cells))
    return Table("The best on each machine.", ("", *what), tuple(rows))


def tunings(report: Report) -> Table | None:
    """What `edgeslm tune` tried; None without any."""
    rows = tuple(
        (
            Cell(name),
            Cell(finding.setting),
            Cell(trial.value + (" (chosen)" if trial.value == finding.chosen else "")),
            Cell(
                significant(trial.tokens_per_second.median),
                "given up early" if trial.given_up else "",
                css="number",
            ),
        )
        for name, tuning in report.tunings
        for finding in tuning.findings
        for trial in finding.trials
    )
    heads = ("", "setting", "value", "tokens/s")
    return Table("What was tried to find the fastest settings.", heads, rows) if rows else None


def failures(report: Report) -> Table | None:
    """Cells that could not be measured; None if all could."""
    rows = tuple(
        (
            Cell(f"{each.model}, {each.type}"),
            Cell(each.host),
            Cell(each.reason, each.hint or "", css="words"),
        )
        for each in report.failures
    )
    heads = ("", "machine", "why")
    return Table("Could not be measured.", heads, rows) if rows else None


def taints(report: Report) -> Table | None:
    """What spoilt which entry; None if nothing did."""
    rows = tuple(
        (Cell(each.name), Cell("; ".join(each.result.taints), css="words"))
        for each in report.entries
        if each.result.tainted
    )
    caption = "What spoilt these results: they are not what the machine can do."
    return Table(caption, ("", "tainted, because"), rows) if rows else None


def origins(report: Report) -> Table | None:
    """Where each number comes from."""
    rows = tuple(
        (
            Cell("all" if len(each.names) == len(report.entries) else "; ".join(each.names)),
            *(
                Cell(words, css="words")
                for words in (each.speed, each.memory, each.energy, each.quality)
            ),
        )
        for each in report.origins
    )
    heads = ("", "speed", "memory", "energy", "quality")
    return Table("Where the numbers come from.", heads, rows) if rows else None


def _name(entry: Entry) -> Cell:
    return Cell(entry.name, flag="tainted" if entry.result.tainted else "")


def _size(result: Result) -> Cell:
    size = result.model.file_bytes
    value = None if size is None else float(size)
    return Cell(bytes_text(size), bits_text(result), value, css="number")


def _bytes(count: int | None) -> Cell:
    return Cell(bytes_text(count), value=None if count is None else float(count), css="number")


class _Best:
    """The best value of each measure that may be compared, of the results that decide."""

    def __init__(self, results: Sequence[Result], quality: Measure) -> None:
        self._results = results
        measures = [DECODE, PREFILL, MEMORY]
        measures += [ENERGY] if energy_is_comparable(results) else []
        measures += [quality] if quality_is_comparable(results) else []
        self._values: dict[str, float] = {}
        for measure in measures:
            values = [value for each in results if (value := measure.value(each)) is not None]
            if len(values) > 1:
                best = max(values) if measure.higher_is_better else min(values)
                self._values[measure.best] = best

    def has(self, measure: Measure, result: Result) -> bool:
        """Whether none of those that decide is better than this one of them."""
        value = measure.value(result)
        known = value is not None and value == self._values.get(measure.best)
        return known and any(result is each for each in self._results)


def _cell(measure: Measure, result: Result, best: _Best, text: str, note: str = "") -> Cell:
    css = "number top" if best.has(measure, result) else "number"
    return Cell(text, note, measure.value(result), css)


def _quality_note(result: Result, measure: Measure) -> str:
    quality = result.quality
    error = None if quality is None else quality.kl_standard_error
    if quality is None or error is None or measure.value(result) != quality.kl_divergence:
        return ""
    return f"± {significant(error, 2)}"


def _difference(found: Difference) -> tuple[Cell, ...]:
    compared = found.comparison
    return (
        Cell(found.name),
        Cell(found.what),
        Cell(
            significant(found.figures.median),
            f"baseline {significant(found.baseline.median)}",
            css="number",
        ),
        Cell(change_text(compared), interval_text(compared), css="number"),
        Cell(verdict_text(found), f"p = {compared.adjusted_p:.2g}", css="words"),
    )
