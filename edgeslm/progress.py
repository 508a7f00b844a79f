"""One way to show progress: a bar on a terminal's stderr, silence everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

Advance = Callable[[int], None]
"""Called with how much was done since the last call, in the bar's unit."""
_OFTEN, _SELDOM = 10, 0.5
"""Times per second that a bar is drawn; a long one must not disturb what is being measured."""


@contextmanager
def bar(title: str, total: int, *, unit: str = "steps") -> Iterator[Advance]:
    """Show one bar while the block runs; yields the function that advances it.

    Args:
        title: What is being done, in a few words.
        total: The amount at which the bar is full; where more is done, it grows.
        unit: "bytes" prints sizes and a rate, "share" a percentage, for what takes long; anything
            else prints counts.
    """
    if not sys.stderr.isatty():
        yield _ignore
        return
    progress = _build(unit)
    with progress:
        task = progress.add_task(title, total=total)
        done = 0

        def advance(amount: int) -> None:
            nonlocal done
            done += amount
            progress.update(task, completed=done, total=max(total, done))

        yield advance


def note(message: str) -> None:
    """One line for a person who watches; nothing where nobody does."""
    if sys.stderr.isatty():
        print(message, file=sys.stderr)


def _ignore(amount: int) -> None:
    """Advance a bar that nobody sees."""


def _build(unit: str) -> Progress:
    from rich import progress as rich
    from rich.console import Console

    counts: list[rich.ProgressColumn] = [rich.MofNCompleteColumn()]
    if unit == "bytes":
        counts = [rich.DownloadColumn(), rich.TransferSpeedColumn()]
    elif unit == "share":
        counts = [rich.TaskProgressColumn()]
    return rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        *counts,
        rich.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=_SELDOM if unit == "share" else _OFTEN,
    )
