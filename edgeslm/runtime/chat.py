"""A conversation: messages, the answers to them, and what to do when the context is full."""

from __future__ import annotations

from collections.abc import Sequence

from edgeslm.errors import UserError
from edgeslm.runtime.prompt import Message, PromptEncoder
from edgeslm.runtime.session import Cancelled, Generation, GenerationOptions, OnText, Session

_ROOM_FOR_ANSWER = 64


class Conversation:
    """Turns of user and assistant on one session.

    When the conversation outgrows the context, the oldest exchanges are left out of the
    prompt; the system message stays.

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
        self.left_out = 0

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
        answer = self._session.generate(prompt, options, on_text=on_text, cancelled=cancelled)
        self._turns = [*turns, Message("assistant", answer.text)]
        return answer

    def undo(self) -> str | None:
        """Take the last exchange back; what the user had said, None if there was nothing."""
        while self._turns:
            message = self._turns.pop()
            if message.role == "user":
                return message.content
        return None

    def clear(self) -> None:
        """Forget every turn; the system message stays."""
        self._turns = []
        self.left_out = 0

    def _system_messages(self) -> tuple[Message, ...]:
        return (Message("system", self.system),) if self.system else ()

    def _fitting_prompt(self, turns: Sequence[Message]) -> list[int]:
        """The prompt with as many of the newest exchanges as leave room for an answer."""
        capacity = self._session.context.length - _ROOM_FOR_ANSWER
        starts = [index for index, turn in enumerate(turns) if turn.role == "user"]
        for left_out, start in enumerate(starts):
            prompt = self._encoder.encode_messages((*self._system_messages(), *turns[start:]))
            if len(prompt) <= capacity:
                self.left_out = left_out
                return prompt
        raise UserError(
            f"this message needs {len(prompt)} tokens and the context leaves {capacity}",
            hint="Shorten it, or give a longer --context.",
        )
