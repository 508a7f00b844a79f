"""The first words of a report: what was compared, who is best at what, what spoilt it; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edgeslm.packager.evaluate.card import in_words
from edgeslm.profiling.comparison import Verdict, compare
from edgeslm.profiling.report.measures import (
    DECODE,
    DIVERGENCE,
    ENERGY,
    MEMORY,
    PREFILL,
    Measure,
    deciding,
    energy_is_comparable,
    has_meter,
    quality_is_comparable,
    quality_measure,
)
from edgeslm.profiling.report.naming import common, counted
from edgeslm.profiling.results import Result

_Named = tuple[str, str, Result]
"""A result's name, its machine's, and itself."""
_MOST_NAMES = 3


@dataclass(frozen=True)
class Best:
    """Who is best at one thing.

    Attributes:
        what: "Fastest at writing".
        figure: Its value with the unit.
        note: How far the others are, and who cannot be told from it.
    """

    what: str
    name: str
    figure: str
    note: str

    def __str__(self) -> str:
        return f"{self.what}: {self.name}, {self.figure}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Winners:
    """Who is best on one machine."""

    host: str
    best: tuple[Best, ...]


@dataclass(frozen=True)
class Summary:
    """In words.

    Attributes:
        lead: What was compared.
        winners: For each machine.
        warnings: What spoilt the figures, and what they cannot tell.
    """

    lead: str
    winners: tuple[Winners, ...]
    warnings: tuple[str, ...]


def summarise(entries: Sequence[_Named]) -> Summary:
    """What the report says first."""
    hosts = list(dict.fromkeys(host for _, host, _ in entries))
    found = []
    for host in hosts:
        best = tuple(_all_best(_deciding(entries, host)))
        if best:
            found.append(Winners(host, best))
    return Summary(_lead(entries, len(hosts)), tuple(found), tuple(_warnings(entries)))


def listed(items: Sequence[str], most: int = _MOST_NAMES) -> str:
    """Items in a sentence, as in: a, b and 4 more."""
    if len(items) > most:
        items = [*items[: most - 1], f"{len(items) - most + 1} more"]
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _lead(entries: Sequence[_Named], hosts: int) -> str:
    results = [result for _, _, result in entries]
    if not results:
        return "No finished measurement."
    count = counted(len(results), "result")
    models = list(dict.fromkeys(result.model.label for result in results))
    types = list(dict.fromkeys(result.model.type for result in results if result.model.type))
    parts = [f"{count}: {listed(models)}"]
    if len(types) > 1:
        parts.append(f" as {listed(types, 6)}")
    parts.append(f" on {f'{hosts} machines' if hosts > 1 else entries[0][1]}")
    named = {*models, *types, entries[0][1]}
    same = [each for each in common(results) if each not in named]
    if same:
        parts.append(f", {'all ' if len(results) > 1 else ''}with {' and '.join(same)}")
    return f"{''.join(parts)}."


def _deciding(entries: Sequence[_Named], host: str) -> list[_Named]:
    """The entries of one machine that decide who is best on it."""
    group = [entry for entry in entries if entry[1] == host]
    chosen = {id(result) for result in deciding([result for _, _, result in group])}
    return [entry for entry in group if id(entry[2]) in chosen]


def _all_best(group: Sequence[_Named]) -> list[Best]:
    results = [result for _, _, result in group]
    measures = [DECODE, PREFILL, MEMORY]
    if energy_is_comparable(results):
        measures.append(ENERGY)
    if quality_is_comparable(results):
        measures.append(quality_measure(results))
    found = [_best(measure, group) for measure in measures]
    return [each for each in found if each is not None]


def _best(measure: Measure, group: Sequence[_Named]) -> Best | None:
    values = [
        (value, name, result)
        for name, _, result in group
        if (value := measure.value(result)) is not None
    ]
    if len(values) < 2:
        return None
    values.sort(key=lambda each: each[0], reverse=measure.higher_is_better)
    (value, name, result), (last, last_name, _) = values[0], values[-1]
    if value == last:
        return None
    verdicts = _verdicts(measure, result, values[1:])
    alike = [name for name, found in verdicts if found in (Verdict.NO_DIFFERENCE, Verdict.LOWER)]
    unknown = [name for name, found in verdicts if found is Verdict.TOO_FEW]
    notes = [in_words(value)] if measure is DIVERGENCE else []
    if alike:
        notes.append(f"no difference seen to {listed(alike)}")
    if unknown:
        notes.append(f"too few runs to tell it from {listed(unknown)}")
    if last_name not in (*alike, *unknown):
        notes.append(f"last is {last_name} with {measure.text(last)}")
    return Best(measure.best, name, measure.text(value), "; ".join(notes))


def _verdicts(
    measure: Measure, best: Result, others: Sequence[tuple[float, str, Result]]
) -> list[tuple[str, Verdict]]:
    """What the best one's runs say against each of the others'; of what has runs."""
    if measure not in (DECODE, PREFILL):
        return []
    ours = _runs(measure, best)
    rivals = [(name, _runs(measure, result)) for _, name, result in others]
    pairs = [(ours, runs) for _, runs in rivals]
    if not all(runs and min(runs) > 0 for pair in pairs for runs in pair):
        return []
    return [(name, found.verdict) for (name, _), found in zip(rivals, compare(pairs), strict=True)]


def _runs(measure: Measure, result: Result) -> tuple[float, ...]:
    first = result.depths[0]
    speed = first.decode if measure is DECODE else first.prefill
    return () if speed is None else speed.tokens_per_second.samples


def _warnings(entries: Sequence[_Named]) -> list[str]:
    results = [result for _, _, result in entries]
    found = []
    tainted = [name for name, _, result in entries if result.tainted]
    if tainted:
        reasons = Counter(_reason(taint) for each in results for taint in {*each.taints})
        why = "; ".join(reason for reason, _ in reasons.most_common(_MOST_NAMES))
        who = (
            "Every result is tainted"
            if len(tainted) == len(results)
            else f"{len(tainted)} of {len(results)} results "
            f"{'is' if len(tainted) == 1 else 'are'} tainted ({listed(tainted)})"
        )
        found.append(f"{who}: {why}{_what_of_tainted(entries)}.")
    if not quality_is_comparable(results):
        found.append("Quality was judged against different originals or texts: not comparable.")
    found += _energy_warning(results)
    return found


def _what_of_tainted(entries: Sequence[_Named]) -> str:
    """Whether they help to decide who is best; nothing where there are no others."""
    if all(result.tainted for _, _, result in entries):
        return ""
    groups = [_deciding(entries, host) for host in {host for _, host, _ in entries}]
    chosen = [result for group in groups if len(group) > 1 for _, _, result in group]
    if any(result.tainted for result in chosen):
        return "; too few are left without them, so they count"
    return "; the others decide who is best"


def _energy_warning(results: Sequence[Result]) -> list[str]:
    known = [each for each in results if ENERGY.value(each) is not None]
    if not known or energy_is_comparable(results):
        return []
    if not any(has_meter(each.energy) for each in known):
        return ["Energy is estimated from published watts. It repeats the speed: not compared."]
    return ["Energies were read in different ways, or cover different things: not comparable."]


def _reason(taint: str) -> str:
    """A taint without its figures, so that those of one kind are counted together."""
    for words, short in (
        ("other programs took", "other programs computed at the same time"),
        ("held back", "the processor was held back"),
        ("clock", "the clock was not at its highest"),
        ("warming up", "the processor was still warming up"),
        ("swap", "memory came back from swap"),
        ("decode runs differ", "runs differ too much from each other"),
        ("meter died", "the power meter died midway"),
    ):
        if words in taint:
            return short
    return taint
