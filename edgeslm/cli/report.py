"""The verb that shows results: report."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeslm.cli import options, output
from edgeslm.errors import InvalidOption, writing
from edgeslm.records import REPORT_SCHEMA, document, to_json

if TYPE_CHECKING:
    from edgeslm.profiling.report.content import Report

_STDOUT = Path("-")
_FORMS = (".html", ".htm", ".md", ".markdown")


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS...",
            help="Files that profile --json, bench, evaluate, tune --json or llama-bench wrote.",
            show_default=False,
        ),
    ],
    path: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A page (.html) or Markdown (.md); - shows it in the terminal.",
        ),
    ] = _STDOUT,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="NAME",
            help="What the others are compared with: a name or a type in the report; "
            "default: the first.",
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option("--title", metavar="TEXT", help="What stands above it.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Show results: who is best at what, tables, charts, what differs by more than chance.

    Quality cards are shown beside the measurements of the same model file. The page is one file
    that fetches nothing.

    Examples:
        edgeslm report rpi4.json rpi5.json
        edgeslm report results.jsonl -o report.html
        edgeslm report results.jsonl -o report.md
    """
    from edgeslm.files import ensure_writable
    from edgeslm.profiling.report.content import build
    from edgeslm.profiling.results import load

    if path != _STDOUT:
        _refuse(path, json=json)
        ensure_writable(path)
    built = build(load(results), title=title, baseline=baseline)
    if json:
        output.print_json(document(REPORT_SCHEMA, report_json(built)))
    elif path == _STDOUT:
        _show(built)
    else:
        _write(built, path)


def report_json(report: Report) -> dict[str, Any]:
    """What a program may want of a report: who is best, what differs; its files have the rest."""
    return {
        "title": report.title,
        "lead": report.summary.lead,
        "winners": to_json(report.summary.winners),
        "warnings": to_json(report.summary.warnings),
        "results": [
            {
                "name": each.name,
                "host": each.host,
                "model_sha256": each.result.model.sha256,
                "tainted": each.result.tainted,
                "taints": list(each.result.taints),
                "source": str(each.result.source),
            }
            for each in report.entries
        ],
        "baseline": report.baseline,
        "differences": [
            {"name": each.name, "what": each.what, "alike": each.alike, **to_json(each.comparison)}
            for each in report.differences
        ],
        "failures": to_json(report.failures),
        "notes": list(report.notes),
    }


def _refuse(path: Path, *, json: bool) -> None:
    """Return if a report can have that name.

    Raises:
        InvalidOption: it cannot.
    """
    if json:
        raise InvalidOption("--json goes to stdout, not to a file", hint="Leave out --output.")
    if path.suffix.lower() not in _FORMS:
        raise InvalidOption(
            f"{path}: no kind of report",
            hint=f"End its name in {', '.join(_FORMS)}; without -o it goes to the terminal.",
        )


def _show(report: Report) -> None:
    from edgeslm.profiling.report.terminal import terminal

    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    columns = shutil.get_terminal_size((100, 24)).columns
    print(terminal(report, columns, blocks=encoding == "utf8"), end="")


def _write(report: Report, path: Path) -> None:
    from edgeslm.files import atomic_path
    from edgeslm.profiling.report.markdown import markdown
    from edgeslm.profiling.report.page import page

    text = page(report) if path.suffix.lower() in _FORMS[:2] else markdown(report)
    with atomic_path(path) as temporary, writing(path):
        temporary.write_text(text, encoding="utf-8")
    print(f"wrote {path}: {len(report.entries)} results")
