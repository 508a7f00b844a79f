"""Answers on their way from the engine's thread to the event loop.

What a step gives to all answers goes over together, when the step is over: to wake the event loop
for each piece would have both threads contend for Python's lock while the next tokens are chosen.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from edgeslm.runtime.engine import Engine, Ticket
from edgeslm.runtime.generation import Generation, GenerationOptions
from edgeslm.runtime.server.doorbell import Doorbell
from edgeslm.runtime.token_scores import TokenScore


@dataclass(frozen=True)
class Piece:
    """More of one of the answers.

    Attributes:
        choice: Which.
        text: What is new of it.
        scores: Of the tokens that came since the last piece, if asked for.
        end: The whole answer, with its last piece.
    """

    choice: int
    text: str
    scores: tuple[TokenScore, ...] = ()
    end: Generation | None = None


class Outbox:
    """What engines have to say in an event loop; all answers there share it.

    Args:
        loop: Where it is said, and where this is made.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._calls: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._doorbell = Doorbell(loop, self._deliver)

    def put(self, function: Callable[[Any], None], argument: Any) -> None:
        """Have it called in the event loop after the next `send`."""
        self._calls.append((function, argument))

    def send(self) -> None:
        """Wake the event loop."""
        try:
            self._doorbell.ring()
        except RuntimeError:  # the loop is closed: nobody listens any more
            self._calls.clear()

    def _deliver(self) -> None:
        while self._calls:
            function, argument = self._calls.popleft()
            function(argument)


class Answers:
    """Several answers at once; made, read and cancelled in one event loop.

    Args:
        engine: Computes them.
        outbox: Of this event loop.
        asked: The prompt and the options of each.
        on_end: Called in the event loop with each answer that ended, whether it is read or not.

    Raises:
        UserError: one of them is refused; then none is computed.
    """

    def __init__(
        self,
        engine: Engine,
        outbox: Outbox,
        asked: Sequence[tuple[Sequence[int], GenerationOptions]],
        on_end: Callable[[Generation], None],
    ) -> None:
        self._on_end = on_end
        self._engine = engine
        self._outbox = outbox
        self._pieces: asyncio.Queue[Piece | BaseException] = asyncio.Queue()
        self._scored = [0] * len(asked)
        self.tickets = [
            Ticket(prompt, options, partial(self._heard, choice))
            for choice, (prompt, options) in enumerate(asked)
        ]
        try:
            for choice, ticket in enumerate(self.tickets):
                ticket.when_done(partial(self._ended, choice))
                engine.accept(ticket)
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """End all of them where they are; ending twice does nothing."""
        for ticket in self.tickets:
            ticket.cancel()

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Everything, as it comes; once only.

        Raises:
            EdgeslmError: an answer failed; the others are cancelled.
        """
        try:
            for _ in self.tickets:
                end = None
                while end is None:
                    piece = await self._pieces.get()
                    if isinstance(piece, BaseException):
                        raise piece
                    end = piece.end
                    yield piece
        finally:
            self.cancel()

    def _heard(self, choice: int, text: str) -> None:
        """In the engine's thread."""
        self._tell(Piece(choice, text, self._new_scores(choice)))

    def _ended(self, choice: int) -> None:
        """In the engine's thread."""
        job = self.tickets[choice].job
        if job.result is not None:
            self._tell(Piece(choice, "", self._new_scores(choice), job.result))
            self._call(self._on_end, job.result)
        elif job.error is not None:
            self._tell(job.error)

    def _new_scores(self, choice: int) -> tuple[TokenScore, ...]:
        scores = self.tickets[choice].job.scores
        start, self._scored[choice] = self._scored[choice], len(scores)
        return tuple(scores[start:])

    def _tell(self, what: Piece | BaseException) -> None:
        self._call(self._pieces.put_nowait, what)

    def _call(self, function: Callable[[Any], None], argument: Any) -> None:
        if self._outbox.loop.is_closed():  # nobody listens any more
            self.cancel()
            return
        self._outbox.put(function, argument)
        self._engine.at_step_end(self._outbox.send)
