"""The cells of a matrix one after the other, each in a process of its own, into one journal.

A cell that crashes or runs out of memory is a row with the reason, and the next one follows. What
is in the journal already is not measured again, so that an interrupted bench goes on by the same
command.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from edgeslm.errors import EdgeslmError
from edgeslm.files import remembered_sha256
from edgeslm.profiling import jobs
from edgeslm.profiling.arguments import profile_arguments
from edgeslm.profiling.cooling import Reading, cool_down, read_here
from edgeslm.profiling.jobs import Problem
from edgeslm.profiling.journal import open_journal
from edgeslm.profiling.matrix import LOCAL, Cell, HostEntry, Matrix
from edgeslm.profiling.measurement import Measurement
from edgeslm.profiling.remote import RemoteHost
from edgeslm.profiling.variants import Variants
from edgeslm.records import FAILURE_SCHEMA, MEASUREMENT_SCHEMA, from_json
from edgeslm.runtime.tuned import machine_identity

Watch = Callable[[Cell, str | None], None]
"""Called when a cell has ended, with the reason if it failed."""


@dataclass(frozen=True)
class Keyed:
    """A cell, and the key that names what it measures."""

    cell: Cell
    key: str


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        pending: In the order of running.
        done: Cells that the journal has already.
        failed: Cells that failed before, and are not tried again.
    """

    matrix: Matrix
    pending: tuple[Keyed, ...]
    done: tuple[Keyed, ...] = ()
    failed: tuple[Keyed, ...] = ()


@dataclass
class Tally:
    """How many cells were measured, and how many failed, in this run."""

    measured: int = 0
    failed: int = 0


class Machine(Protocol):
    """Where cells run: here, or over ssh."""

    name: str

    def place(self, model: Path, digest: str) -> str:
        """Have the model there; the name by which it is found."""

    def command(self, arguments: Sequence[str], file: str) -> list[str]:
        """What runs `edgeslm profile` on it."""

    def read(self) -> Reading:
        """How warm and busy it is."""


class Here:
    """The machine that this runs on."""

    name = LOCAL

    def place(self, model: Path, digest: str) -> str:  # noqa: ARG002 - machines far away need it
        """Nothing to do: it is here."""
        return str(model.resolve())

    def command(self, arguments: Sequence[str], file: str) -> list[str]:
        """A child process that ends with this one."""
        return jobs.watched([sys.executable, "-m", "edgeslm", "profile", file, *arguments])

    def read(self) -> Reading:
        """Of this machine."""
        return read_here()


def keyed(matrix: Matrix, cells: Sequence[Cell], variants: Variants) -> tuple[Keyed, ...]:
    """The cells with their keys."""
    machines = {
        name: machine_identity() if name == LOCAL else f"{host.address}"
        for name, host in matrix.hosts.items()
    }
    digests, calibration = variants.digests, variants.calibration
    return tuple(
        Keyed(cell, matrix.key(cell, digests[cell.model], machines[cell.host], calibration))
        for cell in cells
    )


def plan(
    matrix: Matrix,
    cells: Sequence[Keyed],
    done: frozenset[str],
    failed: frozenset[str],
    *,
    retry: bool,
) -> Plan:
    """What is left of `cells`."""
    left = [each for each in cells if each.key not in done]
    return Plan(
        matrix=matrix,
        pending=tuple(each for each in left if retry or each.key not in failed),
        done=tuple(each for each in cells if each.key in done),
        failed=tuple(each for each in left if not retry and each.key in failed),
    )


def bench(
    matrix: Matrix,
    cells: Sequence[Keyed],
    variants: Variants,
    output: Path,
    *,
    retry: bool = False,
    planned: Callable[[Plan], None] = lambda _plan: None,
    watch: Watch = lambda _cell, _reason: None,
) -> tuple[Plan, Tally]:
    """Measure what of `cells` is not in the journal `output` yet.

    Args:
        matrix: Where they come from.
        cells: In the order of running.
        variants: Their files, as `find_variants` gave them.
        output: The journal.
        retry: Try those again that failed.
        planned: Told what will be done, before it is.
        watch: Told of each cell that has ended.

    Raises:
        Busy: another bench writes to the journal.
        UserError: it holds something else.
        OutputFailure: it cannot be written.
    """
    tally = Tally()
    with open_journal(output) as journal, ExitStack() as stack:
        work = plan(matrix, cells, journal.done, journal.failed, retry=retry)
        planned(work)
        runner = _Runner(matrix, variants, stack)
        for each in work.pending:
            row = runner.measure(each)
            journal.add(row)
            reason = row["failure"]["reason"] if "failure" in row else None
            if reason is None:
                tally.measured += 1
            else:
                tally.failed += 1
            watch(each.cell, reason)
    return work, tally


@dataclass
class _Runner:
    """Measures cells; machines and quantized files that failed once are not asked again."""

    matrix: Matrix
    variants: Variants
    stack: ExitStack
    _machines: dict[str, tuple[Machine, Reading] | Problem] = field(default_factory=dict)
    _files: dict[tuple[str, str], Path | Problem] = field(default_factory=dict)

    def measure(self, each: Keyed) -> dict[str, Any]:
        """The row of a cell: a measurement, or a failure."""
        cell, began = each.cell, time.monotonic()
        named = {"key": each.key, **asdict(cell), "started_at": _now()}
        found = self._attempt(cell, named)
        named["seconds"] = round(time.monotonic() - began, 3)
        if isinstance(found, Problem):
            failure = asdict(found)
            return {"schema": FAILURE_SCHEMA, "cell": named, "failure": failure}
        return {**found, "cell": named}

    def _attempt(self, cell: Cell, named: dict[str, Any]) -> dict[str, Any] | Problem:
        found = self._machine(cell.host)  # before a file is made, which warms this machine
        if isinstance(found, Problem):
            return found
        machine, before = found
        order = self.matrix.order
        try:
            file = self._file(cell)
            if isinstance(file, Problem):
                return file
            digest = remembered_sha256(file)
            placed = machine.place(file, digest)
            named["waited_seconds"] = round(
                cool_down(machine.read, before, order.cool_down_seconds), 3
            )
        except EdgeslmError as error:
            return Problem(error.message, error.hint, None)
        arguments = profile_arguments(self.matrix.options(cell), self.matrix.runs.memory_limit)
        ended = jobs.run(machine.command(arguments, placed), order.timeout_seconds)
        wrong = jobs.problem(ended, order.timeout_seconds)
        return wrong if wrong is not None else _record(ended.output, digest)

    def _machine(self, name: str) -> tuple[Machine, Reading] | Problem:
        if name not in self._machines:
            self._machines[name] = self._reached(self.matrix.hosts[name])
        return self._machines[name]

    def _reached(self, entry: HostEntry) -> tuple[Machine, Reading] | Problem:
        """The machine, and how warm and busy it is before anything runs."""
        if entry.address is None:
            here = Here()
            return here, here.read()
        try:
            remote = self.stack.enter_context(closing(RemoteHost(entry)))
            remote.check()
            return remote, remote.read()
        except EdgeslmError as error:
            return Problem(error.message, error.hint, None)

    def _file(self, cell: Cell) -> Path | Problem:
        """The model in the cell's type, made if it is not there yet."""
        place = cell.model, cell.type
        if place not in self._files:
            self._files[place] = self.variants.ready(cell)
        return self._files[place]


def _record(output: str, digest: str) -> dict[str, Any] | Problem:
    """The document that `profile` printed, if it is one and about the right file."""
    try:
        document: dict[str, Any] = json.loads(output)
        measurement = from_json(Measurement, document)
    except (ValueError, RecursionError) as error:
        return Problem(f"it printed no measurement: {str(error)[:200]}", None, 0)
    if document.get("schema") != MEASUREMENT_SCHEMA:
        return Problem(f"it printed another document: {document.get('schema')!r}", None, 0)
    if measurement.model.sha256 != digest:
        return Problem(
            "another file was measured than was meant",
            "Do not change model files while a bench runs.",
            0,
        )
    return document


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
