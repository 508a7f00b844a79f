"""To and from an OCI registry, by oras.

What is pushed is what was verified, byte for byte, so that the digest stays. A signature follows
as an artifact of its own, whose subject is the bundle, under a tag made of the bundle's digest:
`sha256-<hex>.model.sig`. Blobs that the registry has are not sent again; a pull that is
interrupted leaves nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from edgeslm import progress
from edgeslm.bundle import names
from edgeslm.bundle.contents import Contents
from edgeslm.bundle.documents import canonical
from edgeslm.bundle.image import (
    Blob,
    Image,
    read_manifest,
    write_index,
    write_layout,
)
from edgeslm.bundle.layout import (
    DirectoryLayout,
    hashed,
    open_layout,
    read_image,
    read_small,
)
from edgeslm.bundle.replacing import ensure_replaceable, replaced
from edgeslm.bundle.signing import PublicKey
from edgeslm.bundle.trust import check_signed
from edgeslm.bundle.verification import read_all, verify_bundle
from edgeslm.bundle.writing import TAR_ENDING, write_pieces
from edgeslm.errors import Failure, InvalidBundle, InvalidOption, NotFound, Unsupported, writing

_SIGNATURE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_EMPTY = b"{}"
_PIECE_BYTES = 1 << 20
_SECONDS = (30, 60)
"""To wait for a connection, and then for each answer or piece of one."""
_UPLOAD_SECONDS = (30, 600)
"""A registry may copy all of a large blob before it answers."""
_FORM = "Write HOST[:PORT]/NAME:TAG."


def push_bundle(bundle: Path, reference: str, *, plain_http: bool = False) -> Contents:
    """Verify a bundle and send it.

    Args:
        bundle: A directory or a tar.
        reference: HOST[:PORT]/NAME:TAG.
        plain_http: Whether to speak HTTP, not HTTPS.

    The tag comes last, so that whoever pulls by it finds all of the bundle, and its signature.

    Raises:
        InvalidOption: the reference is none, or names a digest.
        InvalidBundle: it is damaged; nothing was sent.
        Failure: the registry cannot be reached, or refused something.
    """
    remote = _Remote(reference, plain_http=plain_http)
    if remote.digest is not None:
        raise InvalidOption(
            f"{reference}: a bundle is pushed under a tag; its digest follows from what is in it",
            hint=_FORM,
        )
    verified = verify_bundle(bundle)
    if verified.contents.digest is None:
        raise Unsupported(f"{bundle}: packed before bundles", hint="Pack it again.")
    layout = open_layout(bundle)
    image = read_image(layout)
    blobs = [blob for blob in image.blobs.values() if blob != image.manifest]
    with progress.bar("pushing", sum(blob.size for blob in blobs), unit="bytes") as advance:
        for blob in blobs:
            if remote.has(blob):
                advance(blob.size)
            else:
                remote.upload(blob, partial(hashed, layout, blob, advance))
    manifest = b"".join(layout.pieces(image.manifest.name))
    remote.put_manifest(manifest, image.manifest.digest)
    if names.SIGNATURE_NAME in layout.files:
        _push_signature(remote, image, read_small(layout, names.SIGNATURE_NAME))
    if remote.manifest(image.manifest.digest) != manifest:
        raise Failure(f"{reference}: the registry gives back another manifest", hint="Push again.")
    remote.put_manifest(manifest, remote.tag)
    return verified.contents


def pull_bundle(
    reference: str, output: Path, *, key: PublicKey | None = None, plain_http: bool = False
) -> Contents:
    """Fetch a bundle into a directory, which appears when all of it was verified.

    Args:
        reference: HOST[:PORT]/NAME:TAG, or ...@sha256:DIGEST.
        output: The directory.
        key: The public key that must have signed it.
        plain_http: Whether to speak HTTP, not HTTPS.

    Raises:
        NotFound: the registry has none of that name.
        InvalidBundle: it is something else, or damaged.
        Untrusted: it is not signed with that key.
        Failure: the registry cannot be reached.
        OutputFailure: it cannot be written.
    """
    if output.suffix == TAR_ENDING:
        raise InvalidOption(
            f"{output}: a bundle is pulled into a directory",
            hint=f"Name one: -o {output.with_suffix('')}",
        )
    remote = _Remote(reference, plain_http=plain_http)
    ensure_replaceable(output)
    data = remote.manifest(remote.digest or remote.tag)
    blob = Blob(hashlib.sha256(data).hexdigest(), len(data))
    if remote.digest not in (None, blob.digest):
        raise InvalidBundle(f"{reference}: the registry has other bytes there", hint=names.DAMAGED)
    image = read_manifest(data, blob, reference)
    with replaced(output) as folder:
        small = {
            image.manifest.name: data,
            names.INDEX_NAME: write_index(image.manifest),
            names.LAYOUT_NAME: write_layout(),
        }
        signature = _pull_signature(remote, image)
        if signature is not None:
            small[names.SIGNATURE_NAME] = signature
        with writing(output):
            (folder / names.BLOBS).mkdir(parents=True)
        for name, text in small.items():
            write_pieces([text], folder / name, output)
        _download(remote, image, folder, output)
        layout = DirectoryLayout(folder, shown=output)
        contents = read_all(layout, image)
        if key is not None:
            check_signed(layout, image, [key])
    return contents


def _download(remote: _Remote, image: Image, folder: Path, output: Path) -> None:
    blobs = [blob for blob in image.blobs.values() if blob != image.manifest]
    with progress.bar("pulling", sum(blob.size for blob in blobs), unit="bytes") as advance:
        for blob in blobs:
            write_pieces(_told(remote.download(blob), advance), folder / blob.name, output)


def _told(pieces: Iterable[bytes], advance: progress.Advance) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        advance(len(piece))


def _push_signature(remote: _Remote, image: Image, signature: bytes) -> None:
    """The signature as an artifact that refers to the bundle."""
    layer, config = _blob(signature), _blob(_EMPTY)
    for blob, data in ((layer, signature), (config, _EMPTY)):
        if not remote.has(blob):
            remote.upload(blob, partial(iter, [data]))
    manifest = {
        "schemaVersion": 2,
        "mediaType": names.MANIFEST_TYPE,
        "artifactType": _SIGNATURE_TYPE,
        "config": _entry(config, _EMPTY_TYPE),
        "layers": [
            {
                **_entry(layer, _SIGNATURE_TYPE),
                "annotations": {names.TITLE: names.SIGNATURE_NAME},
            }
        ],
        "subject": _entry(image.manifest, names.MANIFEST_TYPE),
    }
    remote.put_manifest(canonical(manifest), _signature_tag(image))


def _pull_signature(remote: _Remote, image: Image) -> bytes | None:
    """The signature of a bundle, whatever it is worth; None where there is none."""
    from edgeslm.bundle.documents import Fields, parse

    where = f"the signature of {remote.reference}"
    try:
        data = remote.manifest(_signature_tag(image))
    except NotFound:
        return None
    layers = Fields(where, parse(data, where)).take("layers", list)
    if len(layers) != 1:
        raise InvalidBundle(f"{where}: {len(layers)} layers, not one", hint=names.DAMAGED)
    entry = Fields(where, layers[0])
    digest, size = entry.take("digest", str), entry.take("size", int)
    if size > names.MOST_JSON_BYTES or not digest.startswith("sha256:"):
        entry.fail("too large, or of another hash")
    return b"".join(remote.download(Blob(digest.removeprefix("sha256:"), size)))


def _signature_tag(image: Image) -> str:
    return f"sha256-{image.manifest.sha256}.model.sig"


def _blob(data: bytes) -> Blob:
    return Blob(hashlib.sha256(data).hexdigest(), len(data))


def _entry(blob: Blob, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}


class _Body:
    """Bytes of a known number that are sent as they come, from the start again if need be."""

    def __init__(self, size: int, pieces: Callable[[], Iterator[bytes]]) -> None:
        self._size = size
        self._pieces = pieces

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces()


class _Remote:
    """One repository of a registry.

    Attributes:
        reference: As the user wrote it.
        tag: The tag in it.
        digest: The digest in it, if any.
    """

    def __init__(self, reference: str, *, plain_http: bool) -> None:
        oras = _oras()
        host = reference.partition("/")[0]
        if "/" not in reference or not {".", ":"} & set(host):
            raise InvalidOption(f"{reference}: names no registry", hint=_FORM)
        try:
            self._place = oras.Container(reference)
        except ValueError as error:
            raise InvalidOption(f"{reference}: no name in a registry", hint=_FORM) from error
        self.reference = reference
        self.tag: str = self._place.tag
        self.digest: str | None = self._place.digest
        self._prefix = "http" if plain_http else "https"
        with self._asking():
            self._client = oras.client(host, plain_http)
            self._client.auth.load_configs(self._place)

    def has(self, blob: Blob) -> bool:
        """Whether the registry holds a blob."""
        with self._asking():
            answer = self._ask("HEAD", self._place.get_blob_url(blob.digest))
            return bool(answer.status_code == 200)

    def upload(self, blob: Blob, pieces: Callable[[], Iterator[bytes]]) -> None:
        """Send a blob."""
        with self._asking():
            begun = self._ask("POST", self._place.upload_blob_url())
            self._expect(begun, 202)
            place = urljoin(begun.url, begun.headers.get("Location", ""))
            answer = self._send(
                "PUT",
                f"{place}{'&' if '?' in place else '?'}digest={blob.digest}",
                data=_Body(blob.size, pieces),
                timeout=_UPLOAD_SECONDS,
                headers={
                    "Content-Type": "application/octet-stream",
                    "Content-Length": str(blob.size),
                },
            )
            self._expect(answer, 201)

    def download(self, blob: Blob) -> Iterator[bytes]:
        """The bytes of a blob, never more than there should be; at the end known to be right."""
        digest, count = hashlib.sha256(), 0
        with self._asking():
            answer = self._ask("GET", self._place.get_blob_url(blob.digest), stream=True)
            self._expect(answer, 200)
            for piece in answer.iter_content(_PIECE_BYTES):
                count += len(piece)
                if count > blob.size:
                    break
                digest.update(piece)
                yield piece
        if count != blob.size or digest.hexdigest() != blob.sha256:
            raise InvalidBundle(
                f"{self.reference}: the registry has other bytes for {blob.digest}",
                hint="Pull again; if it stays so, push the bundle again.",
            )

    def manifest(self, tag: str) -> bytes:
        """The bytes of a manifest.

        Raises:
            NotFound: there is none of that tag or digest.
        """
        with self._asking():
            headers = {"Accept": names.MANIFEST_TYPE}
            url = self._place.manifest_url(tag)
            answer = self._ask("GET", url, headers=headers, stream=True)
            if answer.status_code == 404:
                raise NotFound(f"{self.reference}: not in the registry", hint="Check the name.")
            self._expect(answer, 200)
            data = b""
            for piece in answer.iter_content(_PIECE_BYTES):
                data += piece
                if len(data) > names.MOST_JSON_BYTES:
                    raise InvalidBundle(f"{self.reference}: too large for a manifest")
            return data

    def put_manifest(self, data: bytes, tag: str) -> None:
        """Send a manifest under a tag or its digest."""
        with self._asking():
            headers = {"Content-Type": names.MANIFEST_TYPE}
            answer = self._ask("PUT", self._place.manifest_url(tag), data=data, headers=headers)
            self._expect(answer, 201)

    def _ask(self, method: str, url: str, **more: Any) -> Any:
        return self._send(method, f"{self._prefix}://{url}", **more)

    def _send(self, method: str, url: str, **more: Any) -> Any:
        """Ask, and once more if the registry first wants to know who asks.

        What is known of that goes along at once, so that no body is sent in vain; but only to the
        registry itself, not to another machine, nor in clear, where it has blobs sent to.
        """
        place = urlsplit(url)
        headers = more.pop("headers", {})
        ask = partial(self._client.session.request, method, url, **more)
        ours = (place.scheme, place.netloc) == (self._prefix, self._place.registry)
        answer = ask(headers=headers | (self._credentials() if ours else {}))
        if answer.status_code in (401, 403) and ours and self._authenticate(answer):
            answer = ask(headers=headers | self._credentials())
        return answer

    def _credentials(self) -> Mapping[str, str]:
        auth = self._client.auth
        known = getattr(auth, "token", None) or getattr(auth, "_basic_auth", None)
        return dict(auth.get_auth_header()) if known else {}

    def _authenticate(self, refusal: Any) -> bool:
        """Whether there is something new to say to a registry that refused."""
        auth = self._client.auth
        if not hasattr(auth, "token") or "realm=" not in refusal.headers.get(
            "WWW-Authenticate", ""
        ):
            return False
        # a token that was good for reading is not for writing
        _, changed = auth.authenticate_request(refusal, {}, refresh=True)
        return bool(changed)

    def _expect(self, answer: Any, status: int) -> None:
        if answer.status_code in (401, 403):
            raise Failure(
                f"{self.reference}: the registry does not allow it",
                hint="Log in with a client that keeps credentials in ~/.docker/config.json.",
            )
        if answer.status_code != status:
            raise Failure(
                f"{self.reference}: the registry answered {answer.status_code} {answer.reason}",
                hint="Check the name, and whether you may write there.",
            )

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn what oras and requests raise into errors of ours."""
        oras = _oras()
        try:
            yield
        except oras.problems as error:
            raise Failure(
                f"{self.reference}: the registry cannot be reached: {error}"[:500],
                hint="Check the name and the network; --plain-http for one without TLS.",
            ) from error


class _Oras:
    """What we use of oras."""

    def __init__(self) -> None:
        import requests
        from oras.auth import AuthenticationException
        from oras.container import Container
        from oras.provider import Registry

        self.Container: Any = Container
        self.problems = (requests.exceptions.RequestException, AuthenticationException, ValueError)
        self._registry = Registry
        self._requests = requests

    def client(self, host: str, plain_http: bool) -> Any:
        """A client for a registry that authenticates as that one wants it."""
        prefix = "http" if plain_http else "https"
        asked = self._requests.get(f"{prefix}://{host}/v2/", timeout=_SECONDS)
        scheme = asked.headers.get("WWW-Authenticate", "").partition(" ")[0].lower()
        made: Any = self._registry(
            hostname=host,
            insecure=plain_http,
            auth_backend="basic" if scheme == "basic" else "token",
        )
        request = made.session.request

        def ask(method: str, url: str, **more: Any) -> Any:
            if not plain_http and urlsplit(url).scheme != "https":
                raise self._requests.exceptions.InvalidURL(
                    f"it points to {url}, where all would go in clear"
                )
            return request(method, url, **{"timeout": _SECONDS} | more)

        made.session.request = ask  # oras itself, which asks for tokens, would wait for ever
        return made


def _oras() -> _Oras:
    try:
        return _Oras()
    except ModuleNotFoundError as error:
        raise Unsupported(
            f"registries need {error.name}, which is not installed",
            hint="Install it with: pip install 'edgeslm[registry]'",
        ) from error
