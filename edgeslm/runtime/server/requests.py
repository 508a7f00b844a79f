"""Bodies of requests: read whole, within limits, and decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import msgspec
from starlette.requests import Request
from starlette.types import Receive

from edgeslm.runtime.server.problems import Refused

_PATIENCE = 30.0
"""Seconds in which a body has to arrive."""

_T = TypeVar("_T")


async def read_body(request: Request, decoder: msgspec.json.Decoder[Any], most: int) -> Any:
    """The body, decoded.

    Args:
        request: Whose body.
        decoder: What it should be.
        most: Bytes that it may have.

    Raises:
        Refused: it is too long, too slow, or said to be something else than JSON.
        DecodeError: it is not what is expected.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "the body must be JSON, and its Content-Type application/json")
    too_long = Refused(413, f"the body has more than {most} bytes")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > most:
        raise too_long
    data = bytearray()
    try:
        with anyio.fail_after(_PATIENCE):
            async for chunk in request.stream():
                data += chunk
                if len(data) > most:
                    raise too_long
    except TimeoutError as error:
        raise Refused(408, f"the body did not arrive within {_PATIENCE:g} seconds") from error
    try:
        return decoder.decode(bytes(data))
    except RecursionError as error:
        raise Refused(400, "the body is nested too deep") from error
    except UnicodeDecodeError as error:
        raise Refused(400, f"the body is not UTF-8 text: {error}") from error


async def while_there(receive: Receive, work: Callable[[], Awaitable[_T]]) -> _T | None:
    """What `work` gives; it is given up, and None, when the client goes away before."""
    working = asyncio.ensure_future(_awaited(work))
    going = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, going}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, going):
            task.cancel()
        await asyncio.gather(working, going, return_exceptions=True)


async def _awaited(work: Callable[[], Awaitable[_T]]) -> _T:
    return await work()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
