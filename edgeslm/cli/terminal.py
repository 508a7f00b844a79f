"""The terminal chat: reads lines, knows /commands, streams answers.

Plain text only, so it works over ssh and on a serial console. Line editing and the history
of what was typed come from readline where Python has it.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from edgeslm.cli.output import print_error
from edgeslm.cli.streaming import interruptible, show, statistics_line
from edgeslm.errors import EdgeslmError, UserError, writing
from edgeslm.files import atomic_path, cache_folder
from edgeslm.records import to_json
from edgeslm.runtime.chat import Conversation
from edgeslm.runtime.generation import Generation, GenerationOptions
from edgeslm.runtime.messages import plain_message

_HELP = """\
/help            this list
/system TEXT     tell the model what to be; without TEXT, show it
/regen           answer the last message again
/undo            take the last exchange back
/clear           forget the conversation
/save FILE       write the conversation as JSON
/stats           what the last answer took
/quit            end the chat (also Ctrl-D)
Several lines: end a line with \\, or put \"\"\" around them. Ctrl-C stops an answer."""

_FENCE = '"""'
_HISTORY_LINES = 1000


class Terminal:
    """A chat between one person and one conversation.

    Args:
        conversation: What is said.
        generation: How answers are generated.
        json_lines: Print exchanges as JSON lines instead of streaming text.
    """

    def __init__(
        self,
        conversation: Conversation,
        generation: GenerationOptions,
        *,
        json_lines: bool = False,
    ) -> None:
        self._conversation = conversation
        self._generation = generation
        self._json_lines = json_lines
        self._interactive = sys.stdin.isatty()
        self._last: Generation | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": self._show_help,
            "/system": self._set_system,
            "/regen": self._regenerate,
            "/undo": self._undo,
            "/clear": self._clear,
            "/save": self._save,
            "/stats": self._show_statistics,
        }

    def loop(self) -> None:
        """Read and answer until the user ends it."""
        with _line_history(self._interactive):
            self._tell("Chatting offline. /help lists commands, Ctrl-D ends.")
            while (text := self._read()) is not None:
                if text.strip() in ("/quit", "/exit"):
                    return
                try:
                    self._handle(text)
                except EdgeslmError as error:
                    # A person goes on after a wrong command or a full context; a pipe cannot.
                    if not self._interactive:
                        raise
                    print_error(error)

    def _handle(self, text: str) -> None:
        name, _, argument = text.partition(" ")
        if name in self._commands:
            self._commands[name](argument.strip())
        elif name.startswith("/") and name[1:].isalpha():
            raise UserError(f"there is no command {name}", hint="/help lists them.")
        elif text.strip():
            self._answer(text)

    def _read(self) -> str | None:
        """What the user typed, None at the end of input."""
        try:
            line = self._line("> ")
            if line.strip().startswith(_FENCE):
                return self._fenced(line.strip()[len(_FENCE) :])
            lines = []
            while line.endswith("\\"):
                lines.append(line[:-1])
                line = self._line(". ")
            return "\n".join([*lines, line])
        except EOFError:
            self._tell("")
            return None
        except KeyboardInterrupt:
            self._tell("  (Ctrl-D or /quit ends the chat)")
            return ""

    def _fenced(self, line: str) -> str:
        lines = []
        while not line.rstrip().endswith(_FENCE):
            lines.append(line)
            line = self._line(". ")
        lines.append(line.rstrip()[: -len(_FENCE)])
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str) -> str:
        return input(prompt if self._interactive else "")

    def _answer(self, text: str, *, again: bool = False) -> None:
        on_text = None if self._json_lines else show
        with interruptible() as cancelled:
            ask = self._conversation.regenerate if again else partial(self._conversation.ask, text)
            answer = ask(self._generation, on_text=on_text, cancelled=cancelled.is_set)
        self._last = answer
        if self._json_lines:
            print(json.dumps({"prompt": text, **to_json(answer)}, ensure_ascii=False), flush=True)
            return
        print(flush=True)
        if self._conversation.left_out:
            self._tell(f"[the oldest {self._conversation.left_out} exchanges no longer fit]")
        self._tell(f"[{statistics_line(answer)}]")

    def _show_help(self, _argument: str) -> None:
        self._tell(_HELP)

    def _set_system(self, text: str) -> None:
        if text:
            self._conversation.system = text
        self._tell(f"system: {self._conversation.system or '(none)'}")

    def _regenerate(self, _argument: str) -> None:
        said = [turn.content for turn in self._conversation.messages if turn.role == "user"]
        self._answer(said[-1] if said else "", again=True)

    def _undo(self, _argument: str) -> None:
        text = self._conversation.undo()
        self._tell("nothing to take back" if text is None else f"took back: {text}")

    def _clear(self, _argument: str) -> None:
        self._conversation.clear()
        self._tell("forgotten")

    def _save(self, name: str) -> None:
        if not name:
            raise UserError("no file was named", hint="Name one: /save chat.json")
        path = Path(name).expanduser()
        said = [plain_message(message) for message in self._conversation.messages]
        data = json.dumps(said, indent=2, ensure_ascii=False)
        with atomic_path(path) as temporary, writing(path):
            temporary.write_text(data + "\n", encoding="utf-8")
        self._tell(f"saved {path}")

    def _show_statistics(self, _argument: str) -> None:
        self._tell(statistics_line(self._last) if self._last else "no answer yet")

    def _tell(self, text: str) -> None:
        """Say something that is no part of the conversation; nobody reads it in a pipe."""
        if self._interactive:
            print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _line_history(interactive: bool) -> Iterator[None]:
    """Line editing, with what was typed kept for the next chat."""
    path = cache_folder("history") if interactive else None
    try:
        import readline
    except ImportError:
        path = None
    if path is None:
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        readline.set_history_length(_HISTORY_LINES)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
