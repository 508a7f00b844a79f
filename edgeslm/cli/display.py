"""How a chat looks: answers as they come, what is said about them, and what a terminal can show.

Only SGR codes are ever printed, and none at all in plain mode. Whatever else in a text could steer
a terminal becomes U+FFFD, in a pipe too: it may end in one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator

from edgeslm.cli.markdown import DIM, Markdown
from edgeslm.cli.output import terminal_text
from edgeslm.cli.streaming import ending
from edgeslm.runtime.generation import Generation
from edgeslm.units import significant


def can_style() -> bool:
    """Whether stdout is a terminal with styles, and nobody asked for none."""
    return (
        sys.stdout.isatty()
        and os.environ.get("TERM", "dumb") != "dumb"
        and not os.environ.get("NO_COLOR")
    )


class Display:
    """Prints answers to stdout, and what is no part of the conversation to stderr.

    Args:
        styled: Show Markdown with styles; else answers are printed as they are.
        interactive: A person watches; nobody reads notes in a pipe.
    """

    def __init__(self, *, styled: bool, interactive: bool) -> None:
        self._styled = styled
        self._interactive = interactive
        self._dim = styled and sys.stderr.isatty()
        self.failure: OSError | None = None
        """Why nothing can be shown any more."""

    @contextlib.contextmanager
    def answer(self) -> Iterator[Callable[[str], None]]:
        """Yield what shows the pieces of an answer; its styles and its last line end with it."""
        markdown = Markdown() if self._styled else None
        shown = False

        def show(text: str) -> None:
            nonlocal shown
            shown = True
            self._write(markdown.feed(text) if markdown else terminal_text(text))

        try:
            yield show
            shown = True
        finally:
            if shown:
                self._write((markdown.finish() if markdown else "") + "\n")

    def tell(self, text: str) -> None:
        """Say something about the chat."""
        self._note(terminal_text(text))

    def hint(self, text: str) -> None:
        """The same, quietly."""
        text = terminal_text(text)
        self._note(f"\x1b[{DIM}m{text}\x1b[0m" if self._dim else text)

    def _note(self, text: str) -> None:
        if self._interactive:
            with contextlib.suppress(OSError):  # the terminal is gone; reading will tell
                print(text, file=sys.stderr, flush=True)

    def _write(self, text: str) -> None:
        """Print; a terminal that is gone ends nothing but the showing: what was said is kept."""
        if self.failure is None:
            try:
                sys.stdout.write(text)
                sys.stdout.flush()
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EPIPE):
                    raise
                self.failure = error


def status_line(answer: Generation, context_length: int, temperature_celsius: float | None) -> str:
    """What is worth a glance after each answer: 98 tokens/s, 345 of 2048 tokens, 54 °C."""
    parts = []
    if answer.decode_tokens_per_second:
        parts.append(f"{significant(answer.decode_tokens_per_second)} tokens/s")
    parts.append(f"{answer.prompt_tokens + len(answer.tokens)} of {context_length} tokens")
    if temperature_celsius is not None:
        parts.append(f"{temperature_celsius:.0f} °C")
    return ", ".join([*parts, *ending(answer)])
