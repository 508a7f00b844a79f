"""Answers as server-sent events, while they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgeslm.runtime.generation import Generation
from edgeslm.runtime.server import bodies, writing
from edgeslm.runtime.server.answers import Answers, Piece
from edgeslm.runtime.server.asking import Asked
from edgeslm.runtime.server.hosted import Served
from edgeslm.runtime.server.problems import body_of
from edgeslm.runtime.server.requests import while_there
from edgeslm.runtime.token_scores import TokenScore
from edgeslm.runtime.tools import CallFinder

_END = b"data: [DONE]\n\n"
_BURST = 8
"""Events after which others, and the news that the client is gone, have a turn in any case."""


class EventStream(Response):
    """Sends events until they end or the client goes away.

    Args:
        events: Bodies; after an exception among them, its message is the last event.
        at_end: Called at the end, whatever it is.
    """

    def __init__(self, events: AsyncIterator[msgspec.Struct], at_end: Callable[[], None]) -> None:
        super().__init__(
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        del self.headers["content-length"]
        self._events = events
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send all of it."""
        try:
            await while_there(receive, lambda: self._send(send))
        finally:
            self._at_end()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        encoder = msgspec.json.Encoder()
        sent = 0
        try:
            async for event in self._events:
                await _more(send, b"data: " + encoder.encode(event) + b"\n\n")
                sent += 1
                if sent % _BURST == 0:
                    await asyncio.sleep(0)
        except Exception as error:
            await _more(send, b"data: " + encoder.encode(body_of(error)) + b"\n\n")
        await send({"type": "http.response.body", "body": _END, "more_body": False})


async def _more(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def chat_events(
    hosted: Served, asked: Asked, answers: Answers, *, with_usage: bool
) -> AsyncIterator[bodies.ChatChunk]:
    """The answers of a conversation, piece by piece."""
    heading = writing.Heading(hosted.name)
    finders = [CallFinder(asked.tools) for _ in answers.tickets]
    ends: dict[int, Generation] = {}

    def chunk(
        choice: int,
        delta: bodies.Delta,
        reason: bodies.Finish | None = None,
        scores: Sequence[TokenScore] = (),
    ) -> bodies.ChatChunk:
        logprobs = writing.chat_logprobs(hosted.model, scores) if scores else None
        made = bodies.ChatChunkChoice(choice, delta, reason, logprobs)
        return bodies.ChatChunk(heading.id, heading.created, heading.model, [made])

    for choice in range(len(finders)):
        yield chunk(choice, bodies.Delta(role="assistant", content=""))
    async for piece in answers.pieces():
        choice = piece.choice
        text = finders[choice].feed(piece.text)
        if text or piece.scores:
            yield chunk(choice, bodies.Delta(content=text), scores=piece.scores)
        if piece.end is not None:
            ends[choice] = piece.end
            rest, calls = finders[choice].finish()
            if rest:
                yield chunk(choice, bodies.Delta(content=rest))
            if calls:
                written = writing.calls(calls, numbered=True)
                yield chunk(choice, bodies.Delta(tool_calls=written))
            last = chunk(choice, bodies.Delta(), writing.finish(piece.end, calls))
            last.timings = writing.timings(piece.end)
            yield last
    if with_usage:
        yield bodies.ChatChunk(
            heading.id,
            heading.created,
            heading.model,
            [],
            usage=_usage(ends, asked),
        )


async def text_events(
    hosted: Served, asked: Asked, answers: Answers, *, with_usage: bool
) -> AsyncIterator[bodies.Completion]:
    """The continuations, piece by piece."""
    heading = writing.Heading(hosted.name)
    texts = [TextAnswer(hosted, asked, answers, choice) for choice in range(len(answers.tickets))]
    ends: dict[int, Generation] = {}
    async for piece in answers.pieces():
        made = texts[piece.choice].take(piece)
        if piece.end is not None:
            ends[piece.choice] = piece.end
        if made is not None:
            yield bodies.Completion(heading.id, heading.created, heading.model, [made])
    if with_usage:
        yield bodies.Completion(
            heading.id, heading.created, heading.model, [], usage=_usage(ends, asked)
        )


class TextAnswer:
    """Makes the choices of /v1/completions of the pieces of one answer."""

    def __init__(self, hosted: Served, asked: Asked, answers: Answers, choice: int) -> None:
        self._choice = choice
        self._job = answers.tickets[choice].job
        self._prompt = asked.prompts[choice // asked.choices]
        self._scored = asked.options.scores is not None
        self._writer = writing.TextLogprobsWriter(hosted.model, listed=bool(asked.options.scores))
        self._echo = asked.echo

    def take(self, piece: Piece) -> bodies.TextChoice | None:
        """What is new; None if that is nothing."""
        text = piece.text
        scores: list[TokenScore | int] = list(piece.scores)
        if self._echo:
            self._echo = False
            text = self._prompt.text + text
            scores = [*self._prompt_scores(), *scores]
        if not (text or scores or piece.end):
            return None
        reason = None if piece.end is None else writing.finish(piece.end)
        logprobs = self._writer.write(scores) if self._scored else None
        return bodies.TextChoice(self._choice, text, reason, logprobs)

    def _prompt_scores(self) -> list[TokenScore | int]:
        """Of those tokens of the prompt that the client knows of."""
        if not self._scored:
            return []
        first = self._prompt.tokens[0]
        scores: list[TokenScore | int] = [first, *self._job.prompt_scores]
        return scores[len(scores) - self._prompt.said :]


def joined(choices: Sequence[bodies.TextChoice]) -> bodies.TextChoice:
    """The pieces of one answer as a whole."""
    whole = bodies.TextChoice(
        choices[0].index, "".join(each.text for each in choices), choices[-1].finish_reason
    )
    parts = [each.logprobs for each in choices if each.logprobs is not None]
    if parts:
        whole.logprobs = bodies.TextLogprobs([], [], [], [])
        for part in parts:
            whole.logprobs.tokens += part.tokens
            whole.logprobs.token_logprobs += part.token_logprobs
            whole.logprobs.top_logprobs += part.top_logprobs
            whole.logprobs.text_offset += part.text_offset
    return whole


def _usage(ends: dict[int, Generation], asked: Asked) -> bodies.Usage:
    return writing.usage([ends[choice] for choice in sorted(ends)], asked.choices)
