"""What streaming answers share: showing text, stopping on Ctrl-C, one line of figures."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
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
    if answer.finish_reason.value != "stop":
        parts.append(f"ended by {answer.finish_reason.value}")
    return ", ".join(parts)
