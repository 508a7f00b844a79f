"""A report as text for a terminal, over ssh too: plots of characters, no control codes."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from edgeslm.profiling.report import tables
from edgeslm.profiling.report.content import Entry, Long, Report
from edgeslm.profiling.report.markup import plain
from edgeslm.profiling.report.measures import (
    DECODE,
    ENERGY,
    MEMORY,
    PREFILL,
    Measure,
    energy_is_comparable,
    front,
    quality_measure,
)
from edgeslm.profiling.report.scales import scale, tick_text
from edgeslm.profiling.report.tables import Table
from edgeslm.units import format_seconds, significant

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_STEPS = "▁▂▃▄▅▆▇█"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LEAST, _MOST = 40, 120
_PLOT_ROWS = 12
_TAINTED = " !"


def terminal(report: Report, columns: int, *, blocks: bool = True) -> str:
    """The whole text.

    Args:
        report: What it says.
        columns: As wide as that, within reason.
        blocks: Whether the terminal has the characters that bars are drawn with.
    """
    width = min(max(columns, _LEAST), _MOST)
    return "\n".join(line.rstrip() for line in _lines(report, width, blocks)) + "\n"


def cells_wide(text: str) -> int:
    """Columns that a text takes: two for each wide character, none for a mark on another."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _lines(report: Report, width: int, blocks: bool) -> Iterator[str]:
    yield from _words(report, width)
    entries = report.entries
    results = [each.result for each in entries]
    quality = quality_measure(results)
    measures = [DECODE, PREFILL, MEMORY, *([ENERGY] if energy_is_comparable(results) else [])]
    for measure in (*measures, quality):
        yield from _bars(entries, measure, width, blocks)
    pairs = ((DECODE, quality), (MEMORY, quality), (MEMORY, DECODE))
    plots = (list(_scatter(entries, one, other, width)) for one, other in pairs)
    yield from next((plot for plot in plots if plot), ())
    for long in report.long_runs:
        yield from _over_time(long, width, blocks)
    for table in (tables.differences(report), tables.failures(report), tables.taints(report)):
        yield from _table(table, width)
    if report.notes:
        yield ""
    for note in report.notes:
        yield from _wrapped(f"left out: {note}", width, "  ")


def _words(report: Report, width: int) -> Iterator[str]:
    summary = report.summary
    yield from _wrapped(report.title, width)
    yield "=" * min(cells_wide(plain(report.title)), width)
    yield from _wrapped(summary.lead, width)
    yield ""
    for group in summary.winners:
        if len(summary.winners) > 1:
            yield f"{plain(group.host)}:"
        for best in group.best:
            yield from _wrapped(f"- {best}", width, "  ")
    for warning in summary.warnings:
        yield from _wrapped(f"! {warning}", width, "  ")


def _wrapped(text: str, width: int, indent: str = "", first: str = "") -> Iterator[str]:
    """Lines of at most `width` columns, broken between words where there are any."""
    head, *words = plain(text).split(" ")
    line = first + head
    for word in words:
        if cells_wide(line) + 1 + cells_wide(word) > width:
            yield line
            line = indent + word
        else:
            line = f"{line} {word}"
    yield line


def _bars(entries: Sequence[Entry], measure: Measure, width: int, blocks: bool) -> Iterator[str]:
    rows = [(each, value) for each in entries if (value := measure.value(each.result)) is not None]
    if not rows:
        return
    yield ""
    yield f"{measure.name}" + ("" if measure.higher_is_better else " (less is better)")
    names = [
        _cut(each.name, width // 3) + (_TAINTED if each.result.tainted else "") for each, _ in rows
    ]
    values = [measure.text(value) for _, value in rows]
    left, right = max(map(cells_wide, names)), max(map(len, values))
    room = width - left - right - 4
    largest = max(value for _, value in rows) or 1.0
    for name, text, (_, value) in zip(names, values, rows, strict=True):
        bar = _padded(_bar(value / largest, room, blocks), room)
        yield f"  {_padded(name, left)} {bar} {text:>{right}}"


def _bar(part: float, room: int, blocks: bool) -> str:
    if not blocks:
        return "#" * max(round(part * room), 0)
    eighths = round(part * room * 8)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[rest] if rest else "")


def _scatter(entries: Sequence[Entry], one: Measure, other: Measure, width: int) -> Iterator[str]:
    shown = [
        (index, a / one.divisor, b / other.divisor)
        for index, each in enumerate(entries[: len(_LETTERS)])
        if (a := one.value(each.result)) is not None and (b := other.value(each.result)) is not None
    ]
    if len({(a, b) for _, a, b in shown}) < 2:
        return
    best = front([each.result for each in entries], one, other)
    columns = min(width - 12, 64)
    across = scale([a for _, a, _ in shown], 0, columns - 1, may_be_log=True)
    up = scale([b for _, _, b in shown], _PLOT_ROWS - 1, 0, may_be_log=True)
    grid = [[" "] * columns for _ in range(_PLOT_ROWS)]
    for index, a, b in shown:
        row, column = round(up(b)), round(across(a))
        grid[row][column] = _LETTERS[index] if grid[row][column] == " " else "+"
    ticks = {round(up(tick)): tick_text(tick, max(up.ticks)) for tick in up.ticks}
    yield ""
    yield from _wrapped(f"{other.axis}, against {one.axis}", width)
    for row, line in enumerate(grid):
        yield f"{ticks.get(row, ''):>9} |{''.join(line)}"
    yield f"{'':>9} +{'-' * columns}"
    marks = [" "] * (columns + 8)
    for tick in across.ticks:
        text, at = tick_text(tick, max(across.ticks)), round(across(tick))
        if all(mark == " " for mark in marks[max(at - 1, 0) : at + len(text) + 1]):
            marks[at : at + len(text)] = text
    yield f"{'':>9}  {''.join(marks)}"
    for index, _, _ in shown:
        beaten = "" if index in best else " (beaten in both)"
        yield f"{'':>9}  {_LETTERS[index]} {_cut(entries[index].name, width - 30)}{beaten}"


def _over_time(long: Long, width: int, blocks: bool) -> Iterator[str]:
    run = long.run
    part = run.sustained.median / run.peak if run.peak else 0.0
    yield ""
    yield from _wrapped(
        f"{long.name} for {format_seconds(run.seconds)}: {significant(run.sustained.median)} "
        f"tokens/s in the last third, {part:.0%} of the peak",
        width,
        "  ",
    )
    speeds = [each.tokens_per_second for each in run.windows]
    if not speeds or not blocks:
        return
    room = width - 4
    count = min(room, len(speeds))
    largest = max(speeds) or 1.0
    picked = [speeds[at * len(speeds) // count] for at in range(count)]
    steps = "".join(_STEPS[min(int(8 * speed / largest), 7)] for speed in picked)
    yield f"  {steps}"


def _table(table: Table | None, width: int) -> Iterator[str]:
    """Columns, without their notes if need be; one cell below the other if still too wide."""
    if table is None:
        return
    yield ""
    yield from _wrapped(table.caption, width)
    noted = [
        [plain(f"{cell.text} ({cell.note})" if cell.note else cell.text) for cell in row]
        for row in table.rows
    ]
    bare = [[plain(cell.text) for cell in row] for row in table.rows]
    for rows in (noted, bare):
        columns = list(zip(table.heads, *rows, strict=True))
        widths = [max(map(cells_wide, column)) for column in columns]
        if sum(widths) + 2 * len(widths) <= width:
            for line in zip(*columns, strict=True):
                cells = [_padded(cell, wide) for cell, wide in zip(line, widths, strict=True)]
                yield f"  {'  '.join(cells)}"
            return
    for row in noted:
        yield from _wrapped(row[0], width, "    ", "  ")
        for head, cell in zip(table.heads[1:], row[1:], strict=True):
            if cell:
                yield from _wrapped(f"{head}: {cell}", width, "      ", "    ")


def _cut(text: str, width: int) -> str:
    text = plain(text)
    if cells_wide(text) <= width:
        return text
    while text and cells_wide(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cells_wide(text))
