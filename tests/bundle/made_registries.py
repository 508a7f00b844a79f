"""Registries on loopback that want to know who asks, or that fail in one way."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit


class TokenRegistry(BaseHTTPRequestHandler):
    """A registry in memory whose tokens are good for what they were asked for, and no more."""

    protocol_version = "HTTP/1.1"
    stored: dict[str, bytes]
    asked: list[str]
    refused = ""
    """What cannot be written, as a pattern of paths."""

    def do_HEAD(self) -> None:
        self._read()

    def do_GET(self) -> None:
        if self.path.startswith("/token"):
            scope = parse_qs(urlsplit(self.path).query).get("scope", [""])[0]
            self._answer(200, json.dumps({"token": scope.replace(":", "/") or "none"}).encode())
        else:
            self._read()

    def do_POST(self) -> None:
        if self._allowed("pull,push"):
            self._answer(202, b"", Location=f"{self.path}1")

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        place, _, query = self.path.partition("?")
        if not self._allowed("pull,push"):
            return
        self.asked.append(self.path)
        if self.refused and re.search(self.refused, self.path):
            self._answer(500)
            return
        if query:
            place = f"{place.removesuffix('uploads/1')}{query.removeprefix('digest=')}"
        self.stored[place] = data
        if "/manifests/" in place:
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            self.stored[f"{place.rpartition('/')[0]}/{digest}"] = data
        self._answer(201)

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _read(self) -> None:
        if not self._allowed("pull"):
            return
        data = self.stored.get(self.path)
        self._answer(404 if data is None else 200, data or b"")

    def _allowed(self, actions: str) -> bool:
        """Whether the token is for that; if not, the answer says for what one is needed."""
        scope = f"repository:some/model:{actions}"
        if self.path != "/v2/" and self.headers.get("Authorization", "").endswith(
            scope.replace(":", "/")
        ):
            return True
        port = self.server.server_address[1]
        realm = f'realm="http://127.0.0.1:{port}/token",service="tests",scope="{scope}"'
        self._answer(401, **{"WWW-Authenticate": f"Bearer {realm}"})
        return False

    def _answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def token_registry(refused: str = "") -> Iterator[tuple[str, type[TokenRegistry]]]:
    """Its address, and the class that keeps what was sent."""
    members = {"stored": {}, "asked": [], "refused": refused}
    handler = type("Handler", (TokenRegistry,), members)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}", handler
        finally:
            server.shutdown()
