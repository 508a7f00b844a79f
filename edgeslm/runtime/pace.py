"""How many threads to use, from what was seen of the machine lately; pure.

All threads of a step wait for each other, many times in each layer. If another program runs on one
of their cores, every wait lasts until that program is put aside: two threads on two cores, one of
them half taken, are slower than one thread by several times. So a core that others want is left to
them at once, and taken back only when it was free for a while; the longer, the more often that
turned out wrong.

Heat is slow. A board that is too warm lowers its clocks; one thread fewer often costs little speed,
since reading memory sets the pace, and much less heat. Whether that is so here is seen from the
speed afterwards; if not, the thread comes back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

_TOLERATED = 0.35
"""Of a core: others may want this much without a thread of ours giving way."""
_CALM = 0.2
"""Of a core: what others may want at most for a thread to come back."""
_PLAIN = 0.75
"""Of a core: others want so much beyond what is free that one window is proof enough."""
_SATURATED = 0.9
_MOST_WANTED = 4
"""What others want is not counted beyond this many times the cores."""
_LEAST_SHARE = 1e-3
COLLAPSED = 3.0
"""A step that takes so many times as long as usual."""

_PATIENCE, _MOST_PATIENCE = 4.0, 64.0
_SOON = 30.0
"""Seconds: a thread that came back and has to give way again within these came back too early."""

_HEAT_SETTLES = 20.0
_COOL_SECONDS = 60.0
_COOLER = 8.0
"""Degrees below the limit at which a thread comes back."""
_NO_USE_SECONDS = 600.0
_LOSS = 0.85
"""A thread fewer that leaves less of the speed than this was no help."""


@dataclass(frozen=True)
class Limits:
    """What there is.

    Attributes:
        cores: Cores that this process may use.
        threads: Most threads to use.
    """

    cores: float
    threads: int


@dataclass(frozen=True)
class Work:
    """Steps that computed the same number of tokens each, and the seconds they took together."""

    steps: int
    seconds: float


@dataclass(frozen=True)
class Observation:
    """What was seen in a window of time.

    Attributes:
        seconds: Its length.
        own_cores: Mean number of cores this process computed on; None where nobody tells.
        asked_cores: The same, had its threads never waited for a core.
        other_cores: Mean number of cores that everybody else computed on.
        polite_cores: The same for programs of lower priority: they mostly take what is free.
        slowness: How many times as long as usual a step took, with these threads; None if unknown.
        work: Steps that took answers on, by how many tokens each computed.
        too_warm: The machine is held back, or as warm as it may be.
        cool: It is well below that, or does not say how warm it is.
    """

    seconds: float
    own_cores: float | None = None
    asked_cores: float = 0.0
    other_cores: float | None = None
    polite_cores: float = 0.0
    slowness: float | None = None
    work: Mapping[int, Work] = field(default_factory=dict)
    too_warm: bool = False
    cool: bool = True


@dataclass(frozen=True)
class Crowd:
    """Threads that others' programs leave us, and what led there."""

    threads: int
    suspected: int = 0
    calm_seconds: float = 0.0
    calm_threads: int = 0
    patience: float = _PATIENCE
    raised_ago: float = math.inf


@dataclass(frozen=True)
class Warmth:
    """Threads that the heat leaves us, and what led there."""

    threads: int
    changed_ago: float = math.inf
    cool_seconds: float = 0.0
    warm_windows: int = 0
    work_before: Mapping[int, Work] = field(default_factory=dict)
    useless_for: float = 0.0


@dataclass(frozen=True)
class Pace:
    """How many threads to use now: the fewer of what others and the heat leave."""

    crowd: Crowd
    warmth: Warmth

    @property
    def threads(self) -> int:
        """At least one."""
        return max(1, min(self.crowd.threads, self.warmth.threads))


def full(limits: Limits) -> Pace:
    """All threads."""
    return Pace(Crowd(limits.threads), Warmth(limits.threads))


def next_pace(pace: Pace, seen: Observation, limits: Limits) -> Pace:
    """What follows from one more window."""
    crowd = _next_crowd(pace.crowd, seen, limits)
    moved = crowd.threads != pace.crowd.threads
    return Pace(crowd, _next_warmth(pace.warmth, seen, limits, moved=moved))


def wanted_by_others(seen: Observation, limits: Limits) -> float | None:
    """How many cores other programs would use if they had them; None where nobody tells.

    Where all cores are busy, each program gets less than it wants: a thread of theirs as much as a
    thread of ours. Programs of lower priority count only by what they took from us.
    """
    if seen.other_cores is None or seen.own_cores is None:
        return None
    lost = max(seen.asked_cores - seen.own_cores, 0.0)
    polite = min(seen.polite_cores, lost)
    busy = seen.own_cores + seen.other_cores + polite
    if busy < _SATURATED * limits.cores or not lost:
        return seen.other_cores + polite
    share = max(seen.own_cores / seen.asked_cores, _LEAST_SHARE)
    return min(seen.other_cores / share + polite, _MOST_WANTED * limits.cores)


def _next_crowd(crowd: Crowd, seen: Observation, limits: Limits) -> Crowd:
    wanted = wanted_by_others(seen, limits) or 0.0
    if (seen.slowness or 0.0) >= COLLAPSED and _may_have_lost(seen):
        wanted = max(wanted, limits.cores - crowd.threads + 1)
    crowd = replace(crowd, raised_ago=crowd.raised_ago + seen.seconds)
    if crowd.threads == limits.threads and crowd.raised_ago > 2 * _MOST_PATIENCE:
        crowd = replace(crowd, patience=_PATIENCE)
    left = _threads(limits, wanted - _TOLERATED)
    if left < crowd.threads:
        excess = crowd.threads + wanted - limits.cores
        if excess < _PLAIN and not crowd.suspected:
            return replace(crowd, suspected=1, calm_seconds=0.0)
        return _give_way(crowd, left)
    free = _threads(limits, wanted - _CALM)
    if free <= crowd.threads:
        return replace(crowd, suspected=0, calm_seconds=0.0)
    return _take_back(crowd, free, seen.seconds)


def _may_have_lost(seen: Observation) -> bool:
    """Whether our threads waited for cores: a longer context makes steps slow without that."""
    return seen.own_cores is None or seen.asked_cores - seen.own_cores > _CALM


def _threads(limits: Limits, taken: float) -> int:
    """Whole threads in what is left when others have `taken` cores."""
    return max(1, min(limits.threads, math.floor(limits.cores - max(taken, 0.0) + 1e-9)))


def _give_way(crowd: Crowd, left: int) -> Crowd:
    too_early = crowd.raised_ago < _SOON
    return Crowd(
        threads=left,
        patience=min(crowd.patience * 2, _MOST_PATIENCE) if too_early else crowd.patience,
        raised_ago=crowd.raised_ago,
    )


def _take_back(crowd: Crowd, free: int, seconds: float) -> Crowd:
    calm = crowd.calm_seconds + seconds
    least = min(free, crowd.calm_threads) if crowd.calm_seconds else free
    if calm < crowd.patience:
        return replace(crowd, suspected=0, calm_seconds=calm, calm_threads=least)
    return Crowd(threads=least, patience=crowd.patience, raised_ago=0.0)


def _next_warmth(warmth: Warmth, seen: Observation, limits: Limits, *, moved: bool) -> Warmth:
    warmth = replace(
        warmth,
        changed_ago=warmth.changed_ago + seen.seconds,
        cool_seconds=warmth.cool_seconds + seen.seconds if seen.cool else 0.0,
        warm_windows=warmth.warm_windows + 1 if seen.too_warm else 0,
        useless_for=max(0.0, warmth.useless_for - seen.seconds),
        work_before={} if moved else warmth.work_before,
    )
    if warmth.changed_ago < _HEAT_SETTLES:
        return warmth
    if _was_no_use(warmth, seen):
        more = min(limits.threads, warmth.threads + 1)
        return Warmth(more, changed_ago=0.0, useless_for=_NO_USE_SECONDS)
    least = max(1, limits.threads // 2)
    if warmth.warm_windows > 1 and not warmth.useless_for and warmth.threads > least:
        return Warmth(warmth.threads - 1, changed_ago=0.0, work_before=seen.work)
    if warmth.cool_seconds >= _COOL_SECONDS and warmth.threads < limits.threads:
        return Warmth(warmth.threads + 1, changed_ago=0.0, useless_for=warmth.useless_for)
    return replace(warmth, work_before={})


def _was_no_use(warmth: Warmth, seen: Observation) -> bool:
    """Whether the thread that was given up slowed us down, though the heat stayed or went.

    Steps of several tokens cost hardly more than steps of one: only such as compute the same number
    are compared.
    """
    pairs = [
        (work, warmth.work_before[tokens])
        for tokens, work in seen.work.items()
        if tokens in warmth.work_before
    ]
    as_before = sum(now.steps * before.seconds / before.steps for now, before in pairs)
    return as_before < _LOSS * sum(now.seconds for now, _ in pairs)


def cooler(celsius: float | None, limit: float) -> bool:
    """Whether a temperature is well below the limit; one that nobody knows is."""
    return celsius is None or celsius <= limit - _COOLER
