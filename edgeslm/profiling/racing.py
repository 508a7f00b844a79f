"""Which of several settings is the fastest, in few runs: measured in turn, and judged with care.

Settings run in rounds, one run of each, so that what slows the machine for a while slows all of
them; every second round goes backwards. One that is clearly slower than the leader runs no more. A
difference smaller than what runs of the same setting differ by is no difference: then the simpler
setting stays. Nothing here knows what is measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_NO_DIFFERENCE = 0.02
"""Of the median: two settings closer than this are equal, however steady they run."""
_HOPELESS = 0.9
"""After two rounds: the best run of the one, as part of the worst of the leader."""


@dataclass(frozen=True)
class Rounds:
    """How often each setting runs: at least, and at most while several may be the fastest."""

    least: int = 3
    most: int = 5


@dataclass(frozen=True)
class Race(Generic[T]):
    """What came of it.

    Attributes:
        samples: The speeds of each setting, in the order they were measured.
        given_up: Settings that were clearly slower, and ran no more.
        best: The simplest of those that none is clearly faster than.
    """

    samples: dict[T, tuple[float, ...]]
    given_up: tuple[T, ...]
    best: T


def race(
    settings: Sequence[T],
    measure: Callable[[T], float],
    rounds: Rounds,
    *,
    after_run: Callable[[int], None] = lambda _: None,
) -> Race[T]:
    """Measure `settings` and choose one.

    Args:
        settings: At least one, each once, the simplest first.
        measure: One run; higher is better.
        rounds: How often.
        after_run: Called with the number of runs that are done, or need not be done, since.
    """
    samples: dict[T, list[float]] = {setting: [] for setting in settings}
    alive = list(settings)
    for number in range(rounds.most):
        for setting in alive if number % 2 == 0 else reversed(alive):
            samples[setting].append(measure(setting))
            after_run(1)
        alive = _still_running(alive, samples, rounds)
        if len(alive) == 1 and number + 1 >= rounds.least:
            break
    leader = max(alive, key=lambda setting: statistics.median(samples[setting]))
    best = next(
        setting for setting in alive if not clearly_faster(samples[leader], samples[setting])
    )
    given_up = tuple(setting for setting in settings if setting not in alive)
    return Race({each: tuple(samples[each]) for each in settings}, given_up, best)


def clearly_faster(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the medians differ by more than both spreads together, and by 2 %."""
    first, second = statistics.median(one), statistics.median(other)
    return first - second > max(spread(one) + spread(other), _NO_DIFFERENCE * second)


def spread(samples: Sequence[float]) -> float:
    """The median distance from the median: one disturbed run does not count."""
    middle = statistics.median(samples)
    return statistics.median(abs(sample - middle) for sample in samples)


def _still_running(alive: list[T], samples: dict[T, list[float]], rounds: Rounds) -> list[T]:
    """Those that may still turn out to be the fastest."""
    leader = samples[max(alive, key=lambda setting: statistics.median(samples[setting]))]
    if len(leader) < min(2, rounds.least):
        return alive
    if len(leader) < rounds.least:
        return [each for each in alive if max(samples[each]) >= _HOPELESS * min(leader)]
    return [each for each in alive if not clearly_faster(leader, samples[each])]


def counts(most: int) -> tuple[int, ...]:
    """Numbers of threads worth a try: all up to 8, then ever wider steps, and `most`."""
    found = list(range(1, min(most, 8) + 1))
    while found[-1] < most:
        found.append(min(most, found[-1] + max(2, found[-1] // 2)))
    return tuple(found)


def between(found: Sequence[int], best: int) -> tuple[int, ...]:
    """Numbers halfway from `best` to its neighbours in `found`, where there are any."""
    place = list(found).index(best)
    neighbours = (*found[max(place - 1, 0) : place], *found[place + 1 : place + 2])
    middle = ((best + other) // 2 for other in neighbours)
    return tuple(number for number in middle if number not in found)
