"""What a token should cost: the board's watts under load over tokens per second.

Gross, not idle-subtracted: the board has to be on for as long as it computes.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeslm.estimate.speed_model import Interval
from edgeslm.records import Figure, Provenance
from edgeslm.targets.target import Target

_WATTS_ERROR: Mapping[Provenance | None, float] = {
    Provenance.MEASURED: 0.05,
    Provenance.PUBLISHED: 0.15,
}
_WATTS_UNSURE = 0.3


def decode_joules_per_token(target: Target, decode_tokens_per_second: Figure) -> Figure:
    """Joules per generated token at the given speed.

    A figure without a value says in `source` which of the two numbers is missing.
    """
    watts = target.power.load_watts
    speed = decode_tokens_per_second
    if watts.value is None:
        return Figure(None, None, f"unknown: the file of {target.id} has no power.load_watts")
    if not speed.value:
        return Figure(None, None, f"unknown: no decode speed ({speed.source})")
    return Figure(
        watts.value / speed.value,
        Provenance.ESTIMATED,
        f"{watts.value:g} W under load ({watts.source}) / {speed.value:.3g} tokens/s",
    )


def joules_between(target: Target, decode: Interval | None) -> Interval | None:
    """The same with its interval, from that of the speed; None where either is unknown."""
    watts = _watts(target)
    if watts is None or decode is None:
        return None
    return Interval(watts.value / decode.value, watts.low / decode.high, watts.high / decode.low)


def writing_hours(target: Target, watt_hours: float | None) -> Interval | None:
    """How long a battery lasts while the board writes; None where either is unknown."""
    watts = _watts(target)
    if watts is None or watt_hours is None:
        return None
    return Interval(watt_hours / watts.value, watt_hours / watts.high, watt_hours / watts.low)


def idle_hours(target: Target, watt_hours: float | None) -> float | None:
    """How long it lasts while the board waits; None where either is unknown."""
    idle = target.power.idle_watts.value
    return watt_hours / idle if idle and watt_hours is not None else None


def seconds_per_token(target: Target, joules_per_token: float) -> float | None:
    """How long a token may take to cost at most so much; None where the watts are unknown."""
    watts = target.power.load_watts.value
    return None if watts is None else joules_per_token / watts


def _watts(target: Target) -> Interval | None:
    """What the board draws while it writes: never less than at rest."""
    load, idle = target.power.load_watts, target.power.idle_watts
    if load.value is None:
        return None
    error = _WATTS_ERROR.get(load.provenance, _WATTS_UNSURE)
    least = max(load.value * (1 - error), min(idle.value or 0.0, load.value))
    return Interval(load.value, least, load.value * (1 + error))
