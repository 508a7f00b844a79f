from __future__ import annotations

import signal
import threading

import pytest

from edgeslm.signals import signals_deferred


def test_a_signal_takes_effect_after_the_block() -> None:
    with pytest.raises(KeyboardInterrupt), signals_deferred() as pending:
        signal.raise_signal(signal.SIGINT)
        assert pending == [signal.SIGINT]


def test_the_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with signals_deferred():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def look() -> None:
        with signals_deferred() as pending:
            seen.append((signal.getsignal(signal.SIGINT), pending))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(before, [])]
