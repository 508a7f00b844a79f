"""A profile in a control group with little memory: does the model live there, and how well.

Three steps: a child process profiles the model without a limit; what the kernel keeps of the file
is dropped, so that the group has to pay for each page; a second child joins the group before it
does anything else, and profiles the model there. A model that does not fit is read from the disk
for every token, a hundred times slower, so both keep to a time budget.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgeslm.errors import InvalidOption, MeasurementFailure
from edgeslm.profiling import jobs
from edgeslm.profiling.arguments import profile_arguments
from edgeslm.profiling.groups import GroupFigures, limited_group
from edgeslm.profiling.measurement import Measurement, MemoryLimit
from edgeslm.profiling.page_cache import cold
from edgeslm.profiling.profile import ProfileOptions
from edgeslm.progress import note
from edgeslm.records import from_json
from edgeslm.units import format_bytes, significant

BUDGET_SECONDS = 60.0
"""For the runs of each of the two, unless another one is given."""
_LEAST_BYTES = 1 << 20
_UNLIMITED_REPEATS = 3
_FULL_SPEED = 0.9
_READ_AGAIN = 0.5
"""Of the file, read during the counted runs: what was in memory need not be read."""
_KILLED, _TERMINATED = 137, 143
_UNTOLD = GroupFigures(None, None, None, None, None, None)


def profile_limited(
    path: Path, options: ProfileOptions, limit_bytes: int, *, root: Path = Path("/")
) -> Measurement:
    """Profile `path` in a control group of `limit_bytes`.

    Returns:
        The measurement in the group, with `memory.limit`. If the kernel killed it there, the one
        without a limit, tainted.

    Raises:
        MeasurementFailure: no such group can be made here, or a child failed.
        EdgeslmError: the model cannot be read.
    """
    if limit_bytes < _LEAST_BYTES:
        raise InvalidOption(
            f"a memory limit of {format_bytes(limit_bytes)}",
            hint="Write it like 512M; no program runs in less than 1Mi.",
        )
    without, within = both(options)
    with limited_group(limit_bytes, root) as group:
        note("Measuring without a limit")
        unlimited = _measurement(_run(_command(path, without)))
        with cold(path) as found:
            note(f"Measuring with {format_bytes(limit_bytes)}")
            ended = _run(group.command(_command(found.path, within)))
        figures = group.figures()
        kind = group.kind
    limited = None if _was_killed(ended, figures) else _measurement(ended)
    limit = describe(limited, unlimited, figures, limit_bytes, kind, copied=found.copied)
    if limited is None:
        taint = f"{limit.summary}; the other figures are those without a limit"
        return replace(
            unlimited,
            memory=replace(unlimited.memory, limit=limit),
            tainted=True,
            taints=(*unlimited.taints, taint),
        )
    return replace(
        limited,
        model=replace(limited.model, path=path),
        memory=replace(limited.memory, limit=limit),
    )


def both(options: ProfileOptions) -> tuple[ProfileOptions, ProfileOptions]:
    """What is measured without the limit, just enough to compare with, and what within it."""
    within = replace(options, budget_seconds=options.budget_seconds or BUDGET_SECONDS)
    without = replace(
        within,
        depths=options.depths[:1],
        context_length=options.context_length or options.needed_context,
        repeats=min(options.repeats, _UNLIMITED_REPEATS),
        idle_seconds=0.0,
        sustained_seconds=None,
    )
    return without, within


def describe(
    limited: Measurement | None,
    unlimited: Measurement,
    figures: GroupFigures,
    limit_bytes: int,
    group: str,
    *,
    copied: bool,
) -> MemoryLimit:
    """How it went, in a word, a sentence and figures; `limited` None if it was killed."""
    reference = unlimited.decode.tokens_per_second.median
    decode = None if limited is None else limited.decode.tokens_per_second.median
    verdict, summary = _verdict(limited, reference, limit_bytes)
    return MemoryLimit(
        limit_bytes=limit_bytes,
        group=group,
        verdict=verdict,
        summary=summary,
        peak_bytes=figures.peak_bytes,
        limit_hits=figures.limit_hits,
        oom_kills=figures.oom_kills,
        page_faults=figures.page_faults,
        major_faults=figures.major_faults,
        refaults=figures.refaults,
        read_bytes_per_second=(
            None if limited is None else _read(limited) / _seconds_of_reading(limited)
        ),
        decode_tokens_per_second=decode,
        unlimited_tokens_per_second=reference,
        copied=copied,
    )


def _verdict(limited: Measurement | None, reference: float, limit_bytes: int) -> tuple[str, str]:
    if limited is None:
        return "killed", f"killed by the kernel: it needs more than {format_bytes(limit_bytes)}"
    speed = limited.decode.tokens_per_second.median
    share = speed / reference
    pace = f"decode at {share:.1%} of unlimited ({significant(speed)} tokens/s)"
    if share >= _FULL_SPEED:
        return "fits", f"fits: full speed ({significant(speed)} tokens/s)"
    read = _read(limited)
    if read < _READ_AGAIN * limited.model.file_bytes:
        return "fits", f"fits: hardly anything is read from the disk, but {pace}"
    rate = read / _seconds_of_reading(limited) / 1e6
    return "thrashes", (
        f"thrashes: pages of the model are read again and again, {significant(rate)} MB/s from "
        f"disk, {pace}"
    )


def _read(found: Measurement) -> int:
    """Bytes that a disk had to read during the counted runs; at least that, where few are told."""
    conditions = found.conditions
    if conditions.read_bytes is not None:
        return conditions.read_bytes
    return conditions.major_faults * resource.getpagesize()


def _seconds_of_reading(found: Measurement) -> float:
    """How long what `_read` counts was counted for."""
    if found.conditions.observed_seconds:
        return found.conditions.observed_seconds
    speeds = [speed for each in found.depths for speed in (each.prefill, each.decode)]
    return sum(sum(speed.seconds.samples) for speed in speeds)


def _command(path: Path, options: ProfileOptions) -> list[str]:
    """The command line that measures the same."""
    program = [sys.executable, "-m", "edgeslm", "profile", str(path.resolve())]
    return [*program, *profile_arguments(options)]


def _run(command: Sequence[str]) -> jobs.Ended:
    """Run it to its end; whatever ends this process ends it too."""
    return jobs.run(jobs.watched(command))


def _was_killed(ended: jobs.Ended, figures: GroupFigures) -> bool:
    """Whether it ended for want of memory.

    A scope that systemd ends for that ends all that is in it: nothing copies its figures.
    """
    if ended.code == 0 or figures.oom_kills is not None:
        return ended.code != 0 and bool(figures.oom_kills)
    return ended.code == _KILLED or (ended.code == _TERMINATED and figures == _UNTOLD)


def _measurement(ended: jobs.Ended) -> Measurement:
    """What a child printed.

    Raises:
        MeasurementFailure: it failed; in its own words.
    """
    wrong = jobs.problem(ended)
    if wrong is not None:
        raise MeasurementFailure(f"the measurement failed: {wrong.reason}", hint=wrong.hint)
    return from_json(Measurement, json.loads(ended.output))
