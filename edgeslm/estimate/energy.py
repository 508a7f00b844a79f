"""What a token should cost: the board's watts under load over tokens per second.

Gross, not idle-subtracted: the board has to be on for as long as it computes.
"""

from __future__ import annotations

from edgeslm.records import Figure, Provenance
from edgeslm.targets.target import Target


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


def seconds_per_token(target: Target, joules_per_token: float) -> float | None:
    """How long a token may take to cost at most so much; None where the watts are unknown."""
    watts = target.power.load_watts.value
    return None if watts is None else joules_per_token / watts
