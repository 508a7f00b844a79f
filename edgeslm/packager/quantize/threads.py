"""Several things at a time, each on one core.

A BLAS with threads of its own, called from several of ours, spends its time waiting: on two
cores that others use too, a product of small matrices was seen to take 30 times as long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import TypeVar

FORMS_BYTES = 2_500_000_000
"""Memory for forms that are in use at the same time."""

_T = TypeVar("_T")
_R = TypeVar("_R")


def one_blas_thread() -> AbstractContextManager[object]:
    """While the block runs, numpy's products use the calling thread only."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    limits: AbstractContextManager[object] = threadpool_limits(limits=1)
    return limits


class Room:
    """Memory that several threads share: who needs more than is left waits."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Wait for `count` bytes and keep them while the block runs; more than all is all."""
        count = min(count, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._taken + count <= self._most)
            self._taken += count
        try:
            yield
        finally:
            with self._changed:
                self._taken -= count
                self._changed.notify_all()


def in_order(
    function: Callable[[_T], _R], items: Iterable[_T], pool: ThreadPoolExecutor, ahead: int
) -> Iterator[_R]:
    """`function` of each item, in their order, with at most `ahead` results waiting."""
    rest = iter(items)
    waiting = [pool.submit(function, item) for item in islice(rest, ahead)]
    try:
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(function, item) for item in islice(rest, 1)]
    finally:
        for future in waiting:
            future.cancel()
