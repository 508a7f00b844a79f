"""To a real registry and back: by us, by skopeo, by oras; the digest stays."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from made_bundles import layers_of, make_by_hand, write_pair
from made_registries import pointing_registry, token_registry
from registries import PASSWORD, USER, free_port, program, running

from edgeslm.bundle import registry as registries
from edgeslm.bundle.registry import pull_bundle, push_bundle
from edgeslm.bundle.signing import read_private_key, read_public_key
from edgeslm.bundle.verification import sign_bundle, verify_bundle
from edgeslm.errors import (
    Failure,
    InvalidBundle,
    InvalidOption,
    NotFound,
    OutputFailure,
    Untrusted,
)

needs_registry = pytest.mark.skipif(
    program() is None, reason="docker-registry is not installed (apt install docker-registry)"
)
needs_skopeo = pytest.mark.skipif(
    shutil.which("skopeo") is None, reason="skopeo is not installed (apt install skopeo)"
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("registry") / "blobs") as address:
        yield address


def skopeo(*arguments: object) -> None:
    done = subprocess.run(
        ["skopeo", "--insecure-policy", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@needs_registry
@pytest.mark.parametrize("form", ["packed", "tar"])
def test_there_and_back(
    registry: str, form: str, private: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle: Path = request.getfixturevalue(form)
    sign_bundle(bundle, read_private_key(private, str))
    reference = f"{registry}/some/{form}:1"
    contents = push_bundle(bundle, reference, plain_http=True)
    assert contents == push_bundle(bundle, reference, plain_http=True)  # all is there
    key = read_public_key(private.with_suffix(".pub"))
    pulled = pull_bundle(reference, tmp_path / "pulled", key=key, plain_http=True)
    assert pulled == contents
    assert verify_bundle(tmp_path / "pulled", private.with_suffix(".pub")).key == key.fingerprint
    by_digest = f"{registry}/some/{form}@sha256:{contents.digest}"
    assert pull_bundle(by_digest, tmp_path / "pulled", plain_http=True) == contents


@needs_registry
def test_whose_signature_it_is(registry: str, packed: Path, private: Path, tmp_path: Path) -> None:
    reference = f"{registry}/whose:1"
    key = read_public_key(private.with_suffix(".pub"))
    push_bundle(packed, reference, plain_http=True)
    with pytest.raises(Untrusted, match="not signed"):
        pull_bundle(reference, tmp_path / "pulled", key=key, plain_http=True)
    other = write_pair(tmp_path / "other.pem", ec.SECP256R1())
    sign_bundle(packed, read_private_key(other, str))
    push_bundle(packed, reference, plain_http=True)
    with pytest.raises(Untrusted, match="another key") as caught:
        pull_bundle(reference, tmp_path / "pulled", key=key, plain_http=True)
    assert str(tmp_path / "pulled") in caught.value.message
    assert not (tmp_path / "pulled").exists()


@needs_registry
def test_nothing_of_that_name(registry: str, tmp_path: Path, packed: Path) -> None:
    with pytest.raises(NotFound, match="not in the registry"):
        pull_bundle(f"{registry}/none:1", tmp_path / "pulled", plain_http=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    with pytest.raises(OutputFailure, match="full"):
        pull_bundle(f"{registry}/none:1", tmp_path / "full", plain_http=True)
    license_ = layers_of(packed)["LICENSE"]
    license_.write_bytes(license_.read_bytes()[::-1])
    with pytest.raises(InvalidBundle, match="changed"):
        push_bundle(packed, f"{registry}/damaged:1", plain_http=True)
    with pytest.raises(NotFound):
        pull_bundle(f"{registry}/damaged:1", tmp_path / "pulled", plain_http=True)


def log_in(home: Path, registry: str, password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave what a client that logged in leaves."""
    known = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (home / ".docker").mkdir(exist_ok=True)
    config = {"auths": {registry: {"auth": known}}}
    (home / ".docker" / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("HOME", str(home))


@needs_registry
def test_a_registry_with_a_password(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with running(tmp_path / "blobs", with_password=True) as registry:
        reference = f"{registry}/some/model:1"
        with pytest.raises(Failure, match="does not allow") as caught:
            push_bundle(packed, reference, plain_http=True)
        assert "Log in" in str(caught.value.hint)
        log_in(tmp_path, registry, "another", monkeypatch)
        with pytest.raises(Failure, match="does not allow"):
            push_bundle(packed, reference, plain_http=True)
        log_in(tmp_path, registry, PASSWORD, monkeypatch)
        contents = push_bundle(packed, reference, plain_http=True)
        assert pull_bundle(reference, tmp_path / "pulled", plain_http=True) == contents


def test_tokens_are_for_reading_or_for_writing(packed: Path, tmp_path: Path) -> None:
    with token_registry() as (address, _):
        reference = f"{address}/some/model:1"
        contents = push_bundle(packed, reference, plain_http=True)
        assert pull_bundle(reference, tmp_path / "pulled", plain_http=True) == contents


@pytest.mark.parametrize(
    "challenge", ['Basic realm="x"', 'Bearer realm="{}/token",service="tests",scope="x"']
)
def test_a_password_never_goes_in_clear(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, challenge: str
) -> None:
    """Even where an answer that came encrypted points to the same machine without that."""
    with pointing_registry(tmp_path, challenge) as (address, certificate, seen):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        log_in(tmp_path, address, PASSWORD, monkeypatch)
        with pytest.raises(Failure, match="in clear"):
            push_bundle(packed, f"{address}/some/model:1")
    assert seen
    assert not [begun for begun in seen if begun[:1] != b"\x16"]  # a TLS handshake


@pytest.mark.parametrize("reference", ["helper:1", "some/helper:1", "localhost/x", "a.b/", "", "/"])
def test_references_without_a_registry_are_refused(packed: Path, reference: str) -> None:
    with pytest.raises(InvalidOption):
        push_bundle(packed, reference)


def test_nobody_listens(packed: Path) -> None:
    with pytest.raises(Failure, match="cannot be reached"):
        push_bundle(packed, f"127.0.0.1:{free_port()}/x:1", plain_http=True)


def test_a_bundle_is_pushed_under_a_tag(packed: Path) -> None:
    digest = verify_bundle(packed).contents.digest
    with token_registry() as (address, registry):
        for reference in (f"x@sha256:{'0' * 64}", f"x@sha256:{digest}", f"x:1@sha256:{digest}"):
            with pytest.raises(InvalidOption, match="under a tag"):
                push_bundle(packed, f"{address}/some/{reference}", plain_http=True)
        assert not registry.stored


def test_the_tag_comes_last(packed: Path, private: Path) -> None:
    """Whoever pulls by the tag meanwhile finds all of it, the signature too."""
    sign_bundle(packed, read_private_key(private, str))
    with token_registry() as (address, registry):
        digest = push_bundle(packed, f"{address}/some/model:1", plain_http=True).digest
        put = [path.rpartition("/manifests/")[2] for path in registry.asked if "/man" in path]
        assert put == [f"sha256:{digest}", f"sha256-{digest}.model.sig", "1"]
    with token_registry(refused=r"\.sig$") as (address, registry):
        with pytest.raises(Failure, match="500"):
            push_bundle(packed, f"{address}/some/model:1", plain_http=True)
        assert "/v2/some/model/manifests/1" not in registry.stored


class Silent(BaseHTTPRequestHandler):
    """A registry that takes what is asked, and after the first time never answers."""

    def do_GET(self) -> None:
        if self.path != "/v2/":
            time.sleep(20)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_nobody_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "_SECONDS", (5, 0.3))
    began = time.monotonic()
    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        server.block_on_close = False
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(Failure, match="cannot be reached"):
            pull_bundle(f"127.0.0.1:{server.server_port}/x:1", tmp_path / "x", plain_http=True)
        server.shutdown()
    assert time.monotonic() - began < 10


class Lying(BaseHTTPRequestHandler):
    """A registry that gives other bytes than it was asked for."""

    manifest = b""
    blob = b""
    times = 1
    sent = 0

    def do_GET(self) -> None:
        of_blob = "/blobs/" in self.path
        data, times = (self.blob, self.times) if of_blob else (self.manifest, 1)
        self.send_response(404 if ".model.sig" in self.path else 200)
        self.send_header("Content-Length", str(len(data) * times))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for _ in range(times):
                self.wfile.write(data)
                Lying.sent += len(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize(("size", "times"), [(3, 1), (1 << 20, 200)])
def test_a_registry_that_lies(packed: Path, tmp_path: Path, size: int, times: int) -> None:
    from made_bundles import manifest_of

    from edgeslm.bundle.documents import canonical

    Lying.manifest = canonical(manifest_of(packed))
    Lying.blob, Lying.times, Lying.sent = bytes(size), times, 0
    with HTTPServer(("127.0.0.1", 0), Lying) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_port}/x"
        with pytest.raises(InvalidBundle, match="other bytes"):
            pull_bundle(f"{place}:1", tmp_path / "pulled", plain_http=True)
        with pytest.raises(InvalidBundle):
            pull_bundle(f"{place}@sha256:{'0' * 64}", tmp_path / "pulled", plain_http=True)
        Lying.manifest = bytes(5 << 20)
        with pytest.raises(InvalidBundle, match="too large"):
            pull_bundle(f"{place}:1", tmp_path / "pulled", plain_http=True)
        server.shutdown()
    assert Lying.sent < 50 << 20  # it is not read to its end
    assert not (tmp_path / "pulled").exists()


@needs_registry
@needs_skopeo
@pytest.mark.parametrize("form", ["packed", "tar"])
def test_skopeo_carries_it(
    registry: str, form: str, model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle: Path = request.getfixturevalue(form)
    kind = "oci" if form == "packed" else "oci-archive"
    there = f"docker://{registry}/skopeo/{form}:1"
    skopeo("copy", "--dest-tls-verify=false", f"{kind}:{bundle}", there)
    skopeo("copy", "--src-tls-verify=false", there, f"oci:{tmp_path / 'back'}:latest")
    before, after = verify_bundle(bundle).contents, verify_bundle(tmp_path / "back").contents
    assert after == before
    assert layers_of(tmp_path / "back")["model.gguf"].read_bytes() == model.read_bytes()
    reference = f"{registry}/skopeo/{form}:1"
    assert pull_bundle(reference, tmp_path / "pulled", plain_http=True) == before
    skopeo("copy", "--src-tls-verify=false", there, f"oci-archive:{tmp_path / 'back.tar'}")
    assert verify_bundle(tmp_path / "back.tar").contents == before


@needs_skopeo
def test_a_signature_outlives_a_copy(packed: Path, private: Path, tmp_path: Path) -> None:
    sign_bundle(packed, read_private_key(private, str))
    skopeo("copy", f"oci:{packed}", f"oci:{tmp_path / 'copy'}:latest")
    assert not verify_bundle(tmp_path / "copy").signed
    shutil.copy(packed / "model.sig", tmp_path / "copy" / "model.sig")
    assert verify_bundle(tmp_path / "copy", private.with_suffix(".pub")).key


@needs_registry
@needs_skopeo
def test_a_bundle_made_by_hand_is_pulled(registry: str, model: Path, tmp_path: Path) -> None:
    bundle = make_by_hand(tmp_path / "by-hand", model.read_bytes())
    reference = f"{registry}/by/hand:1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{bundle}:latest", f"docker://{reference}")
    contents = pull_bundle(reference, tmp_path / "pulled", plain_http=True)
    assert contents == verify_bundle(bundle).contents
    assert contents.model.file == "weights/some.gguf"


@needs_registry
def test_oras_pulls_the_files_by_name(
    registry: str, packed: Path, model: Path, tmp_path: Path
) -> None:
    from oras.client import OrasClient

    push_bundle(packed, f"{registry}/for/oras:1", plain_http=True)
    client = OrasClient(insecure=True)
    client.pull(target=f"{registry}/for/oras:1", outdir=str(tmp_path / "files"))
    found = {
        path.relative_to(tmp_path / "files").as_posix(): path.read_bytes()
        for path in (tmp_path / "files").rglob("*")
        if path.is_file()
    }
    assert found == {name: path.read_bytes() for name, path in layers_of(packed).items()}
    manifest = client.get_manifest(client.get_container(f"{registry}/for/oras:1"))
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["layers"][0]["digest"].removeprefix("sha256:") == (
        hashlib.sha256(model.read_bytes()).hexdigest()
    )
