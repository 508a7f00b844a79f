"""Will a model run on a board, how fast, and at what cost: all that is predicted, in one record."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgeslm.errors import InvalidOption
from edgeslm.estimate.energy import idle_hours, joules_between, writing_hours
from edgeslm.estimate.memory import plan_memory
from edgeslm.estimate.physics import Machine, decode_terms, machine_of, prefill_terms
from edgeslm.estimate.prediction import fits_in, usual_kv_type
from edgeslm.estimate.speed import (
    decode_figures,
    decode_tokens_per_second,
    prefill_figures,
    prefill_tokens_per_second,
)
from edgeslm.estimate.speed_model import Interval, fitted, is_calibrated
from edgeslm.estimate.work import Work, work_of
from edgeslm.gguf.reader import Header
from edgeslm.records import Figure, MemoryPlan, Provenance
from edgeslm.targets.target import Target

PROMPTS = (128, 512, 2048)
"""Lengths of prompts whose time to the first token is told."""
_PROMPT = 512
_CALIBRATED: Mapping[str, tuple[float, float]] = {"decode": (1.13, 1.13), "prefill": (1.18, 1.0)}
"""By which factor a speed may be lower, and higher, than one computed from figures that were all
measured on that machine: what was seen on one virtual machine (docs/targets.md), prefill always
computed too fast."""
_PARTLY: Mapping[str, tuple[float, float]] = {"decode": (1.26, 1.26), "prefill": (1.68, 1.68)}
"""The same where some of the figures are only published or estimated: the most that published
speeds are off what such figures give (docs/targets.md)."""
_OWN = (Provenance.MEASURED, Provenance.CALIBRATED)


@dataclass(frozen=True)
class FitOptions:
    """What is asked; None takes the target's default."""

    context_length: int | None = None
    kv_type: str | None = None
    threads: int | None = None
    prompts: tuple[int, ...] = PROMPTS
    battery_watt_hours: float | None = None


@dataclass(frozen=True)
class FirstToken:
    """How long a prompt takes until its first token, in seconds."""

    prompt_tokens: int
    seconds: Interval


@dataclass(frozen=True)
class Fit:
    """A model on a target.

    Attributes:
        id, board, name: The target; a board may come in several memory sizes.
        fits: None where the target's free memory is unknown.
        peak_memory_bytes: Most that is resident, see `memory`.
        decode_tokens_per_second: At half of the context; None where nothing supports a figure.
        prefill_tokens_per_second: Of a prompt of 512 tokens.
        decode_joules_per_token: The whole board's, idle power included.
        first_token: For prompts of several lengths, those that the context has room for.
        battery_hours: Of writing without a pause; None without a battery.
        idle_hours: Of waiting.
        provenance: "calibrated" where all figures are from this very machine, else "estimated".
        supported_by: What the speeds rest on.
        rows: How many measured rows of this board the fit has, by source.
        rows_by_type: How many of them and of other boards with such cores have the types that most
            of the weights are of.
        notes: Where something else is predicted than was asked for.
    """

    id: str
    board: str
    name: str
    fits: bool | None
    peak_memory_bytes: int
    memory_free_bytes: int | None
    memory: MemoryPlan
    context_length: int
    kv_type: str
    threads: int
    decode_tokens_per_second: Interval | None
    prefill_tokens_per_second: Interval | None
    decode_joules_per_token: Interval | None
    first_token: tuple[FirstToken, ...]
    battery_hours: Interval | None
    idle_hours: float | None
    provenance: Provenance
    supported_by: str
    rows: Mapping[str, int]
    rows_by_type: Mapping[str, int]
    notes: tuple[str, ...]


def fit(header: Header, targets: Sequence[Target], options: FitOptions) -> tuple[Fit, ...]:
    """What is expected of the model of `header` on each of `targets`.

    Raises:
        InvalidGGUF: the header lacks a hyperparameter.
        InvalidOption: a type the cache cannot have, a context of no tokens, no threads, no
            prompt, or a battery without a capacity.
    """
    _check(options)
    work = work_of(header)
    return tuple(_fit(header, work, target, options) for target in targets)


def _check(options: FitOptions) -> None:
    if options.context_length is not None and options.context_length < 1:
        raise InvalidOption(
            f"a context needs at least one token, not {options.context_length}", hint="Try 2048."
        )
    if options.threads is not None and options.threads < 1:
        raise InvalidOption(
            f"at least one thread computes, not {options.threads}", hint="Try --threads 4."
        )
    if any(count < 1 for count in options.prompts):
        raise InvalidOption("a prompt needs at least one token", hint="Try --prompt 512.")
    capacity = options.battery_watt_hours
    if capacity is not None and not (capacity > 0 and math.isfinite(capacity)):
        raise InvalidOption(
            f"a battery has some watt hours, not {capacity:g}", hint="Try --battery 20."
        )


def _threads(target: Target, wanted: int | None, *, own: bool) -> tuple[int | None, str | None]:
    """How many threads are predicted, and why not as many as wanted; None for the default."""
    usual = machine_of(target).threads
    if wanted is None or wanted == usual:
        return None, None
    if own:
        return None, f"was measured with {usual} threads, which is what is predicted"
    if machine_of(target).is_gpu:
        return None, f"its graphics processor computes, whatever the threads: {usual} assumed"
    counts = [cluster.count.value for cluster in target.cores]
    most = int(sum(count for count in counts if count is not None))
    if most and None not in counts and wanted > most:
        return most, f"has {most} cores, so {most} threads are predicted"
    return wanted, None


def _fit(header: Header, work: Work, target: Target, options: FitOptions) -> Fit:
    context = options.context_length or target.defaults.context_length
    kv_type = options.kv_type or usual_kv_type(header, target)
    memory = plan_memory(header, context_length=context, kv_type=kv_type, features=target.features)
    own = is_calibrated(target)
    threads, note = _threads(target, options.threads, own=own)
    machine = machine_of(target, threads=threads)
    by_type = {} if own else fitted().rows_by_type("decode", machine, work)
    calibrated = {
        "decode": own and _all_own(decode_figures(header, target, kv_type)),
        "prefill": own and _all_own(prefill_figures(header, target)),
    }
    if own:
        speed = decode_tokens_per_second(header, target, context_length=context, kv_type=kv_type)
        decode = _own("decode", speed, calibrated)
        prefill = _own("prefill", prefill_tokens_per_second(header, target), calibrated)
    else:
        found = fitted()
        decode = found.speed("decode", decode_terms(machine, work, context / 2, kv_type), machine)
        prefill = found.speed("prefill", prefill_terms(machine, work, _PROMPT / 2), machine)
    return Fit(
        id=target.id,
        board=target.board,
        name=target.name,
        fits=fits_in(memory, target),
        peak_memory_bytes=memory.total_bytes,
        memory_free_bytes=target.memory.free_bytes,
        memory=memory,
        context_length=context,
        kv_type=kv_type,
        threads=machine.threads,
        decode_tokens_per_second=decode,
        prefill_tokens_per_second=prefill,
        decode_joules_per_token=joules_between(target, decode),
        first_token=_first_tokens(
            machine, work, target, prefill, [count for count in options.prompts if count < context]
        ),
        battery_hours=writing_hours(target, options.battery_watt_hours),
        idle_hours=idle_hours(target, options.battery_watt_hours),
        provenance=Provenance.CALIBRATED if all(calibrated.values()) else Provenance.ESTIMATED,
        supported_by=_own_support(calibrated) if own else _support(target, machine, by_type),
        rows={} if own else fitted().sources.get(target.board, {}),
        rows_by_type=by_type,
        notes=() if note is None else (f"{target.id} {note}",),
    )


def _all_own(figures: Iterable[Figure]) -> bool:
    return all(figure.provenance in _OWN for figure in figures)


def _own(phase: str, figure: Figure, calibrated: Mapping[str, bool]) -> Interval | None:
    if figure.value is None:
        return None
    slower, faster = (_CALIBRATED if calibrated[phase] else _PARTLY)[phase]
    return Interval(figure.value, figure.value / slower, figure.value * faster)


def _first_tokens(
    machine: Machine,
    work: Work,
    target: Target,
    prefill: Interval | None,
    prompts: Sequence[int],
) -> tuple[FirstToken, ...]:
    if prefill is None:
        return ()
    times = []
    for count in prompts:
        speed = prefill
        if not is_calibrated(target):
            speed = fitted().speed("prefill", prefill_terms(machine, work, count / 2), machine)
        slowest, fastest = count / speed.low, count / speed.high
        times.append(FirstToken(count, Interval(count / speed.value, fastest, slowest)))
    return tuple(times)


def _own_support(calibrated: Mapping[str, bool]) -> str:
    rest = [phase for phase, is_own in calibrated.items() if not is_own]
    if not rest:
        return "measured on the machine that the target describes"
    return f"figures of the target, for {' and '.join(rest)} not all measured on that machine"


def _support(target: Target, machine: Machine, by_type: Mapping[str, int]) -> str:
    count = sum(fitted().sources.get(target.board, {}).values())
    said = f"no measured row of this board: its data sheet, and rows of other {machine.where}"
    if count:
        said = f"{count} measured rows of this board, and those of others for what they lack"
    missing = " and ".join(name for name, rows in by_type.items() if not rows)
    if not missing:
        return said
    return f"{said}; nobody measured {missing} on {machine.where}, so guessed from other types"
