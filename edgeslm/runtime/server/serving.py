"""A server as a process: it listens, answers, and ends in good order."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool

from edgeslm.errors import InvalidOption, UserError

_KEEP_ALIVE = 30
_LONGEST_HEAD = 64 << 10
_MOST_CONNECTIONS = 512
"""Open at a time; others get 503. The system lets a process have about twice as many."""
_LAST_WORDS = 10
"""Seconds for what is cut off to be told so."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one.

    Raises:
        InvalidOption: there is no such address.
        UserError: the port is taken, or may not be used.
    """
    if not 0 <= port <= 65535:
        raise InvalidOption(f"there is no port {port}", hint="0 to 65535; 0 takes a free one.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise InvalidOption(
            f"there is no address {host!r}", hint="127.0.0.1 is this machine, 0.0.0.0 everybody."
        ) from error
    family, kind, protocol, _, address = found[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)
    except OSError as error:
        made.close()
        raise UserError(
            f"cannot listen at {host}:{port}: {error.strerror}", hint=_hint(error)
        ) from error
    return made


def is_loopback(made: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(made.getsockname()[0].partition("%")[0]).is_loopback


def address(made: socket.socket) -> str:
    """The URL under which it is reached."""
    host, port = made.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """Ends when it is told to, and that is all; uvicorn's own then repeats the signal.

    Args:
        config: As uvicorn's.
        cut_off: Ends all answers where they are.
    """

    def __init__(self, config: uvicorn.Config, cut_off: Callable[[], None]) -> None:
        super().__init__(config)
        self.cut_off = cut_off

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """No more requests are taken; the second time, what is not done is cut off."""
        if self.should_exit:
            self.cut_off()
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """While it serves, signals end it."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        former = [signal.signal(number, self.handle_exit) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, former, strict=True):
                signal.signal(number, handler)


def serve(
    app: Starlette,
    made: socket.socket,
    *,
    grace: int,
    on_start: Callable[[], None],
    cut_off: Callable[[], None],
) -> None:
    """Answer at a socket until SIGINT or SIGTERM comes.

    Args:
        app: What answers.
        made: Where.
        grace: Seconds that answers have to come to their end; then they are cut off.
        on_start: Called when the first request can come.
        cut_off: Ends all answers where they are.
    """
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=grace + _LAST_WORDS,
        h11_max_incomplete_event_size=_LONGEST_HEAD,
    )
    server = _Server(config, cut_off)

    async def run() -> None:
        await run_in_threadpool(int)  # imports what the first request would wait for
        serving = asyncio.ensure_future(server.serve(sockets=[made]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            on_start()
        ending = asyncio.ensure_future(_end(server, grace))
        await serving
        ending.cancel()

    asyncio.run(run())


async def _end(server: _Server, grace: int) -> None:
    """Have answers cut off when there was time enough."""
    while not server.should_exit:
        await asyncio.sleep(0.1)
    await asyncio.sleep(grace)
    server.cut_off()


def _hint(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "Another program listens there; choose another --port, or 0 for a free one."
    if error.errno == errno.EACCES:
        return "Ports below 1024 belong to the system; choose a higher --port."
    return f"Choose an address of this machine ({os.uname().nodename})."
