"""What run, chat and serve do about memory before they load, and what inspect says of it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm import processor
from edgeslm.cli import output
from edgeslm.errors import EdgeslmError, InvalidOption, NotEnoughMemory
from edgeslm.records import to_json
from edgeslm.units import format_bytes

if TYPE_CHECKING:
    from typer import Context

    from edgeslm.estimate.fitting import Fitting, Settings
    from edgeslm.gguf.reader import Header
    from edgeslm.llama.context import ContextOptions
    from edgeslm.records import MemoryPlan
    from edgeslm.runtime.server.hosted import HostOptions
    from edgeslm.targets.free_memory import FreeMemory

_MOST = 2**31 - 256
_LEFT_OVER = 0.01
"""Of what is free, for what nobody can plan; a model that just does not fit crawls."""


def fitted(
    headers: Sequence[Header],
    wishes: ContextOptions,
    ram: int | None,
    explicit: Collection[str],
    beside_bytes: int = 0,
) -> ContextOptions:
    """Options for one answer at a time that fit into what is free, or into `ram` bytes.

    What was changed, and why, is said on stderr. What is `explicit`, by name, stays.

    Raises:
        NotEnoughMemory: the model does not fit.
        InvalidGGUF: a header lacks a hyperparameter.
    """
    from edgeslm.estimate.fitting import Settings

    if not {"guess", "draft"}.isdisjoint(explicit):
        explicit = [*explicit, "rows"]
    settings = Settings(wishes.length, wishes.kv_type, wishes.ubatch, rows=wishes.outputs)
    settings = _settle(headers, settings, ram, explicit, beside_bytes)
    return dataclasses.replace(
        wishes,
        length=settings.context,
        kv_type=settings.kv_type,
        ubatch=settings.ubatch,
        outputs=settings.rows,
    )


def fitted_host(
    models: Sequence[Path],
    wishes: HostOptions,
    ram: int | None,
    explicit: Collection[str],
    beside_bytes: int = 0,
) -> HostOptions:
    """The same for models that are served together, with the same options each.

    What is not said, and left to what was tuned, is planned as it is by default.
    """
    from edgeslm.bundle.model_path import find_model
    from edgeslm.estimate.fitting import Settings
    from edgeslm.estimate.memory import SERVER_BYTES
    from edgeslm.gguf.validation import read_model
    from edgeslm.llama.context import ContextOptions
    from edgeslm.runtime.tuned import AUTO

    usual = Settings()
    kv_type = usual.kv_type if wishes.kv_type == AUTO else wishes.kv_type
    ubatch = wishes.ubatch or usual.ubatch
    # what is no size or type at all is refused as such, and not as too much
    ContextOptions(wishes.context * wishes.slots, kv_type=kv_type, ubatch=ubatch)
    paths = [*map(find_model, models), *([wishes.draft] if wishes.draft else [])]
    asked = Settings(wishes.context, kv_type, ubatch, wishes.slots)
    found = _settle(
        [read_model(path) for path in paths], asked, ram, explicit, beside_bytes + SERVER_BYTES
    )
    return dataclasses.replace(
        wishes,
        context=found.context,
        slots=found.slots,
        kv_type=wishes.kv_type if found.kv_type == kv_type else found.kv_type,
        ubatch=wishes.ubatch if found.ubatch == ubatch else found.ubatch,
    )


def _settle(
    headers: Sequence[Header],
    wishes: Settings,
    ram: int | None,
    explicit: Collection[str],
    beside_bytes: int,
) -> Settings:
    from edgeslm.estimate.fitting import fit

    free = _free(ram)
    try:
        found = fit(
            headers,
            wishes,
            free.bytes,
            explicit=explicit,
            features=processor.features(),
            beside_bytes=beside_bytes,
        )
    except NotEnoughMemory as error:
        names = " and ".join(str(header.path) for header in headers)
        message = f"{names}: {error.message} ({free.limit})"
        raise NotEnoughMemory(message, hint=error.hint) from error
    if found.steps:
        _say(f"{format_bytes(free.bytes)} may be used: {free.limit}")
    for step in found.steps:
        _say(step.sentence)
    return found.settings


def size_of(*files: Path | None) -> int:
    """Bytes that files take; nothing for one that is not there, which its reader says."""
    total = 0
    for file in filter(None, files):
        with suppress(OSError):
            total += file.stat().st_size
    return total


def _free(ram: int | None) -> FreeMemory:
    from edgeslm.targets.free_memory import FreeMemory, free_memory

    if ram is not None:
        return FreeMemory(ram, "what --ram allows")
    free = free_memory()
    return FreeMemory(round((1 - _LEFT_OVER) * free.bytes), free.limit)


def given(context: Context) -> Collection[str]:
    """Names of the parameters of the running command that its user gave."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return [
        name
        for name, source in sources.items()
        if source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")
    ]


def _say(sentence: str) -> None:
    print(f"memory: {output.one_line(sentence)}", file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The plan of one model as asked for, against what is free, and what would fit."""

    settings: Settings
    plan: MemoryPlan
    free: FreeMemory | None
    fits: bool | None
    fitting: Fitting | None
    problem: EdgeslmError | None


def forecast(header: Header, wishes: Mapping[str, Any], target: str | None) -> Forecast:
    """The memory plan of a model on a board, or here.

    Args:
        header: The model.
        wishes: Settings by name; None for the defaults, the board's where it has some.
        target: A board; None for this machine.

    Raises:
        InvalidGGUF: the header lacks a hyperparameter.
        InvalidOption: an option is no number or type that can be planned for.
        NotFound, InvalidTarget: as from `load_target`.
    """
    from edgeslm.estimate.fitting import Settings, fit, plan_for
    from edgeslm.estimate.memory import SERVER_BYTES

    free: FreeMemory | None
    given = {name: value for name, value in wishes.items() if value is not None}
    for name, value in given.items():
        if isinstance(value, int) and not 1 <= value <= _MOST:
            raise InvalidOption(
                f"--{name} must be at least 1, and at most {_MOST}, not {value}",
                hint="Leave it out for the default.",
            )
    if target is None:
        free, features = _free(None), processor.features()
        settings = Settings()
    else:
        free, features, settings = _of_target(target, header)
    settings = dataclasses.replace(settings, **given)
    beside = SERVER_BYTES if "slots" in given else 0
    plan = plan_for([header], settings, features=features)
    plan = dataclasses.replace(plan, overhead_bytes=plan.overhead_bytes + beside)
    if free is None:
        return Forecast(settings, plan, None, None, None, None)
    try:
        found = fit(
            [header],
            settings,
            free.bytes,
            explicit=given,
            features=features,
            beside_bytes=beside,
        )
    except NotEnoughMemory as error:
        return Forecast(settings, plan, free, False, None, error)
    return Forecast(settings, plan, free, not found.steps, found, None)


def _of_target(name: str, header: Header) -> tuple[FreeMemory | None, tuple[str, ...], Settings]:
    """What is free on a board, what its cores can do, and its defaults."""
    from edgeslm.estimate.fitting import Settings
    from edgeslm.estimate.prediction import usual_kv_type
    from edgeslm.targets.free_memory import FreeMemory
    from edgeslm.targets.loading import load_target

    board = load_target(name)
    settings = Settings(board.defaults.context_length, usual_kv_type(header, board))
    free = board.memory.free_bytes
    left = None if free is None else FreeMemory(free, f"what the system leaves on {board.name}")
    return left, board.features, settings


def forecast_json(found: Forecast) -> dict[str, Any]:
    """A forecast as plain JSON types."""
    plan = found.plan
    return {
        "provenance": "estimated",
        "settings": to_json(found.settings),
        "plan": {
            **to_json(plan),
            "total_bytes": plan.total_bytes,
            "needed_bytes": plan.needed_bytes,
        },
        "free_bytes": None if found.free is None else found.free.bytes,
        "free": None if found.free is None else found.free.limit,
        "fits": found.fits,
        "fitting": None
        if found.fitting is None
        else {
            "settings": to_json(found.fitting.settings),
            "needed_bytes": found.fitting.plan.needed_bytes,
            "steps": [to_json(step) for step in found.fitting.steps],
        },
        "hint": None if found.problem is None else found.problem.hint,
    }


def print_forecast(found: Forecast) -> None:
    """A forecast as a table, and what would have to change for it to fit."""
    plan, settings = found.plan, found.settings
    slots = f" x {settings.slots} slots" if settings.slots > 1 else ""
    rows = [
        ("memory (estimated)", format_bytes(plan.total_bytes), "at the peak"),
        ("  weights", format_bytes(plan.weights_bytes), "mapped from the file"),
    ]
    if plan.copied_bytes:
        rows.append(("  copies", format_bytes(plan.copied_bytes), "interleaved for this processor"))
    rows += [
        (
            "  KV cache",
            format_bytes(plan.kv_bytes),
            f"{settings.context} tokens{slots} in {settings.kv_type}",
        ),
        ("  compute", format_bytes(plan.compute_bytes), f"{settings.ubatch} tokens at once"),
        ("  program", format_bytes(plan.overhead_bytes), "Python, llama.cpp, the vocabulary"),
    ]
    if found.free is not None:
        verdict = "it fits" if found.fits else "it does not fit as asked for"
        rows.append(("free", format_bytes(found.free.bytes), f"{found.free.limit}: {verdict}"))
    output.print_table(rows)
    for step in found.fitting.steps if found.fitting else ():
        print(f"to fit: {step.sentence}")
    if found.problem is not None and found.problem.hint:
        print(f"to fit: {found.problem.hint}")
