"""What streaming answers share: showing text, stopping on Ctrl-C, one line of figures."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeslm.cli.output import terminal_text
from edgeslm.units import format_seconds, significant

if TYPE_CHECKING:
    from edgeslm.runtime.generation import Generation


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """While the block runs, Ctrl-C sets the event instead of ending the program."""
    event = threading.Event()

    def handle(_signal: int, _frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt  # the second one means it
        event.set()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def outliving_hangup() -> Iterator[Callable[[], int | None]]:
    """While the block runs, a signal to end is only remembered, so that nothing is lost.

    Yields what tells its number, None while there was none. A block that fails after such a
    signal ends the program.
    """
    numbers: list[int] = []
    former = {
        number: signal.signal(number, lambda received, _frame: numbers.append(received))
        for number in (signal.SIGHUP, signal.SIGTERM)
        if signal.getsignal(number) != signal.SIG_IGN  # under nohup it means nothing
    }
    try:
        yield lambda: numbers[0] if numbers else None
    except Exception:
        if numbers:
            sys.exit(128 + numbers[0])
        raise
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def show(text: str) -> None:
    """Print a piece of an answer at once."""
    sys.stdout.write(terminal_text(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def statistics_line(answer: Generation) -> str:
    """Figures of an answer: 14 + 8 tokens, first after 120 ms, 98 tokens/s."""
    parts = [
        f"{answer.prompt_tokens} + {len(answer.tokens)} tokens",
        f"first after {format_seconds(answer.prefill_seconds)}",
    ]
    if answer.decode_tokens_per_second:
        parts.append(f"{significant(answer.decode_tokens_per_second)} tokens/s")
    if answer.drafted_tokens:
        parts.append(f"{answer.accepted_tokens} of {answer.drafted_tokens} guesses right")
    return ", ".join([*parts, *ending(answer)])


def ending(answer: Generation) -> list[str]:
    """What else ended an answer than the model itself; nothing if that did."""
    reason = answer.finish_reason.value
    return [] if reason == "stop" else [f"ended by {reason}"]
