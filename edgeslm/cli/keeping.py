"""What is kept of a chat, under which file, and what its commands say about it."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Sequence
from pathlib import Path

from edgeslm.cli.output import one_line, warn
from edgeslm.errors import UserError, writing
from edgeslm.files import atomic_path
from edgeslm.runtime.history import Entry, History, Kept, messages_text, read_conversation
from edgeslm.runtime.messages import Message

_TITLE_WIDTH = 40
_MOST_LISTED = 20


class Keeper:
    """Keeps one conversation after the other, each in its file.

    Args:
        history: The folder of conversations; None keeps nothing.
        model: The name of the model that answers.
        digest: Of its file.
    """

    def __init__(self, history: History | None, model: str, digest: str | None = None) -> None:
        self._history = history
        self._model = model
        self._digest = digest
        self._path: Path | None = None
        self._stopped = False

    @property
    def keeps(self) -> bool:
        """Whether conversations are kept."""
        return self._history is not None and not self._stopped

    def keep(self, messages: Sequence[Message]) -> Path | None:
        """Write the conversation as it is now; where it lies, if it is kept.

        None where none are kept, or nothing was said in this one.

        Raises:
            OutputFailure: it cannot be written.
        """
        if self._history is None or self._stopped:
            return None
        self._path = self._path or self._history.new_path()
        kept = Kept(tuple(messages), self._model, self._digest)
        self._history.keep(kept, self._path)
        return self._path if kept.exchanges else None

    def stop(self) -> None:
        """Keep nothing any more."""
        self._stopped = True

    def begin(self) -> None:
        """What follows is another conversation."""
        self._path = None

    def last(self) -> tuple[tuple[Message, ...], str] | None:
        """The conversation held last with this model, to go on with, and what to say about it.

        None where there is none, which the user is told.

        Raises:
            EdgeslmError: it cannot be read.
        """
        history = self._required()
        entry = history.last(self._model, self._digest)
        if entry is not None:
            return self._go_on(entry)
        kept = f"no conversation with {self._model} is kept"
        if history.last(self._model) is not None:
            kept = f"the conversation kept was with another model called {self._model}"
        warn(f"{kept}: this one begins anew")
        return None

    def load(self, name: str) -> tuple[tuple[Message, ...], str]:
        """A conversation by its number or its file, and what to say about it.

        Raises:
            EdgeslmError: it cannot be read.
        """
        if not name:
            raise UserError("nothing was named", hint="/load 1 goes on with the last one kept.")
        if name.isascii() and name.isdigit() and len(name) < 10:
            return self._go_on(self._required().entry(int(name)))
        kept = read_conversation(Path(name).expanduser())
        self._path = None
        return kept.messages, self._note(kept)

    def save(self, messages: Sequence[Message], name: str) -> str:
        """Write the conversation to a file, or keep it now; what to say about it.

        Raises:
            EdgeslmError: it cannot be written.
        """
        if not name:
            self._required()
            self._stopped = False
            kept = self.keep(messages)
            if kept is None:
                raise UserError("there is nothing to keep yet", hint="Say something first.")
            return f"saved {kept}"
        path = Path(name).expanduser()
        with atomic_path(path) as temporary, writing(path):
            temporary.write_text(messages_text(messages), encoding="utf-8", errors="replace")
        return f"saved {path}"

    def listed(self) -> str:
        """The conversations that are kept, a line each, the newest first."""
        entries = self._required().entries()
        if not entries:
            return "no conversation is kept so far"
        lines = [
            f"{'*' if entry.path == self._path else ' '}{number:>3}  {_line(entry)}"
            for number, entry in enumerate(entries[:_MOST_LISTED], 1)
        ]
        more = len(entries) - len(lines)
        return "\n".join([*lines, f"      and {more} older ones"] if more else lines)

    def _go_on(self, entry: Entry) -> tuple[tuple[Message, ...], str]:
        assert entry.kept is not None  # noqa: S101  it was read
        self._path = entry.path
        return entry.kept.messages, self._note(entry.kept)

    def _note(self, kept: Kept) -> str:
        note = f"going on after {_exchanges(kept)}"
        if kept.model is None or kept.held_with(self._model, self._digest):
            return note
        if kept.model == self._model:
            return f"{note} with another model called {kept.model}"
        return f"{note} with {kept.model}; now {self._model} answers"

    def _required(self) -> History:
        if self._history is None:
            raise UserError(
                "this chat keeps no conversations",
                hint="Name a file, or chat without --no-history.",
            )
        return self._history


def completed_path(word: str) -> list[str]:
    """What the beginning of a path may become."""
    found = glob.glob(os.path.expanduser(glob.escape(word)) + "*")  # noqa: PTH111, PTH207
    return sorted(path + ("/" if Path(path).is_dir() else " ") for path in found)


def _line(entry: Entry) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.saved))
    if entry.kept is None:
        return f"{when}  ({one_line(entry.problem)})"
    title = one_line(entry.kept.title)
    if len(title) > _TITLE_WIDTH:
        title = title[: _TITLE_WIDTH - 1] + "…"
    return f"{when}  {title}  ({_exchanges(entry.kept)}, {entry.kept.model})"


def _exchanges(kept: Kept) -> str:
    return "1 exchange" if kept.exchanges == 1 else f"{kept.exchanges} exchanges"
