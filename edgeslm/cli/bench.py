"""The verb that measures many: bench."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeslm.cli import options, output
from edgeslm.errors import InvalidOption, MeasurementFailure, UserError
from edgeslm.files import ensure_writable
from edgeslm.progress import Advance, bar
from edgeslm.records import BENCH_SCHEMA, to_json
from edgeslm.units import format_bytes, format_seconds, significant

if TYPE_CHECKING:
    from edgeslm.profiling.bench import Keyed, Plan, Tally
    from edgeslm.profiling.forecast import Forecast
    from edgeslm.profiling.matrix import Cell, Matrix
    from edgeslm.profiling.variants import Variants


def bench(
    path: Annotated[
        Path,
        typer.Argument(metavar="MATRIX", help="What to measure, as TOML.", show_default=False),
    ],
    results: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="JSON lines to add to; default: the matrix's name with .jsonl, beside it.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the cells, and what they will take by estimate."),
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try those again that failed before.")
    ] = False,
    hosts: Annotated[
        str | None,
        typer.Option("--hosts", metavar="A,B", help="Only on these hosts of the matrix."),
    ] = None,
    llama_bench: Annotated[
        Path | None,
        typer.Option(
            "--export-llama-bench",
            metavar="FILE",
            help="Write the results as llama-bench would: .json or .jsonl.",
        ),
    ] = None,
    submit: Annotated[
        Path | None,
        typer.Option(
            "--submit-file",
            metavar="FILE",
            help="Write speeds to give away, without names; predictions get better by them.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure many models, types and settings on one or many machines; go on where it stopped.

    Each cell is an edgeslm profile of its own. Run it again and only what is missing is measured:
    after an interruption, a crash, or a longer matrix. docs/bench.md describes the matrix.

    Examples:
        edgeslm bench matrix.toml --dry-run
        edgeslm bench matrix.toml
        edgeslm bench matrix.toml --retry --export-llama-bench matrix.llama-bench.json
    """
    from edgeslm.profiling.bench import keyed
    from edgeslm.profiling.matrix import load_matrix, only_hosts
    from edgeslm.profiling.variants import find_variants

    matrix = load_matrix(path)
    cells = matrix.cells if hosts is None else only_hosts(matrix, _names(hosts))
    results = results or path.with_suffix(".jsonl")
    _refuse_same(path, results, llama_bench, submit)
    with closing(find_variants(matrix)) as variants:
        ordered = keyed(matrix, cells, variants)
        if dry_run:
            _show_plan(variants, ordered, results, retry=retry, json=json)
            return
        for wanted in (llama_bench, submit):
            if wanted is not None:
                ensure_writable(wanted)
        if submit is not None:
            _refuse_unknown_board(cells)
        work, tally = _run(variants, ordered, results, retry=retry)
        if llama_bench is not None:
            _export(results, llama_bench)
        _print_end(work, tally, results, json=json)
        if submit is not None:
            failed = bool(tally.failed or work.failed)
            _submit(variants, ordered, results, submit, failed=failed)
    _complain(work, tally)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise InvalidOption(f"not hosts: {text!r}", hint="Write them like local,pi5.")
    return names


def _refuse_same(*paths: Path | None) -> None:
    given = [each.resolve() for each in paths if each is not None]
    if len(set(given)) < len(given):
        raise InvalidOption(
            "the matrix, its results and what is exported must be different files",
            hint="Give each another name.",
        )


def _run(
    variants: Variants, cells: Sequence[Keyed], results: Path, *, retry: bool
) -> tuple[Plan, Tally]:
    """Measure what is missing, with a bar that fills by what each cell is expected to take."""
    from edgeslm.profiling.bench import bench as measure

    with ExitStack() as stack:
        shown = _Shown(variants, stack)
        return measure(
            *(variants.matrix, cells, variants, results),
            retry=retry,
            planned=shown.start,
            watch=shown.ended,
        )


class _Shown:
    """The bar, and a line for each cell that failed."""

    def __init__(self, variants: Variants, stack: ExitStack) -> None:
        self._variants, self._stack = variants, stack
        self._weights: dict[Cell, int] = {}
        self._advance: Advance = lambda _amount: None

    def start(self, work: Plan) -> None:
        """Show how much there is to do."""
        self._weights = _weights(self._variants, [each.cell for each in work.pending])
        total = sum(self._weights.values())
        count = len(work.pending)
        if count:
            title = f"Measuring {count} cell{'s' if count > 1 else ''}"
            self._advance = self._stack.enter_context(bar(title, total, unit="share"))

    def ended(self, cell: Cell, reason: str | None) -> None:
        """One cell is over."""
        self._advance(self._weights[cell])
        if reason is not None:
            output.warn(f"{_name(cell)}: {reason}")


def _weights(variants: Variants, cells: Sequence[Cell]) -> dict[Cell, int]:
    """How long each takes by estimate, in tenths of a second; all the same if one is unknown."""
    from edgeslm.profiling.forecast import forecasts

    expected = [each.seconds for each in forecasts(variants, cells)]
    known = [each for each in expected if each is not None]
    if len(known) < len(expected):
        return dict.fromkeys(cells, 1)
    return {cell: max(1, round(10 * each)) for cell, each in zip(cells, known, strict=True)}


def _show_plan(
    variants: Variants, cells: Sequence[Keyed], results: Path, *, retry: bool, json: bool
) -> None:
    from edgeslm.profiling.bench import plan
    from edgeslm.profiling.forecast import forecasts
    from edgeslm.profiling.journal import read_keys

    done, failed = read_keys(results)
    work = plan(variants.matrix, cells, done, failed, retry=retry)
    expected = forecasts(variants, [each.cell for each in cells])
    states = {each.key: "done" for each in work.done} | {each.key: "failed" for each in work.failed}
    rows = [
        (each, forecast, states.get(each.key, "to do"))
        for each, forecast in zip(cells, expected, strict=True)
    ]
    if json:
        listed = [
            {"key": each.key, **to_json(each.cell), "state": state, "estimated": to_json(forecast)}
            for each, forecast, state in rows
        ]
        output.print_json({"schema": BENCH_SCHEMA, "results": str(results), "cells": listed})
        return
    output.print_table(
        (_row(each.cell, forecast, state) for each, forecast, state in rows),
        header=(
            *("model", "type", "KV", "context", "threads", "host", "round"),
            *("RAM", "decode tokens/s", "time", "state"),
        ),
    )
    _print_total(rows, variants.matrix)


def _row(cell: Cell, forecast: Forecast, state: str) -> tuple[str, ...]:
    fits = {True: "", False: ", too large", None: ""}[forecast.fits]
    memory = forecast.memory_bytes
    return (
        *(cell.model, cell.type, cell.kv_type, _or_auto(cell.context), _or_auto(cell.threads)),
        *(cell.host, f"{cell.round}"),
        "unknown" if memory is None else f"{format_bytes(memory)}{fits}",
        "unknown" if forecast.decode is None else significant(forecast.decode),
        "unknown" if forecast.seconds is None else format_seconds(forecast.seconds),
        state,
    )


def _print_total(rows: Sequence[tuple[Keyed, Forecast, str]], matrix: Matrix) -> None:
    left = [forecast for _, forecast, state in rows if state == "to do"]
    seconds = [each.seconds for each in left if each.seconds is not None]
    unknown = len(left) - len(seconds)
    text = f"{len(left)} of {len(rows)} cells to do"
    if seconds:
        text += f", about {format_seconds(sum(seconds))} (estimated)"
    if unknown and seconds:
        text += f" and {unknown} of unknown length"
    if left:
        text += f", and up to {matrix.order.cool_down_seconds:g} s before each to cool down"
    print(text)


def _or_auto(value: int | None) -> str:
    return "auto" if value is None else f"{value}"


def _name(cell: Cell) -> str:
    extra = f", {cell.threads} threads" if cell.threads is not None else ""
    return f"{cell.model} {cell.type} on {cell.host} (KV {cell.kv_type}{extra})"


def _print_end(work: Plan, tally: Tally, results: Path, *, json: bool) -> None:
    counts = {
        "measured": tally.measured,
        "failed": tally.failed,
        "done_before": len(work.done),
        "failed_before": len(work.failed),
    }
    if json:
        output.print_json({"schema": BENCH_SCHEMA, "results": str(results), **counts})
        return
    print(
        f"{tally.measured} cells measured, {tally.failed} failed; {len(work.done)} were done before"
    )
    print(f"results: {results}")


def _export(results: Path, destination: Path) -> None:
    from edgeslm.profiling.llama_bench import export
    from edgeslm.profiling.results import load

    export(load([results]).results, destination)


def _refuse_unknown_board(cells: Sequence[Cell]) -> None:
    """Return if speeds could be given; what machines far away are is known when they have run.

    Raises:
        UserError: all are of this machine, which is no board of ours.
    """
    from edgeslm.profiling.matrix import LOCAL
    from edgeslm.profiling.submission import ensure_known_board

    if all(cell.host == LOCAL for cell in cells):
        ensure_known_board()


def _submit(
    variants: Variants,
    cells: Sequence[Keyed],
    results: Path,
    destination: Path,
    *,
    failed: bool,
) -> None:
    """Write what can be given; that nothing can is a warning where cells failed, which is worse.

    Raises:
        UserError: nothing can, and no cell failed.
    """
    from edgeslm.profiling.submission import collect, write_submission

    files = {each.key: variants.path(each.cell) for each in cells}
    known = {key: path for key, path in files.items() if path.exists()}
    try:
        found = collect(results, known)
    except UserError as error:
        if not failed:
            raise
        output.warn(error.message)
        return
    for why in found.left_out:
        output.warn(f"left out: {why}")
    write_submission(destination, found.rows)


def _complain(work: Plan, tally: Tally) -> None:
    """Return if every cell has been measured.

    Raises:
        MeasurementFailure: some have not.
    """
    missing = tally.failed + len(work.failed)
    if missing:
        total = len(work.done) + len(work.failed) + len(work.pending)
        raise MeasurementFailure(
            f"{missing} of {total} cells could not be measured",
            hint="Their rows say why; --retry tries them again.",
        )
