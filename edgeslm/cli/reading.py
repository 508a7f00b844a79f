"""What a person types in a chat: lines, several lines, pasted text.

Line editing, completion and the list of what was typed come from readline where Python has it.
Where readline knows bracketed paste, text that is pasted arrives whole, line breaks included.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edgeslm.files import state_folder

_FENCE = '"""'
_MOST_LINES = 1000
_PRIVATE = 0o600

Complete = Callable[[str, str], Sequence[str]]
"""From a line up to the word that is being typed, and that word, to what the word may become."""


class Reader:
    """Reads one message after the other.

    Args:
        interactive: A person types, who sees prompts.
    """

    def __init__(self, *, interactive: bool) -> None:
        self._interactive = interactive
        self._prefill = ""

    def read(self) -> str:
        """The next message or command; may be several lines.

        Raises:
            EOFError: there is no more.
            KeyboardInterrupt: Ctrl-C.
        """
        line = self._line("> ")
        if line.strip().startswith(_FENCE):
            return self._fenced(line.strip()[len(_FENCE) :])
        lines = []
        while line.endswith("\\"):
            lines.append(line[:-1])
            line = self._line(". ")
        return "\n".join([*lines, line])

    def offer(self, text: str) -> bool:
        """Begin the next line with `text`, to be edited; False where lines cannot be edited."""
        edited = self._interactive and sys.stdout.isatty() and "readline" in sys.modules
        if not edited:
            return False
        self._prefill = text
        return True

    def _fenced(self, line: str) -> str:
        lines = []
        while not line.rstrip().endswith(_FENCE):
            lines.append(line)
            line = self._line(". ")
        lines.append(line.rstrip()[: -len(_FENCE)])
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str) -> str:
        if not self._prefill:
            return input(prompt if self._interactive else "")
        import readline

        text, self._prefill = self._prefill, ""
        readline.set_startup_hook(lambda: readline.insert_text(text))
        try:
            return input(prompt)
        finally:
            readline.set_startup_hook()


@contextlib.contextmanager
def line_editing(complete: Complete, *, keep: bool) -> Iterator[None]:
    """Line editing while the block runs.

    Args:
        complete: What Tab may make of a word.
        keep: Bring back what was typed in former chats, and keep this one's for the next.
    """
    try:
        import readline
    except ImportError:
        yield
        return
    if "libedit" in (readline.__doc__ or ""):
        readline.parse_and_bind("bind ^I rl_complete")
    else:
        readline.parse_and_bind("tab: complete")
        readline.parse_and_bind("set enable-bracketed-paste on")
    readline.set_completer_delims(" \t\n")
    readline.set_completer(_completer(complete))
    path = state_folder("typed") if keep else None
    if path is None:
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        _keep_lines(path)


def _completer(complete: Complete) -> Callable[[str, int], str | None]:
    found: Sequence[str] = ()

    def completed(word: str, index: int) -> str | None:
        """Asked for with 0, 1, ... until there are no more."""
        nonlocal found
        import readline

        if index == 0:
            found = complete(readline.get_line_buffer()[: readline.get_begidx()], word)
        return found[index] if index < len(found) else None

    return completed


def _keep_lines(path: Path) -> None:
    import readline

    for index in range(readline.get_current_history_length()):
        line = readline.get_history_item(index + 1) or ""
        if "\n" in line:  # the file has a line for each
            readline.replace_history_item(index, " ".join(line.splitlines()))
    readline.set_history_length(_MOST_LINES)
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=_PRIVATE)
        readline.write_history_file(path)
