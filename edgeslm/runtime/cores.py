"""The cores this process may use, in clusters of one speed, the fastest first.

On a big.LITTLE board the kernel states how fast each core is: `cpu_capacity` on ARM, elsewhere the
highest clock. Cores that differ a little are of one cluster: two pairs of the same kind may.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgeslm.files import small_text
from edgeslm.targets.control_groups import Group, control_groups

SYSFS_CPU = Path("/sys/devices/system/cpu")
_ALIKE = 0.8
"""A core at least this fast, of the fastest in a cluster, belongs to it."""


@dataclass(frozen=True)
class Cluster:
    """Cores of about one speed.

    Attributes:
        cores: Their numbers.
        physical: How many they are when a second thread on the same core does not count.
        capacity: Relative speed of the fastest as the kernel states it, 1024 for the best.
        kilohertz: Highest clock of the fastest.
    """

    cores: tuple[int, ...]
    physical: int
    capacity: int | None
    kilohertz: int | None


@dataclass(frozen=True)
class _Core:
    number: int
    capacity: int | None
    kilohertz: int | None

    @property
    def speed(self) -> int:
        return self.capacity or self.kilohertz or 0


def allowed_cores() -> tuple[int, ...]:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def clusters(sysfs: Path = SYSFS_CPU, allowed: Iterable[int] | None = None) -> tuple[Cluster, ...]:
    """Clusters of the allowed cores, the fastest first; one where nothing tells them apart."""
    numbers = allowed_cores() if allowed is None else tuple(sorted(allowed))
    cores = _described(sysfs, numbers)
    groups: list[list[_Core]] = []
    for core in sorted(cores, key=lambda core: (-core.speed, core.number)):
        if groups and core.speed >= _ALIKE * groups[-1][0].speed:
            groups[-1].append(core)
        else:
            groups.append([core])
    return tuple(_cluster(sysfs, group) for group in groups)


def core_sets(found: tuple[Cluster, ...]) -> tuple[tuple[int, ...] | None, ...]:
    """Which cores to try: wherever the system puts threads, then the fastest clusters only."""
    sets: list[tuple[int, ...] | None] = [None]
    cores: tuple[int, ...] = ()
    for cluster in found[:-1]:
        cores = tuple(sorted((*cores, *cluster.cores)))
        sets.append(cores)
    return tuple(sets)


def pin(cores: Iterable[int] | None) -> bool:
    """Have this thread, and those it starts from now on, run on `cores` only; whether it does.

    None leaves it where it is.
    """
    if cores is None or not hasattr(os, "sched_setaffinity"):
        return False
    try:
        os.sched_setaffinity(0, cores)
    except OSError:
        return False
    return True


@contextmanager
def pinned(cores: Collection[int] | None) -> Iterator[None]:
    """A block whose thread runs on `cores` only, with those it starts, as long as the block does.

    Threads that outlive it, as those that compute for llama.cpp do, may run anywhere again too.
    None changes nothing.
    """
    before = allowed_cores()
    if not pin(cores):
        yield
        return
    own, others = threading.get_native_id(), _threads()
    try:
        yield
    finally:
        for thread in {own} | (_threads() - others):
            with suppress(OSError):  # it has ended meanwhile
                if os.sched_getaffinity(thread) == set(cores or ()):
                    os.sched_setaffinity(thread, before)


def _threads() -> set[int]:
    """All threads of this process, as the kernel numbers them."""
    with suppress(OSError):
        return {int(task.name) for task in Path("/proc/self/task").iterdir()}
    return set()


def quota_cores(root: Path = Path("/")) -> float | None:
    """How many cores' time this process gets, by the tightest of its control groups; None for all.

    A service manager's CPUQuota and a container's limit are such groups.
    """
    quotas = (_quota(group) for group in control_groups("cpu", root))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(group: Group) -> float | None:
    """Microseconds of computing in each period of so many; "max" or -1 where there is no limit."""
    if group.version == 1:
        quota = small_text(group.folder / "cpu.cfs_quota_us")
        period = small_text(group.folder / "cpu.cfs_period_us")
    else:
        quota, _, period = small_text(group.folder / "cpu.max").partition(" ")
    if not quota.isdecimal() or not period.isdecimal():
        return None
    return int(quota) / int(period) if int(quota) and int(period) else None


def _described(sysfs: Path, numbers: tuple[int, ...]) -> list[_Core]:
    """Each core with what its files say; a figure that some core lacks tells nothing of any."""
    capacity = {core: _number(sysfs / f"cpu{core}" / "cpu_capacity") for core in numbers}
    clock = {
        core: _number(sysfs / f"cpu{core}" / "cpufreq" / "cpuinfo_max_freq") for core in numbers
    }
    all_capacities = None not in capacity.values()
    all_clocks = None not in clock.values()
    return [
        _Core(core, capacity[core] if all_capacities else None, clock[core] if all_clocks else None)
        for core in numbers
    ]


def _cluster(sysfs: Path, group: list[_Core]) -> Cluster:
    return Cluster(
        cores=tuple(sorted(core.number for core in group)),
        physical=len({_siblings(sysfs, core.number) for core in group}),
        capacity=group[0].capacity,
        kilohertz=max((core.kilohertz or 0 for core in group), default=0) or None,
    )


def _siblings(sysfs: Path, core: int) -> str:
    """The threads that share a core with this one, as the kernel lists them."""
    return small_text(sysfs / f"cpu{core}" / "topology" / "thread_siblings_list") or str(core)


def _number(path: Path) -> int | None:
    text = small_text(path)
    return int(text) if text.isdecimal() else None
