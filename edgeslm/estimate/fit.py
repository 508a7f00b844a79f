"""Will a model run on a board, how fast, and at what cost: all that is predicted, in one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeslm.errors import InvalidOption
from edgeslm.estimate.fitted import Interval, fitted, is_calibrated
from edgeslm.estimate.memory import plan_memory
from edgeslm.estimate.physics import Machine, decode_terms, machine_of, prefill_terms
from edgeslm.estimate.prediction import fits_in, usual_kv_type
from edgeslm.estimate.speed import decode_tokens_per_second, prefill_tokens_per_second
from edgeslm.estimate.work import Work, work_of
from edgeslm.gguf.reader import Header
from edgeslm.records import Figure, MemoryPlan, Provenance
from edgeslm.targets.target import Target

PROMPTS = (128, 512, 2048)
"""Lengths of prompts whose time to the first token is told."""
_PROMPT = 512
_CALIBRATED_ERROR = 0.1
_WATTS_ERROR: Mapping[Provenance | None, float] = {
    Provenance.MEASURED: 0.05,
    Provenance.PUBLISHED: 0.15,
}
_WATTS_UNSURE = 0.3


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
        first_token: For prompts of several lengths.
        battery_hours: Of writing without a pause; None without a battery.
        idle_hours: Of waiting.
        provenance: "calibrated" where this very machine was measured, else "estimated".
        supported_by: What the speeds rest on.
        rows: How many measured rows of this board the fit has, by source.
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


def fit(header: Header, targets: Sequence[Target], options: FitOptions) -> tuple[Fit, ...]:
    """What is expected of the model of `header` on each of `targets`.

    Raises:
        InvalidGGUF: the header lacks a hyperparameter.
        InvalidOption: a type the cache cannot have, or a context of no tokens.
    """
    if options.context_length is not None and options.context_length < 1:
        raise InvalidOption(
            f"a context needs at least one token, not {options.context_length}", hint="Try 2048."
        )
    work = work_of(header)
    return tuple(_fit(header, work, target, options) for target in targets)


def _fit(header: Header, work: Work, target: Target, options: FitOptions) -> Fit:
    context = options.context_length or target.defaults.context_length
    kv_type = options.kv_type or usual_kv_type(header, target)
    memory = plan_memory(header, context_length=context, kv_type=kv_type, features=target.features)
    machine = machine_of(target, threads=options.threads)
    own = is_calibrated(target)
    if own:
        decode = _own(
            decode_tokens_per_second(header, target, context_length=context, kv_type=kv_type)
        )
        prefill = _own(prefill_tokens_per_second(header, target))
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
        decode_joules_per_token=_joules(target, decode),
        first_token=_first_tokens(machine, work, target, prefill, options.prompts),
        battery_hours=_hours(target, options.battery_watt_hours),
        idle_hours=_idle_hours(target, options.battery_watt_hours),
        provenance=Provenance.CALIBRATED if own else Provenance.ESTIMATED,
        supported_by=_support(target, machine, own=own),
        rows={} if own else fitted().sources.get(target.board, {}),
    )


def _own(figure: Figure) -> Interval | None:
    if figure.value is None:
        return None
    return Interval(
        figure.value,
        figure.value * (1 - _CALIBRATED_ERROR),
        figure.value * (1 + _CALIBRATED_ERROR),
    )


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


def _joules(target: Target, decode: Interval | None) -> Interval | None:
    watts = _watts(target)
    if watts is None or decode is None:
        return None
    return Interval(watts.value / decode.value, watts.low / decode.high, watts.high / decode.low)


def _watts(target: Target) -> Interval | None:
    """What the board draws while it writes: never less than at rest."""
    load, idle = target.power.load_watts, target.power.idle_watts
    if load.value is None:
        return None
    error = _WATTS_ERROR.get(load.provenance, _WATTS_UNSURE)
    least = max(load.value * (1 - error), min(idle.value or 0.0, load.value))
    return Interval(load.value, least, load.value * (1 + error))


def _hours(target: Target, watt_hours: float | None) -> Interval | None:
    watts = _watts(target)
    if watts is None or watt_hours is None:
        return None
    return Interval(watt_hours / watts.value, watt_hours / watts.high, watt_hours / watts.low)


def _idle_hours(target: Target, watt_hours: float | None) -> float | None:
    idle = target.power.idle_watts.value
    return watt_hours / idle if idle and watt_hours is not None else None


def _support(target: Target, machine: Machine, *, own: bool) -> str:
    if own:
        return "measured on the machine that the target describes"
    count = sum(fitted().sources.get(target.board, {}).values())
    if count:
        return f"{count} measured rows of this board, and those of others for what they lack"
    return f"no measured row of this board: its data sheet, and rows of other {machine.kind} cores"
