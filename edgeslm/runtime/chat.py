"""A conversation: messages, the answers to them, and what to do when the context is full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeslm.errors import PromptTooLong, UserError
from edgeslm.runtime.generation import (
    Cancelled,
    FinishReason,
    Generation,
    GenerationOptions,
    OnText,
)
from edgeslm.runtime.messages import Message
from edgeslm.runtime.prompt import PromptEncoder
from edgeslm.runtime.session import Session

_MOST_ROOM_FOR_ANSWER = 512


class Conversation:
    """Turns of user and assistant on one session.

    When the conversation outgrows the context, the oldest exchanges are left out of the
    prompt; the system message stays. So many are left out at once that the prompt shrinks to
    half: the next turns then begin alike, and the KV cache serves them.

    Args:
        session: Where the answers are computed.
        encoder: How messages become tokens.
        system: What the model is told about its task.
    """

    def __init__(
        self, session: Session, encoder: PromptEncoder, *, system: str | None = None
    ) -> None:
        self._session = session
        self._encoder = encoder
        self.system = system
        self._turns: list[Message] = []
        self._first = 0

    @property
    def left_out(self) -> int:
        """How many of the oldest exchanges are no longer in the prompt."""
        return sum(turn.role == "user" for turn in self._turns[: self._first])

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._session.context.length

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole conversation, the system message first."""
        return (*self._system_messages(), *self._turns)

    def ask(
        self,
        text: str,
        options: GenerationOptions,
        *,
        on_text: OnText | None = None,
        cancelled: Cancelled | None = None,
    ) -> Generation:
        """Add what the user says, and the model's answer to it.

        An answer that fails leaves the conversation as it was; one that is stopped by the
        user stays as far as it came.

        Raises:
            UserError: even this message alone does not fit into the context.
        """
        turns = [*self._turns, Message("user", text)]
        prompt = self._fitting_prompt(turns)
        messages = (*self._system_messages(), *turns[self._first :])
        options = replace(options, keep=self._encoder.beginning(prompt, messages))
        answer = self._session.generate(prompt, options, on_text=on_text, cancelled=cancelled)
        if answer.tokens or answer.finish_reason is not FinishReason.CANCELLED:
            self._turns = [*turns, Message("assistant", answer.text)]
        return answer

    def regenerate(
        self,
        options: GenerationOptions,
        *,
        on_text: OnText | None = None,
        cancelled: Cancelled | None = None,
    ) -> Generation:
        """Answer the last message again; where that fails, the former answer stays.

        Raises:
            UserError: there is no message yet.
        """
        former = self._turns
        text = self.undo()
        if text is None:
            raise UserError("there is nothing to answer again", hint="Say something first.")
        try:
            return self.ask(text, options, on_text=on_text, cancelled=cancelled)
        except BaseException:
            self._turns = former
            raise

    def undo(self) -> str | None:
        """Take the last exchange back; what the user had said, None if there was nothing."""
        for index in range(len(self._turns) - 1, -1, -1):
            if self._turns[index].role == "user":
                text = self._turns[index].content
                self._turns = self._turns[:index]
                self._first = min(self._first, index)
                return text
        return None

    def restore(self, messages: Sequence[Message]) -> None:
        """Go on with a conversation that was held before; its system message comes first."""
        said = list(messages)
        self.system = said.pop(0).content if said and said[0].role == "system" else None
        self._turns = said
        self._first = 0

    def clear(self) -> None:
        """Forget every turn; the system message stays."""
        self._turns = []
        self._first = 0

    def _system_messages(self) -> tuple[Message, ...]:
        return (Message("system", self.system),) if self.system else ()

    def _fitting_prompt(self, turns: Sequence[Message]) -> list[int]:
        """The prompt, with the oldest exchanges left out where it would be too long."""
        length = self._session.context.length
        capacity = length - min(_MOST_ROOM_FOR_ANSWER, length // 4)
        start = self._first
        prompt = self._prompt(turns, start)
        if len(prompt) > capacity:
            for start in range(self._first + 1, len(turns)):
                if turns[start].role == "user":
                    prompt = self._prompt(turns, start)
                    if len(prompt) <= capacity // 2:
                        break
        if len(prompt) <= capacity:
            self._first = start
            return prompt
        raise PromptTooLong(
            f"this message needs {len(prompt)} tokens and the context leaves {capacity}",
            hint="Shorten it, or give a longer --context.",
        )

    def _prompt(self, turns: Sequence[Message], start: int) -> list[int]:
        return self._encoder.encode_messages((*self._system_messages(), *turns[start:]))
