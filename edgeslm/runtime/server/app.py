"""The routes: what each address does with a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from edgeslm.errors import NotFound
from edgeslm.runtime import governor
from edgeslm.runtime.generation import Generation
from edgeslm.runtime.server import bodies, openapi, wire, writing
from edgeslm.runtime.server.answers import Answers, Outbox, Piece
from edgeslm.runtime.server.asking import (
    Asked,
    read_chat,
    read_completion,
    read_texts,
)
from edgeslm.runtime.server.guarding import Access, Guard
from edgeslm.runtime.server.hosted import Hosted, Served
from edgeslm.runtime.server.metrics import CONTENT_TYPE, Metrics
from edgeslm.runtime.server.problems import of_error, problem
from edgeslm.runtime.server.requests import read_body, while_there
from edgeslm.runtime.server.streaming import (
    EventStream,
    TextAnswer,
    chat_events,
    joined,
    text_events,
)
from edgeslm.runtime.tools import CallFinder

_WEB = Path(__file__).parent / "web"
_PAGE = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/markdown.js": ("markdown.js", "text/javascript"),
    "/app.css": ("app.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class ServerOptions:
    """What a server allows.

    Attributes:
        access: Who may ask.
        most_body: Bytes of a request's body.
    """

    access: Access = field(default_factory=Access)
    most_body: int = 4 << 20


class Server:
    """The HTTP application for some models.

    Args:
        models: By whose names clients ask; the first is taken when none is named.
        options: What is allowed.
    """

    def __init__(self, models: Sequence[Served], options: ServerOptions) -> None:
        self._models = {hosted.name: hosted for hosted in models}
        self._options = options
        self._metrics = Metrics()
        self._outbox: Outbox | None = None
        self._embedding = wire.decoder(wire.EmbeddingRequest)
        self._document = msgspec.json.encode(openapi.document(list(self._models)))

    def app(self) -> Starlette:
        """For an ASGI server."""
        posts: dict[str, Handler] = {
            "/v1/chat/completions": partial(self._generate, _CHAT),
            "/v1/completions": partial(self._generate, _COMPLETION),
            "/v1/embeddings": self._embeddings,
        }
        gets: dict[str, Handler] = {
            "/v1/models": self._list_models,
            "/v1/models/{name:path}": self._show_model,
            "/health": self._health,
            "/metrics": self._figures,
            "/openapi.json": self._describe,
        }
        routes = [
            Route(path, self._counted(path.replace(":path", ""), handler), methods=[method])
            for method, handlers in (("POST", posts), ("GET", gets))
            for path, handler in handlers.items()
        ]
        routes += [Route(path, _page(*file)) for path, file in _PAGE.items()]
        access = self._options.access
        middleware = [Middleware(Guard, access)]
        if access.origins:
            middleware.insert(
                0,
                Middleware(
                    CORSMiddleware,
                    allow_origins=list(access.origins),
                    allow_methods=["GET", "POST"],
                    allow_headers=["*"],
                ),
            )
        problems: Any = {404: _no_route, 405: _no_method}
        return Starlette(routes=routes, middleware=middleware, exception_handlers=problems)

    async def _generate(self, kind: _Kind, request: Request) -> Response:
        """Answers, of whatever kind."""
        body = await self._body(request, kind.decoder)
        hosted = self._model(body.model)
        asked, answers = await self._ask(hosted, lambda: kind.read(hosted, body))
        if body.stream:
            events = kind.events(hosted, asked, answers, with_usage=_with_usage(body))
            return EventStream(events, answers.cancel)
        pieces = await self._collect(request, answers)
        if pieces is None:
            return _gone()
        return await run_in_threadpool(lambda: _json(kind.whole(hosted, asked, answers, pieces)))

    async def _embeddings(self, request: Request) -> Response:
        body: wire.EmbeddingRequest = await self._body(request, self._embedding)
        hosted = self._model(body.model)
        texts = await run_in_threadpool(read_texts, hosted, body)
        hosted.refuse_if_busy(len(texts))
        futures = [asyncio.wrap_future(future) for future in hosted.embed(texts)]

        async def vectors() -> list[Any]:
            return await asyncio.gather(*futures)

        try:
            found = await while_there(request.receive, vectors)
        finally:
            for future in futures:
                future.cancel()
        if found is None:
            return _gone()
        encoded = body.encoding_format == "base64"
        data = [
            bodies.Embedding(index, writing.embedding(vector, encoded=encoded))
            for index, vector in enumerate(found)
        ]
        tokens = sum(map(len, texts))
        return _json(bodies.Embeddings(data, hosted.name, bodies.EmbeddingUsage(tokens, tokens)))

    async def _list_models(self, _request: Request) -> Response:
        return _json(bodies.ModelList([_card(hosted) for hosted in self._models.values()]))

    async def _show_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not name:
            return RedirectResponse(str(request.url.replace(path="/v1/models")))
        return _json(_card(self._model(name)))

    async def _health(self, _request: Request) -> Response:
        return _json(bodies.Health("ok"))

    async def _figures(self, _request: Request) -> Response:
        text = self._metrics.text(self._bases(), governor.machine_figures())
        return Response(text, media_type=CONTENT_TYPE)

    async def _describe(self, _request: Request) -> Response:
        return Response(self._document, media_type="application/json")

    def _counted(self, path: str, handler: Handler) -> Handler:
        """The handler; what it raises becomes an answer, and each answer is counted."""

        @wraps(handler)
        async def handled(request: Request) -> Response:
            try:
                response = await handler(request)
            except ClientDisconnect:
                response = _gone()
            except Exception as error:
                response = of_error(error)
            self._metrics.add("requests", path=path, status=str(response.status_code))
            return response

        return handled

    async def _body(self, request: Request, decoder: msgspec.json.Decoder[Any]) -> Any:
        return await read_body(request, decoder, self._options.most_body)

    def _model(self, name: str) -> Served:
        if not name:
            return next(iter(self._models.values()))
        if name not in self._models:
            raise NotFound(
                f"there is no model {name!r} here", hint=f"There is: {', '.join(self._models)}."
            )
        return self._models[name]

    async def _ask(self, hosted: Served, read: Callable[[], Asked]) -> tuple[Asked, Answers]:
        """Hand a request in; tokens are counted elsewhere, as long texts take their time."""
        engine = hosted.engine
        hosted.refuse_if_busy()
        asked = await run_in_threadpool(read)
        hosted.refuse_if_busy(len(asked.prompts) * asked.choices)
        each = [(prompt.tokens, options) for prompt, options in asked.each()]
        on_end = partial(self._metrics.answered, hosted.name)
        return asked, Answers(engine, self._outbox_here(), each, on_end)

    def _outbox_here(self) -> Outbox:
        """Of the event loop that runs, which as a rule is always the same."""
        loop = asyncio.get_running_loop()
        if self._outbox is None or self._outbox.loop is not loop:
            self._outbox = Outbox(loop)
        return self._outbox

    def cut_off(self) -> None:
        """End all answers where they are; any thread may ask for it."""
        for hosted in self._bases():
            hosted.cut_off()

    def _bases(self) -> list[Hosted]:
        """The models without those that an adapter makes of them."""
        return [hosted for hosted in self._models.values() if isinstance(hosted, Hosted)]

    async def _collect(self, request: Request, answers: Answers) -> list[list[Piece]] | None:
        """All pieces by answer; None if the client is gone."""

        async def collect() -> list[list[Piece]]:
            pieces: list[list[Piece]] = [[] for _ in answers.tickets]
            async with aclosing(answers.pieces()) as coming:
                async for piece in coming:
                    pieces[piece.choice].append(piece)
            return pieces

        try:
            return await while_there(request.receive, collect)
        finally:
            answers.cancel()


def _chat(
    hosted: Served, asked: Asked, _answers: Answers, pieces: list[list[Piece]]
) -> bodies.Chat:
    heading = writing.Heading(hosted.name)
    ends = [_end(each) for each in pieces]
    choices = []
    for number, (each, end) in enumerate(zip(pieces, ends, strict=True)):
        finder = CallFinder(asked.tools)
        text = finder.feed(end.text)
        rest, calls = finder.finish()
        message = bodies.Answer(text + rest if text + rest or not calls else None)
        if calls:
            message.tool_calls = writing.calls(calls)
        scores = [score for piece in each for score in piece.scores]
        scored = asked.options.scores is not None
        logprobs = writing.chat_logprobs(hosted.model, scores) if scored else None
        choices.append(bodies.ChatChoice(number, message, writing.finish(end, calls), logprobs))
    return bodies.Chat(
        heading.id,
        heading.created,
        heading.model,
        choices,
        writing.usage(ends, asked.choices),
        writing.timings(ends[0]),
    )


def _completion(
    hosted: Served, asked: Asked, answers: Answers, pieces: list[list[Piece]]
) -> bodies.Completion:
    heading = writing.Heading(hosted.name)
    ends = [_end(each) for each in pieces]
    choices = []
    for number, each in enumerate(pieces):
        text = TextAnswer(hosted, asked, answers, number)
        made = [choice for piece in each if (choice := text.take(piece)) is not None]
        choices.append(joined(made))
    return bodies.Completion(
        heading.id,
        heading.created,
        heading.model,
        choices,
        usage=writing.usage(ends, asked.choices),
        timings=writing.timings(ends[0]),
    )


@dataclass(frozen=True)
class _Kind:
    """One of the ways to ask for answers: how it is read, streamed, and written as a whole."""

    decoder: msgspec.json.Decoder[Any]
    read: Callable[[Served, Any], Asked]
    events: Callable[..., AsyncIterator[msgspec.Struct]]
    whole: Callable[[Served, Asked, Answers, list[list[Piece]]], msgspec.Struct]


_CHAT = _Kind(wire.decoder(wire.ChatRequest), read_chat, chat_events, _chat)
_COMPLETION = _Kind(wire.decoder(wire.CompletionRequest), read_completion, text_events, _completion)


def _end(pieces: Sequence[Piece]) -> Generation:
    end = pieces[-1].end
    assert end is not None  # noqa: S101  the last piece has it
    return end


def _with_usage(body: wire.Request) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage


def _card(hosted: Served) -> bodies.ModelCard:
    return bodies.ModelCard(hosted.name, hosted.created, hosted.length)


def _json(body: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


def _gone() -> Response:
    """For a client that is not there any more."""
    return Response(status_code=499)


def _page(name: str, kind: str) -> Handler:
    async def page(_request: Request) -> Response:
        return FileResponse(_WEB / name, headers=_PAGE_HEADERS, media_type=kind)

    return page


async def _no_route(request: Request, _error: Exception) -> Response:
    return problem(404, f"there is nothing at {request.url.path[:200]}; see /openapi.json")


async def _no_method(request: Request, error: Exception) -> Response:
    headers = getattr(error, "headers", None)
    return problem(405, f"{request.method} is not understood here", headers)
