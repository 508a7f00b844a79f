"""A report as Markdown: the same words and tables, without charts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgeslm.profiling.report import tables
from edgeslm.profiling.report.content import Machine, Report
from edgeslm.profiling.report.markup import plain
from edgeslm.profiling.report.method import METHOD
from edgeslm.profiling.report.tables import Cell, Table
from edgeslm.units import format_seconds, significant

_SPECIAL = re.compile(
    r"[\\`*\[\]|~$@]|(?<![^\W_])_|_(?![^\W_])|(?<=\w):(?=/)|(?<=www)\.", re.IGNORECASE
)
"""What begins or ends a style, a link, a cell; one underscore within a word does not."""


def markdown(report: Report) -> str:
    """The whole file."""
    return "\n".join(_lines(report)).rstrip("\n") + "\n"


def escape(text: str) -> str:
    """`text` so that Markdown shows it as it is, and no part of it as HTML, a link or a table."""
    words = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", words)


def _lines(report: Report) -> Iterator[str]:
    summary = report.summary
    yield f"# {escape(report.title)}\n"
    yield f"{escape(summary.lead)}\n"
    if len(summary.winners) == 1:
        for best in summary.winners[0].best:
            note = f" ({escape(best.note)})" if best.note else ""
            yield f"- **{best.what}:** {escape(best.name)}, {escape(best.figure)}{note}"
        yield ""
    yield from _table(tables.winners(report))
    for warning in summary.warnings:
        yield f"> {escape(warning)}\n"
    for title, table in (
        ("Results", tables.results(report) if report.entries else None),
        ("Speed by depth", tables.depths(report)),
        ("Memory", tables.memory(report)),
        ("What differs", tables.differences(report)),
        ("Tuning", tables.tunings(report)),
        ("Not measured", tables.failures(report)),
        ("What spoilt results", tables.taints(report)),
    ):
        if table is not None:
            yield f"## {title}\n"
            yield from _table(table)
    yield from _long_runs(report)
    yield from _machines(report.machines)
    yield "## Method\n"
    yield from _table(tables.origins(report))
    for words in METHOD:
        yield f"{words}\n"
    yield from _ending(report)


def _long_runs(report: Report) -> Iterator[str]:
    if not report.long_runs:
        return
    yield "## What lasts\n"
    rows = []
    for each in report.long_runs:
        run = each.run
        heat = "–" if run.hottest_celsius is None else f"{run.hottest_celsius:.0f} °C"
        rows.append(
            (
                Cell(each.name),
                Cell(format_seconds(run.seconds), css="number"),
                Cell(significant(run.peak), css="number"),
                Cell(significant(run.sustained.median), css="number"),
                Cell(heat, css="number"),
                Cell(", ".join(run.held_back) or "nothing"),
            )
        )
    heads = ("", "for", "peak, tokens/s", "last third, tokens/s", "hottest", "held back by")
    yield from _table(Table("Writing without a pause.", heads, tuple(rows)))


def _machines(machines: tuple[Machine, ...]) -> Iterator[str]:
    if machines:
        yield "## Machines\n"
    for machine in machines:
        yield f"**{escape(machine.name)}**\n"
        for name, value in machine.facts:
            yield f"- {name}: {escape(value)}"
        if len(machines) > 1:
            yield f"- ran: {escape('; '.join(machine.names))}"
        yield ""


def _ending(report: Report) -> Iterator[str]:
    if report.commands:
        yield "## Measure it again\n"
        for command in report.commands:
            yield f"    {plain(command)}"
        yield ""
    if report.notes:
        yield "## Left out\n"
        for note in report.notes:
            yield f"- {escape(note)}"


def _table(table: Table | None) -> Iterator[str]:
    if table is None:
        return
    yield f"{escape(table.caption)}\n"
    heads = [escape(head) or " " for head in table.heads]
    kinds = [
        "---:" if table.rows and "number" in table.rows[0][at].css.split() else "---"
        for at in range(len(heads))
    ]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join(kinds)}|"
    for row in table.rows:
        yield f"| {' | '.join(map(_cell, row))} |"
    yield ""


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    if "top" in cell.css.split():
        text = f"**{text}**"
    if cell.flag:
        text += f" ({cell.flag})"
    return f"{text} ({escape(cell.note)})" if cell.note else text
