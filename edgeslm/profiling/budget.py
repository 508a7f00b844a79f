"""Runs that keep to a time budget: fewer of them first, then shorter ones; pure.

A model that does not fit into memory is read from the disk for every token, and a run that takes a
second elsewhere takes minutes. What is left must still tell something: three counted runs, and of
each kind a few tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_FEWEST_REPEATS = 3
_FEWEST_TOKENS = 4
_SHORTEST_PROMPT = 16


@dataclass(frozen=True)
class Runs:
    """What is to be run; see `Settings` for the meaning of each."""

    prompt_tokens: int
    generated_tokens: int
    depths: tuple[int, ...]
    repeats: int

    def seconds(self, reading: float, writing: float) -> float:
        """How long they take at so many tokens per second of prefill and decode.

        Runs that warm up and the filling of the cache are included.
        """
        each = self.prompt_tokens / reading + self.generated_tokens / writing
        return (self.repeats + 1) * len(self.depths) * each + sum(self.depths) / reading


def shortened(runs: Runs, reading: float, writing: float, budget_seconds: float) -> Runs:
    """`runs` if they keep to the budget, or what is left of them.

    Depths that take longer to fill than the whole budget are given up first, but not the last one
    that is left; the shortest runs there are may take longer than the budget.
    """
    if runs.seconds(reading, writing) <= budget_seconds:
        return runs
    first, *deeper = runs.depths
    depths = (first, *(each for each in deeper if each / reading < budget_seconds / 2))
    fewest = min(runs.repeats, _FEWEST_REPEATS)
    for repeats in range(runs.repeats, fewest - 1, -1):
        found = replace(runs, depths=depths, repeats=repeats)
        if found.seconds(reading, writing) <= budget_seconds:
            return found
    left = budget_seconds - sum(depths) / reading
    half = max(left, 0.0) / ((fewest + 1) * len(depths)) / 2
    return Runs(
        prompt_tokens=_within(half * reading, _SHORTEST_PROMPT, runs.prompt_tokens),
        generated_tokens=_within(half * writing, _FEWEST_TOKENS, runs.generated_tokens),
        depths=depths,
        repeats=fewest,
    )


def difference(wanted: Runs, found: Runs, budget_seconds: float) -> str | None:
    """What was shortened, as a sentence; None if nothing was."""
    if wanted == found:
        return None
    parts = [
        f"{name} {getattr(wanted, field)} -> {getattr(found, field)}"
        for name, field in (
            ("runs", "repeats"),
            ("prompt", "prompt_tokens"),
            ("tokens", "generated_tokens"),
        )
        if getattr(wanted, field) != getattr(found, field)
    ]
    gone = [f"{depth}" for depth in wanted.depths if depth not in found.depths]
    parts += [f"without depth {', '.join(gone)}"] if gone else []
    return f"shortened to keep to {budget_seconds:g} seconds: {', '.join(parts)}"


def _within(value: float, least: int, most: int) -> int:
    return min(most, max(least, int(value)))
