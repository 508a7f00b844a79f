"""Settings with which a model fits into the memory there is, in a stated order.

What costs least to give up goes first:

    1. no guessing ahead       the answer is the same; text that is copied comes more slowly
    2. smaller micro-batches   the answer is the same; prompts are read somewhat more slowly
    3. a KV cache in Q8_0      half of the cache, for a change in quality that is hard to measure
    4. fewer slots             as many answers as before, but fewer of them at a time
    5. a shorter context       less of a text can be read, so this comes last, down to a floor

Each goes only as far as is needed, and what it saves is saved for good: a later step does not undo
an earlier one. What the user set is never changed. If the rest does not suffice, the refusal names
the nearest setting that would do. Pure: headers and numbers, nothing is loaded.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from edgeslm.errors import NotEnoughMemory
from edgeslm.estimate.cache import can_hold
from edgeslm.estimate.memory import plan_memory, together
from edgeslm.gguf.reader import Header
from edgeslm.gguf.types import TENSOR_TYPES
from edgeslm.records import MemoryPlan
from edgeslm.units import format_bytes

LEAST_UBATCH = 32
"""Below it, prompts are read hardly faster than answers are written, and little is saved."""
LEAST_CONTEXT = 256
"""A chat template, a short question and an answer; llama.cpp's caches come in steps of as much."""
_STEP = 256
_SMALL_KV = "Q8_0"


@dataclass(frozen=True)
class Settings:
    """What decides on memory, beside the model.

    Attributes:
        context: Tokens of one prompt and its answer.
        kv_type: Type of cached keys and values.
        ubatch: Tokens computed at once.
        slots: Answers computed at a time, each with a context of its own.
        rows: Rows of logits that one decode may give: more than one to guess ahead with.
    """

    context: int = 2048
    kv_type: str = "F16"
    ubatch: int = 512
    slots: int = 1
    rows: int = 1


@dataclass(frozen=True)
class Step:
    """One setting that was changed, and what that saves."""

    setting: str
    before: str
    after: str
    saved_bytes: int

    @property
    def sentence(self) -> str:
        """As in "context 2048 -> 1024: it saves 23.6 MB, longer texts do not fit"."""
        return (
            f"{_NAMES[self.setting]} {self.before} -> {self.after}: it saves "
            f"{format_bytes(self.saved_bytes)}, {_COSTS[self.setting]}"
        )


@dataclass(frozen=True)
class Fitting:
    """Settings that fit, the plan for them, and how they differ from what was wished for."""

    settings: Settings
    plan: MemoryPlan
    steps: tuple[Step, ...]


_NAMES = {
    "rows": "tokens at a time",
    "ubatch": "ubatch",
    "kv_type": "KV cache",
    "slots": "slots",
    "context": "context",
}
_OPTIONS = {
    "ubatch": "--ubatch",
    "kv_type": "--kv-type",
    "slots": "--slots",
    "context": "--context",
}
_COSTS = {
    "rows": "nothing is guessed ahead",
    "ubatch": "prompts are read more slowly",
    "kv_type": "the quality hardly changes",
    "slots": "more requests wait for each other",
    "context": "longer texts do not fit",
}


def plan_for(
    headers: Sequence[Header], settings: Settings, *, features: Collection[str] = ()
) -> MemoryPlan:
    """The plan of one process that holds all these models, each with these settings."""
    return together(
        plan_memory(
            header,
            context_length=settings.context * settings.slots,
            kv_type=settings.kv_type,
            ubatch=settings.ubatch,
            sequences=settings.slots,
            rows=settings.rows,
            features=features,
        )
        for header in headers
    )


def fit(
    headers: Sequence[Header],
    wishes: Settings,
    available_bytes: int,
    *,
    explicit: Collection[str] = (),
    features: Collection[str] = (),
    beside_bytes: int = 0,
) -> Fitting:
    """The settings nearest to `wishes` with which the models fit.

    Args:
        headers: The models, which share the settings and one process.
        wishes: What to begin with.
        available_bytes: What the process may have resident.
        explicit: Names of settings that the user gave: they stay.
        features: The processor's, see `plan_memory`.
        beside_bytes: What the process needs beyond the plan.

    Raises:
        NotEnoughMemory: nothing that may be changed suffices; the hint has what would do.
        InvalidGGUF, InvalidOption: as from `plan_memory`.
    """

    def needed(settings: Settings) -> int:
        return plan_for(headers, settings, features=features).needed_bytes + beside_bytes

    def fits(settings: Settings) -> bool:
        return needed(settings) <= available_bytes

    order = [
        name
        for name in _NAMES
        if name != "kv_type" or all(can_hold(header, _SMALL_KV) for header in headers)
    ]
    settings, steps = wishes, []
    for name in order:
        if fits(settings):
            break
        changed = settings if name in explicit else _reduced(settings, name, fits)
        saved = needed(settings) - needed(changed)
        if saved > 0:
            steps.append(_step(name, settings, changed, saved))
            settings = changed
    if not fits(settings):
        raise _refusal(wishes, settings, available_bytes, needed, explicit, order)
    return Fitting(settings, plan_for(headers, settings, features=features), tuple(steps))


def _reduced(settings: Settings, name: str, fits: Callable[[Settings], bool]) -> Settings:
    """The largest smaller value of one setting that fits, else the smallest."""

    def with_value(value: Any) -> Settings:
        return dataclasses.replace(settings, **{name: value})

    values = _smaller(settings, name)
    if not values:
        return settings
    # less takes less, so all after the first that fits do
    place = bisect_left(values, True, key=lambda value: fits(with_value(value)))
    return with_value(values[min(place, len(values) - 1)])


def _smaller(settings: Settings, name: str) -> Sequence[Any]:
    """Values of one setting that take less than it has, most first."""
    if name == "rows":
        return [1] if settings.rows > 1 else []
    if name == "ubatch":
        halves = (settings.ubatch >> shift for shift in range(1, settings.ubatch.bit_length()))
        return [half for half in halves if half >= LEAST_UBATCH]
    if name == "kv_type":
        return [_SMALL_KV] if _bits(settings.kv_type) > _bits(_SMALL_KV) else []
    if name == "slots":
        return range(settings.slots - 1, 0, -1)
    highest = (settings.context - 1) // _STEP * _STEP
    return range(highest, LEAST_CONTEXT - 1, -_STEP)


def _option(name: str, settings: Settings) -> str:
    """How a user says it."""
    if name == "rows":
        return "--no-speculate" if settings.rows == 1 else "--speculate"
    return f"{_OPTIONS[name]} {getattr(settings, name)}"


def _bits(kv_type: str) -> float:
    return next(
        (kind.bits_per_weight for kind in TENSOR_TYPES.values() if kind.name == kv_type), 0.0
    )


def _step(name: str, before: Settings, after: Settings, saved: int) -> Step:
    return Step(name, str(getattr(before, name)), str(getattr(after, name)), saved)


def _refusal(
    wishes: Settings,
    reduced: Settings,
    available: int,
    needed: Callable[[Settings], int],
    explicit: Collection[str],
    order: Sequence[str],
) -> NotEnoughMemory:
    """What is missing, and the one setting that the user could change to have it fit."""
    least = needed(reduced)
    message = (
        f"{format_bytes(least)} of memory are needed"
        f"{_with(reduced, wishes, explicit)}, {format_bytes(available)} may be used"
    )
    for name in order:
        if name not in explicit:
            continue
        changed = _reduced(reduced, name, lambda settings: needed(settings) <= available)
        if needed(changed) <= available:
            return NotEnoughMemory(message, hint=f"It fits with {_option(name, changed)}.")
    smallest = reduced
    for name in order:
        smallest = _reduced(smallest, name, lambda settings: needed(settings) <= available)
    if needed(smallest) <= available:
        changes = [
            _option(name, smallest)
            for name in _NAMES
            if getattr(smallest, name) != getattr(reduced, name)
        ]
        return NotEnoughMemory(message, hint=f"It fits with {' '.join(changes)}.")
    missing = needed(smallest) - available
    return NotEnoughMemory(
        message,
        hint=f"Free {format_bytes(missing)}, or make the model that much smaller: "
        "edgeslm quantize --size S",
    )


def _with(reduced: Settings, wishes: Settings, explicit: Collection[str]) -> str:
    """The settings that the message is about: what was asked for, and how far the rest went."""
    named = [
        _option(name, reduced)
        for name in _NAMES
        if name in explicit or getattr(reduced, name) != getattr(wishes, name)
    ]
    return f" with {' '.join(named)}" if named else ""
