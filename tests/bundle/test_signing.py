"""Signatures: ours, model-signing's own, and what is neither."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from made_bundles import write_pair

from edgeslm.bundle.signing import (
    check_signature,
    read_private_key,
    read_public_key,
    sign_blobs,
)
from edgeslm.bundle.verification import sign_bundle, verify_bundle
from edgeslm.errors import InvalidBundle, InvalidOption, NotFound, Untrusted, UserError

RECORDED = Path(__file__).parent / "recorded"
HASHES = [hashlib.sha256(word).hexdigest() for word in (b"one", b"two", b"three")]
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


def signed(private: Path, hashes: list[str] = HASHES) -> bytes:
    return sign_blobs(hashes, "sha256", read_private_key(private, str))


def check(data: bytes, private: Path, hashes: list[str] = HASHES) -> None:
    check_signature(data, hashes, [read_public_key(private.with_suffix(".pub"))], "model.sig")


@pytest.mark.parametrize("curve", CURVES)
def test_what_we_sign_we_accept(tmp_path: Path, curve: str) -> None:
    private = write_pair(tmp_path / "key.pem", CURVES[curve])
    check(signed(private), private)
    check(signed(private), private, HASHES[::-1])
    for other in (HASHES[:2], [*HASHES, "0" * 64], [*HASHES[:2], "0" * 64]):
        with pytest.raises(Untrusted, match="another bundle"):
            check(signed(private), private, other)


@pytest.mark.parametrize("curve", ["p256", "p384"])
def test_what_model_signing_signed_we_accept(curve: str) -> None:
    key = read_public_key(RECORDED / f"{curve}.pub")
    data = (RECORDED / f"{curve}.sig").read_bytes()
    assert check_signature(data, HASHES, [key], "model.sig") == key
    with pytest.raises(Untrusted, match="another bundle"):
        check_signature(data, HASHES[:2], [key], "model.sig")


def test_nothing_else_ever_lies_in_a_bundle_that_is_signed(
    packed: Path, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed leaves a bundle that is still one."""
    seen = []
    replace = Path.replace

    def watched(path: Path, target: Path) -> Path:
        seen.append({each.name for each in packed.iterdir()})
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    sign_bundle(packed, read_private_key(private, str))
    assert seen == [{"blobs", "index.json", "oci-layout"}]
    assert verify_bundle(packed, private.with_suffix(".pub")).signed


def test_one_of_several_keys_will_do(private: Path, tmp_path: Path) -> None:
    other = write_pair(tmp_path / "other.pem", CURVES["P-384"])
    keys = [read_public_key(path.with_suffix(".pub")) for path in (other, private)]
    assert check_signature(signed(private), HASHES, keys, "model.sig") == keys[1]
    with pytest.raises(Untrusted, match=r"another key than .*other\.pub"):
        check_signature(signed(private), HASHES, keys[:1], "model.sig")


def test_another_keys_signature_under_this_ones_name(private: Path, tmp_path: Path) -> None:
    other = write_pair(tmp_path / "other.pem", CURVES["P-256"])
    forged = json.loads(signed(other))
    forged["verificationMaterial"] = json.loads(signed(private))["verificationMaterial"]
    with pytest.raises(Untrusted, match="signature is wrong"):
        check(json.dumps(forged).encode(), private)


def test_every_bit_counts(private: Path) -> None:
    data = signed(private)
    check(data, private)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        with pytest.raises(UserError):
            check(bytes(changed), private)


@pytest.mark.parametrize("name", ["a", "ab", "abc"])
def test_there_is_one_way_to_write_the_same_bytes(private: Path, name: str) -> None:
    """Bits at the end of base64 that stand for nothing are not free to be anything."""
    data = sign_blobs(HASHES, name, read_private_key(private, str))
    payload = json.loads(data)["dsseEnvelope"]["payload"]
    bare = payload.rstrip("=")
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    last = alphabet[alphabet.index(bare[-1]) ^ 1]
    other = bare[:-1] + last + payload[len(bare) :]
    same = base64.b64decode(other) == base64.b64decode(payload)
    assert same == (len(bare) < len(payload))
    with pytest.raises(UserError):
        check(_edited(data, "dsseEnvelope", "payload", to=other), private)


def _edited(data: bytes, *path: str | int, to: object) -> bytes:
    whole = json.loads(data)
    place: Any = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return json.dumps(whole).encode()


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("mediaType",), "application/json"),
        (("more",), 1),
        (("verificationMaterial", "tlogEntries"), [{}]),
        (("verificationMaterial", "certificate"), "x"),
        (("verificationMaterial", "publicKey", "rawBytes"), "x"),
        (("dsseEnvelope", "payloadType"), "text/plain"),
        (("dsseEnvelope", "signatures"), []),
        (("dsseEnvelope", "signatures", 0, "keyid"), "x"),
        (("dsseEnvelope", "signatures", 0, "sig"), "not base64!"),
        (("dsseEnvelope", "payload"), "e30"),
    ],
)
def test_other_forms_are_refused(private: Path, path: tuple[str | int, ...], to: object) -> None:
    with pytest.raises(InvalidBundle):
        check(_edited(signed(private), *path, to=to), private)


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("_type",), "https://in-toto.io/Statement/v0.1"),
        (("predicateType",), "https://slsa.dev/provenance/v1"),
        (("subject",), []),
        (("subject", 0, "digest", "sha256"), "0" * 64),
        (("predicate", "serialization", "method"), "shards"),
        (("predicate", "serialization", "hash_type"), "blake3"),
        (("predicate", "resources", 0, "name"), "../x"),
        (("predicate", "resources", 0, "algorithm"), "sha512"),
        (("predicate", "resources", 0, "digest"), "x"),
        (("predicate", "resources"), []),
    ],
)
def test_other_statements_are_refused_though_signed(
    private: Path, path: tuple[str | int, ...], to: object
) -> None:
    from edgeslm.bundle import signing

    envelope = json.loads(signed(private))
    payload = _edited(base64.b64decode(envelope["dsseEnvelope"]["payload"]), *path, to=to)
    key = read_private_key(private, str)
    signature = key.sign(signing._encoded(payload), signing._algorithm(key.public_key()))
    envelope["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    envelope["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    with pytest.raises((InvalidBundle, Untrusted)):
        check(json.dumps(envelope).encode(), private)


def test_keys_that_are_none(tmp_path: Path, private: Path) -> None:
    text = tmp_path / "text.pub"
    text.write_text("hello")
    with pytest.raises(InvalidOption, match="not a public key"):
        read_public_key(text)
    with pytest.raises(InvalidOption, match="a private key, where a public"):
        read_public_key(private)
    with pytest.raises(InvalidOption, match="not a private key"):
        read_private_key(private.with_suffix(".pub"), str)
    with pytest.raises(NotFound):
        read_public_key(tmp_path / "none.pub")
    edwards = ed25519.Ed25519PrivateKey.generate()
    text.write_bytes(
        edwards.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    with pytest.raises(InvalidOption, match="not a public key on P-256"):
        read_public_key(text)
    write_pair(tmp_path / "k1.pem", ec.SECP256K1())
    with pytest.raises(InvalidOption, match="P-256"):
        read_private_key(tmp_path / "k1.pem", str)


def test_a_key_with_a_password(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "key.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert read_private_key(path, lambda: "secret").public_key() == key.public_key()
    with pytest.raises(InvalidOption, match="password is wrong"):
        read_private_key(path, lambda: "other")


def test_model_signing_agrees(packed: Path, private: Path) -> None:
    """Both ways: it verifies what we signed, and signs what we then accept."""
    python = os.environ.get("EDGESLM_MODEL_SIGNING_PYTHON")
    if python is None:
        pytest.skip("EDGESLM_MODEL_SIGNING_PYTHON names no Python with model-signing")
    blobs, signature = packed / "blobs" / "sha256", packed / "model.sig"
    public = private.with_suffix(".pub")
    tool = [python, "-m", "model_signing"]
    check_it = [*tool, "verify", "key", blobs, "--signature", signature, "--public_key", public]
    sign_bundle(packed, read_private_key(private, str))
    subprocess.run(check_it, check=True)
    signature.unlink()
    sign_it = [*tool, "sign", "key", blobs, "--private_key", private, "--signature", signature]
    subprocess.run(sign_it, check=True)
    verify_bundle(packed, public)
    (blobs / ("0" * 64)).touch()
    assert subprocess.run(check_it, check=False).returncode != 0
