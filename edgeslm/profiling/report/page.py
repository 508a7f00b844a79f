"""A report as one HTML file: nothing in it is fetched from anywhere, and it needs no script.

Charts are SVG written by hand and not matplotlib's: they take the page's colours, light or dark,
keep text that can be selected and read aloud, fit a phone, and need no 30 MB library.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources

from edgeslm import __version__
from edgeslm.profiling.report import charts, more_charts, tables
from edgeslm.profiling.report.content import Machine, Report
from edgeslm.profiling.report.drawing import Chart, Style
from edgeslm.profiling.report.markup import Markup, escape, join, tag
from edgeslm.profiling.report.method import METHOD
from edgeslm.profiling.report.summary import Best
from edgeslm.profiling.report.tables import Cell, Table


def page(report: Report) -> str:
    """The whole file."""
    style, script = Markup(_resource("page.css")), Markup(_resource("page.js"))
    sections = _sections(report)
    links = [tag("a", name, href=f"#{key}") for key, name, _ in sections]
    body = tag(
        "main",
        tag("header", *_header(report), tag("nav", *links, aria_label="Sections")),
        *(
            tag("section", tag("h2", name, id=f"{key}-title"), *parts, id=key)
            for key, name, parts in sections
        ),
        tag("p", f"Made by edgeslm {__version__}.", class_="soft"),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", report.title),
        tag("link", rel="icon", href="data:,"),
        tag("style", style),
    )
    document = tag("html", head, tag("body", body, tag("script", script)), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"


def _header(report: Report) -> list[Markup]:
    summary = report.summary
    parts = [tag("h1", report.title), tag("p", summary.lead, class_="lead")]
    if len(summary.winners) == 1:
        parts.append(tag("ul", *map(_best, summary.winners[0].best), class_="best"))
    best = tables.winners(report)
    if best is not None:
        parts.append(_table(best))
    return [*parts, *(tag("p", each, class_="warning") for each in summary.warnings)]


def _best(best: Best) -> Markup:
    return tag(
        "li",
        tag("span", best.what, class_="what"),
        tag("span", best.name, class_="who"),
        tag("span", best.figure, class_="figure"),
        tag("span", best.note, class_="note") if best.note else "",
    )


def _sections(report: Report) -> list[tuple[str, str, list[Markup]]]:
    looks, groups = charts.styles(report.entries)
    found = [
        ("results", "Results", _with_table(tables.results(report)) if report.entries else []),
        (
            "trade-offs",
            "Trade-offs",
            _charts(charts.trade_offs(report.entries, looks), groups, _FADED),
        ),
        ("speed", "Speed", _speed(report, looks)),
        ("memory", "Memory", _memory(report)),
        ("sustained", "What lasts", _charts(more_charts.sustained(report.long_runs))),
        ("differences", "What differs", _differences(report)),
        ("tuning", "Tuning", _with_table(tables.tunings(report))),
        ("failed", "Not measured", _with_table(tables.failures(report))),
        ("tainted", "What spoilt results", _with_table(tables.taints(report))),
        ("machines", "Machines", _machines(report.machines)),
        ("method", "Method", _method(report)),
        ("again", "Measure it again", _commands(report)),
        ("left-out", "Left out", [_list(report.notes)] if report.notes else []),
    ]
    return [each for each in found if each[2]]


_FADED = (
    "A hollow mark is beaten: another result is at least as good in both respects, and better in "
    "one. The dashed line joins those that are not."
)


def _speed(report: Report, looks: Sequence[Style]) -> list[Markup]:
    found = [
        *charts.speeds(report.entries, looks),
        *charts.by_depth(report.entries, looks),
    ]
    return [*_charts(found), *_folded(tables.depths(report))]


def _memory(report: Report) -> list[Markup]:
    chart = charts.memory(report.entries)
    return [] if chart is None else _beside(chart, tables.memory(report))


def _differences(report: Report) -> list[Markup]:
    chart = more_charts.differences(report.differences, report.baseline or "")
    table = tables.differences(report)
    return _with_table(table) if chart is None else _beside(chart, table)


def _beside(chart: Chart, table: Table | None) -> list[Markup]:
    """A chart and its figures, next to each other where there is room."""
    return [tag("div", _figure(chart), *_with_table(table), class_="beside")]


def _charts(
    found: Sequence[Chart], groups: Sequence[tuple[str, str]] = (), words: str = ""
) -> list[Markup]:
    if not found:
        return []
    named = [tag("li", tag("i", class_=css, aria_hidden="true"), name) for name, css in groups]
    return [
        *([tag("p", words, class_="soft")] if words else []),
        *([tag("ul", *named, class_="legend")] if named else []),
        tag("div", *map(_figure, found), class_="charts wide" if len(found) % 2 == 0 else "charts"),
    ]


def _figure(chart: Chart) -> Markup:
    return tag("figure", tag("h3", chart.title), chart.svg, tag("figcaption", chart.caption))


def _with_table(table: Table | None) -> list[Markup]:
    return [] if table is None else [_table(table)]


def _folded(table: Table | None) -> list[Markup]:
    if table is None:
        return []
    return [tag("details", tag("summary", "The figures"), _table(table))]


def _table(table: Table) -> Markup:
    heads = [
        tag(
            "th",
            head or tag("span", "name", class_="soft"),
            scope="col",
            class_=_head_css(table, at),
        )
        for at, head in enumerate(table.heads)
    ]
    rows = [
        tag("tr", _cell(row[0], "th", scope="row"), *(_cell(each, "td") for each in row[1:]))
        for row in table.rows
    ]
    inner = tag(
        "table",
        tag("caption", tag("span", table.caption)),
        tag("thead", tag("tr", *heads)),
        tag("tbody", *rows),
        data_sort=table.sortable and len(rows) > 1,
    )
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=table.caption)


def _head_css(table: Table, at: int) -> str | None:
    return "number" if table.rows and "number" in table.rows[0][at].css.split() else None


def _cell(cell: Cell, name: str, **attributes: object) -> Markup:
    return tag(
        name,
        cell.text,
        tag("span", cell.flag, class_=cell.flag) if cell.flag else "",
        tag("small", cell.note) if cell.note else "",
        class_=cell.css or None,
        data_value=None if cell.value is None else repr(cell.value),
        **attributes,
    )


def _machines(machines: Sequence[Machine]) -> list[Markup]:
    found = [
        tag(
            "div",
            tag("h3", each.name),
            tag("dl", *(join(tag("dt", name), tag("dd", value)) for name, value in each.facts)),
            tag("p", f"Ran: {'; '.join(each.names)}", class_="soft") if len(machines) > 1 else "",
            class_="card",
        )
        for each in machines
    ]
    return [tag("div", *found, class_="cards")] if found else []


def _method(report: Report) -> list[Markup]:
    return [*_with_table(tables.origins(report)), *(tag("p", each) for each in METHOD)]


def _commands(report: Report) -> list[Markup]:
    lines = [escape(each) for each in report.commands]
    code = tag("code", Markup("\n".join(lines)))
    return [tag("pre", code, tabindex="0")] if lines else []


def _list(items: Sequence[str]) -> Markup:
    return tag("ul", *(tag("li", each) for each in items), class_="notes")


def _resource(name: str) -> str:
    return resources.files("edgeslm.profiling.report").joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """Nothing may be loaded; our own script is known by its hash."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'"
    )
