"""The terminal chat: reads messages, knows /commands, streams answers, keeps what was said."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from edgeslm.cli import settings
from edgeslm.cli.display import Display, status_line
from edgeslm.cli.keeping import Keeper, completed_path
from edgeslm.cli.output import json_line, print_error, warn
from edgeslm.cli.reading import Reader, line_editing
from edgeslm.cli.streaming import interruptible, outliving_hangup, statistics_line
from edgeslm.errors import EdgeslmError, OutputFailure, UserError
from edgeslm.records import to_json
from edgeslm.runtime.chat import Conversation
from edgeslm.runtime.generation import Generation, GenerationOptions
from edgeslm.runtime.governor import machine_figures
from edgeslm.runtime.messages import Message

_HELP = """\
/help            this list
/system TEXT     tell the model what to be; without TEXT, show it
/set NAME VALUE  change a setting, such as temperature or seed; without, show all
/regen           answer the last message again
/edit            change the last message, and have it answered anew
/undo            take the last exchange back
/clear           begin a new conversation
/history         the conversations that are kept
/load N          go on with one of them, or with a FILE
/save FILE       write the conversation as JSON; without FILE, keep it now
/stats           what the last answer took
/quit            end the chat (also Ctrl-D)
Several lines: end a line with \\, or put \"\"\" around them. Ctrl-C stops an answer."""


@dataclass(frozen=True)
class ChatOptions:
    """How a chat is shown.

    Attributes:
        styled: Show Markdown with styles, not as it is written.
        json_lines: Print exchanges as JSON lines instead of streaming text.
        interactive: A person types.
        keep_lines: Bring back what was typed in former chats.
    """

    styled: bool = False
    json_lines: bool = False
    interactive: bool = False
    keep_lines: bool = False


class Terminal:
    """A chat between one person and one conversation.

    Args:
        conversation: What is said.
        generation: How answers are generated.
        keeper: Where it is kept.
        options: How it is shown.
    """

    def __init__(
        self,
        conversation: Conversation,
        generation: GenerationOptions,
        keeper: Keeper,
        options: ChatOptions,
    ) -> None:
        self._conversation = conversation
        self._generation = generation
        self._keeper = keeper
        self._options = options
        self._display = Display(styled=options.styled, interactive=options.interactive)
        self._reader = Reader(interactive=options.interactive)
        self._last: Generation | None = None
        self._left_out = 0
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": self._show_help,
            "/system": self._set_system,
            "/set": self._set,
            "/regen": self._regenerate,
            "/edit": self._edit,
            "/undo": self._undo,
            "/clear": self._clear,
            "/history": self._show_history,
            "/load": self._load,
            "/save": self._save,
            "/stats": self._show_statistics,
        }

    def loop(self) -> None:
        """Read and answer until the user ends it."""
        if not self._options.interactive:
            self._read_and_answer()
            return
        with line_editing(self._complete, keep=self._options.keep_lines):
            self._display.tell("Chatting offline. /help lists commands, Ctrl-D ends.")
            self._read_and_answer()

    def go_on(self, messages: Sequence[Message], note: str, *, system: str | None = None) -> None:
        """Go on with a conversation that was held before.

        Args:
            messages: What was said.
            note: What to say about it.
            system: Tell the model this from now on; None for what it was told then.
        """
        self._conversation.restore(messages)
        self._conversation.system = system or self._conversation.system
        self._left_out = 0
        self._display.tell(note)
        self._show_last_exchange()

    def _read_and_answer(self) -> None:
        while (text := self._read()) is not None:
            if text.strip() in ("/quit", "/exit"):
                return
            try:
                self._handle(text)
            except EdgeslmError as error:
                # A person goes on after a wrong command or a full context; a pipe cannot.
                if not self._options.interactive:
                    raise
                print_error(error)

    def _handle(self, text: str) -> None:
        name, _, argument = text.strip().partition(" ")
        if name in self._commands:
            self._commands[name](argument.strip())
        elif name.startswith("/") and name[1:].isalpha():
            raise UserError(f"there is no command {name}", hint="/help lists them.")
        elif text.strip():
            self._answer(text)

    def _read(self) -> str | None:
        """What the user typed, None at the end of input."""
        try:
            return self._reader.read()
        except EOFError:
            self._display.tell("")
            return None
        except KeyboardInterrupt:
            self._display.tell("  (Ctrl-D or /quit ends the chat)")
            return ""

    def _answer(self, text: str, *, again: bool = False) -> None:
        ask = self._conversation.regenerate if again else partial(self._conversation.ask, text)
        with outliving_hangup() as hung_up:
            with self._shown() as show, interruptible() as interrupted:
                self._last = answer = ask(
                    self._generation,
                    on_text=show,
                    cancelled=lambda: (
                        interrupted.is_set()
                        or self._display.failure is not None
                        or hung_up() is not None
                    ),
                )
            self._keep()
        self._leave_if_nobody_is_there(hung_up())
        if self._options.json_lines:
            print(json_line({"prompt": text, **to_json(answer)}), flush=True)
        else:
            self._show_figures(answer)

    def _shown(self) -> AbstractContextManager[Callable[[str], None] | None]:
        """What shows an answer while it comes; None where it is printed when it is complete."""
        return nullcontext() if self._options.json_lines else self._display.answer()

    def _leave_if_nobody_is_there(self, number: int | None) -> None:
        """End after a signal to end, or when the terminal or the pipe is gone."""
        failure = self._display.failure
        if number is None and failure is not None and failure.errno == errno.EIO:
            number = signal.SIGHUP  # a terminal that is gone, though no signal came
        if number is not None:
            _leave(number)
        if failure is not None:
            raise failure

    def _show_figures(self, answer: Generation) -> None:
        left_out = self._conversation.left_out
        if left_out > self._left_out:
            self._display.hint(f"[the oldest {left_out} exchanges no longer fit]")
        self._left_out = left_out
        temperature = machine_figures().get("temperature_celsius")
        line = status_line(answer, self._conversation.context_length, temperature)
        self._display.hint(f"[{line}]")

    def _keep(self) -> None:
        """Keep the conversation; where that fails the chat goes on."""
        try:
            self._keeper.keep(self._conversation.messages)
        except OutputFailure as error:
            self._keeper.stop()
            warn(f"this conversation is not kept: {error.message}")

    def _show_help(self, _argument: str) -> None:
        self._display.tell(_HELP)

    def _set_system(self, text: str) -> None:
        if text:
            self._conversation.system = text
            self._keep()
        self._display.tell(f"system: {self._conversation.system or '(none)'}")

    def _set(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        if value:
            self._generation = settings.changed(self._generation, name, value.strip())
            self._display.tell(f"{name}: {value.strip()}")
        elif name:
            raise UserError(f"no value for {name}", hint=f"For example: /set {name} 1")
        else:
            self._display.tell(settings.listed(self._generation))

    def _regenerate(self, _argument: str) -> None:
        said = [turn.content for turn in self._conversation.messages if turn.role == "user"]
        self._answer(said[-1] if said else "", again=True)

    def _edit(self, _argument: str) -> None:
        text = self._conversation.undo()
        if text is None:
            raise UserError("there is nothing to change", hint="Say something first.")
        self._keep()
        if not self._reader.offer(text):
            self._display.tell(f"took back: {text}")

    def _undo(self, _argument: str) -> None:
        text = self._conversation.undo()
        self._keep()
        self._display.tell("nothing to take back" if text is None else f"took back: {text}")

    def _clear(self, _argument: str) -> None:
        self._conversation.clear()
        self._keeper.begin()
        self._left_out = 0
        kept = "; /history has what was said" if self._keeper.keeps else ""
        self._display.tell(f"begun anew{kept}")

    def _show_history(self, _argument: str) -> None:
        self._display.tell(self._keeper.listed())

    def _load(self, argument: str) -> None:
        self.go_on(*self._keeper.load(argument))

    def _save(self, name: str) -> None:
        self._display.tell(self._keeper.save(self._conversation.messages, name))

    def _show_statistics(self, _argument: str) -> None:
        self._display.tell(statistics_line(self._last) if self._last else "no answer yet")

    def _show_last_exchange(self) -> None:
        """Where a conversation that goes on had come to."""
        turns = [message for message in self._conversation.messages if message.role != "system"]
        if not turns or not self._options.interactive:
            return
        said = turns[-2:] if turns[-1].role == "assistant" else turns[-1:]
        self._display.tell("> " + said[0].content)
        if len(said) > 1:
            with self._display.answer() as show:
                show(said[1].content)
        else:
            self._display.hint("[not answered; /regen answers it]")

    def _complete(self, before: str, word: str) -> Sequence[str]:
        """What Tab may make of a word: a command, its argument."""
        words = before.split()
        if not words:
            names = [*self._commands, "/quit"] if word.startswith("/") else []
        elif words == ["/set"]:
            names = list(settings.NAMES)
        elif words in (["/load"], ["/save"]):
            return completed_path(word)
        else:
            names = []
        return [name + " " for name in names if name.startswith(word)]


def _leave(number: int) -> None:
    """End by a signal; the terminal may be gone, so nothing is printed there any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    sys.exit(128 + number)
