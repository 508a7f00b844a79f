"""Registries on loopback that want to know who asks, or that fail in one way."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import json
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


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


class PointingRegistry(BaseHTTPRequestHandler):
    """A registry that wants a password, and blobs or tokens in clear."""

    challenge = ""

    def do_GET(self) -> None:
        self._answer(401, **{"WWW-Authenticate": self.challenge.format(self._clear)})

    def do_HEAD(self) -> None:
        known = "Authorization" in self.headers
        self._answer(404) if known else self.do_GET()

    def do_POST(self) -> None:
        self._answer(202, Location=f"{self._clear}/v2/some/model/blobs/uploads/1")

    def log_message(self, *_: object) -> None:
        """Nothing."""

    @property
    def _clear(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()


class _Encrypted(ThreadingHTTPServer):
    """Notes the first bytes of each connection before it is encrypted."""

    tls: ssl.SSLContext
    seen: list[bytes]

    def get_request(self) -> tuple[socket.socket, object]:
        plain, address = super().get_request()
        self.seen.append(plain.recv(1 << 12, socket.MSG_PEEK))
        try:
            return self.tls.wrap_socket(plain, server_side=True), address
        except OSError:
            plain.close()
            raise


@contextmanager
def pointing_registry(folder: Path, challenge: str) -> Iterator[tuple[str, Path, list[bytes]]]:
    """With TLS: its address, whom to trust, and how each connection began.

    Args:
        folder: For its certificate.
        challenge: What it says to those whom it does not know; {} is its address in clear.
    """
    certificate = _certificate(folder)
    handler = type("Handler", (PointingRegistry,), {"challenge": challenge})
    with _Encrypted(("127.0.0.1", 0), handler) as server:
        server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.tls.load_cert_chain(certificate)
        server.seen = []
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}", certificate, server.seen
        finally:
            server.shutdown()


def _certificate(folder: Path) -> Path:
    """A file with a key and its certificate for loopback."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = dt.datetime.now(dt.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "loopback.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(pem))
    return path
