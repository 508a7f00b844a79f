"""Signals that have to wait for what must not be interrupted in its middle."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_DEFERRED = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextmanager
def signals_deferred() -> Iterator[list[int]]:
    """While the block runs, signals are only noted in the list; afterwards they take effect.

    Native code, above all, calls back into Python (the log, the abort question), and what a
    signal's handler raises in there is lost. Elsewhere than in the main thread nothing happens.
    """
    pending: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield pending
        return
    handlers = {number: signal.getsignal(number) for number in _DEFERRED}
    ours = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in ours:
        signal.signal(number, lambda noted, _frame: pending.append(noted))
    try:
        yield pending
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        for number in pending:
            signal.raise_signal(number)
