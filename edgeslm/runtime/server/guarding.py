"""Who may ask: keys, hosts and origins, before anything of a request is read.

A server on a person's own machine is reached by every web page that this person opens. So pages of
other origins are refused, unless they are allowed by name; and where only this machine is served,
only its own names are accepted, as a page may have a name of its own lead here.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from edgeslm.runtime.server.problems import problem

OPEN_PATHS = frozenset(
    {"/health", "/openapi.json", "/", "/app.js", "/markdown.js", "/app.css", "/icon.svg"}
)
"""Without a key: they say nothing about what is served."""


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        keys: One of them has to be given; none are needed if there are none.
        origins: Of web pages that may ask although they come from elsewhere; `*` stands for all.
        local: Whether only this machine is served.
    """

    keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    local: bool = True


class Guard:
    """Refuses requests, or hands them on."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._refusal(scope, headers)
        if refused is not None:
            await refused(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(
        self, scope: Scope, headers: Headers
    ) -> Callable[[Scope, Receive, Send], Awaitable[None]] | None:
        host = headers.get("host", "")
        if self._access.local and not is_local(_name(host)):
            return problem(403, f"this server is not {host[:100]!r}")
        origin = headers.get("origin")
        if origin is not None and not self._is_welcome(origin, host):
            return problem(403, f"pages of {origin[:100]!r} may not ask; --cors allows them")
        if self._access.keys and scope["path"] not in OPEN_PATHS and scope["method"] != "OPTIONS":
            kind, _, key = headers.get("authorization", "").partition(" ")
            given = key.strip().encode("latin-1") if kind.lower() == "bearer" else b""
            matches = [hmac.compare_digest(given, each.encode()) for each in self._access.keys]
            if not any(matches):
                return problem(401, "an API key is needed", {"WWW-Authenticate": "Bearer"})
        return None

    def _is_welcome(self, origin: str, host: str) -> bool:
        welcome = self._access.origins
        if "*" in welcome or origin in welcome:
            return True
        return origin in (f"http://{host}", f"https://{host}")


def is_local(name: str) -> bool:
    """Whether `name` always means this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """A host without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
