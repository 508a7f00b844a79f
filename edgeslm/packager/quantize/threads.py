"""Several things at a time, each on one core.

A BLAS with threads of its own, called from several of ours, spends its time waiting: on two
cores that others use too, a product of small matrices was seen to take 30 times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TypeVar

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
