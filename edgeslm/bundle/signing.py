"""Signatures with elliptic-curve keys, in the form of OpenSSF's model-signing 1.x.

What is signed is the folder of blobs: an in-toto statement lists each with its hash, a DSSE
envelope holds statement and signature, a Sigstore bundle (JSON) holds the envelope and says which
key it was. So `model_signing verify key BUNDLE/blobs/sha256 --signature BUNDLE/model.sig` agrees
with us, and we with `model_signing sign key` on that folder. Only `cryptography` is needed here:
model-signing itself brings some 40 packages for signing with accounts over the network, which
a device has no use for.

Blobs are named by their hashes, so the signed list is a list of names; that each blob has the
hash it is named by is for others to check. The manifest is among them, and it names all others by
their hashes, so no other blob can take its place. Neither index.json nor oci-layout is signed:
other programs write their own when they copy a bundle.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm.bundle.documents import Fields, canonical, parse
from edgeslm.bundle.image import Image
from edgeslm.errors import InvalidOption, Unsupported, Untrusted, reading

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        ECDSA,
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_MOST_KEY_BYTES = 1 << 16
_ANOTHER = "Get the bundle again, or the key of whoever signed it."


@dataclass(frozen=True)
class PublicKey:
    """A key that signatures are checked with.

    Attributes:
        path: Its file.
        fingerprint: SHA-256 of the key in PEM, by which signatures name it.
        key: The key itself.
    """

    path: Path
    fingerprint: str
    key: EllipticCurvePublicKey


def read_public_key(path: Path) -> PublicKey:
    """A public key from a PEM file.

    Raises:
        InvalidOption: the file holds none, or one of another kind.
        Unsupported: `cryptography` is not installed.
    """
    serialization = _crypto().serialization
    data = _key_bytes(path)
    if b"PRIVATE KEY" in data:
        raise InvalidOption(
            f"{path}: a private key, where a public one is needed",
            hint=f"Make it of the private one: openssl ec -in {path} -pubout -out key.pub",
        )
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, TypeError, _crypto().UnsupportedAlgorithm) as error:
        raise InvalidOption(f"{path}: not a public key in PEM form", hint=_MAKE) from error
    return PublicKey(path, _fingerprint(_elliptic(path, key, private=False)), key)


def read_private_key(path: Path, password: Callable[[], str]) -> EllipticCurvePrivateKey:
    """A private key from a PEM file.

    Args:
        path: The file.
        password: Asked for if the key is encrypted.

    Raises:
        InvalidOption: the file holds none, one of another kind, or the password is wrong.
        Unsupported: `cryptography` is not installed.
    """
    load = _crypto().serialization.load_pem_private_key
    data = _key_bytes(path)
    problems = (ValueError, _crypto().UnsupportedAlgorithm)
    try:
        try:
            key = load(data, None)
        except TypeError:  # it is encrypted
            key = load(data, password().encode())
    except problems as error:
        raise InvalidOption(
            f"{path}: not a private key in PEM form, or the password is wrong", hint=_MAKE
        ) from error
    _elliptic(path, key.public_key(), private=True)
    return key  # type: ignore[no-any-return]


def sign_blobs(hashes: Collection[str], name: str, key: EllipticCurvePrivateKey) -> bytes:
    """The text of a signature.

    Args:
        hashes: SHA-256 of every blob, in hex.
        name: What the signed folder is called, for people.
        key: The private key.
    """
    payload = canonical(_statement(sorted(hashes), name))
    public = key.public_key()
    signature = key.sign(_encoded(payload), _algorithm(public))
    return canonical(
        {
            "mediaType": _BUNDLE_TYPE,
            "verificationMaterial": {
                "publicKey": {"hint": _fingerprint(public)},
                "tlogEntries": [],
            },
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": _PAYLOAD_TYPE,
                "signatures": [{"keyid": "", "sig": base64.b64encode(signature).decode()}],
            },
        }
    )


def sign_image(image: Image, key: EllipticCurvePrivateKey) -> bytes:
    """The text of a signature of a bundle's blobs."""
    return sign_blobs([blob.sha256 for blob in image.blobs.values()], "sha256", key)


def check_signature(
    data: bytes, hashes: Collection[str], keys: Sequence[PublicKey], where: str
) -> PublicKey:
    """The key that signed just those blobs.

    Args:
        data: The text of the signature.
        hashes: SHA-256 of every blob, in hex.
        keys: Those that may have signed.
        where: What the signature is called in messages.

    Raises:
        Untrusted: it was made with another key, is no signature of these blobs, or was changed.
        InvalidBundle: it is malformed.
    """
    hint, payload, signature = _opened(data, where)
    key = next((each for each in keys if each.fingerprint == hint), None)
    if key is None:
        known = ", ".join(str(each.path) for each in keys)
        raise Untrusted(f"{where}: signed with another key than {known}", hint=_ANOTHER)
    try:
        key.key.verify(signature, _encoded(payload), _algorithm(key.key))
    except _crypto().InvalidSignature as error:
        raise Untrusted(f"{where}: the signature is wrong", hint=_ANOTHER) from error
    if _listed(payload, where) != sorted(hashes):
        raise Untrusted(f"{where}: it is the signature of another bundle", hint=_ANOTHER)
    return key


_MAKE = "Make a pair: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


def _statement(hashes: Sequence[str], name: str) -> dict[str, Any]:
    """The in-toto statement: every file of the folder with its hash, and a hash of those."""
    return {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": _root(hashes)}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
            },
            "resources": [{"name": each, "algorithm": "sha256", "digest": each} for each in hashes],
        },
    }


def _root(hashes: Sequence[str]) -> str:
    return hashlib.sha256(b"".join(map(bytes.fromhex, hashes))).hexdigest()


def _opened(data: bytes, where: str) -> tuple[str, bytes, bytes]:
    """The key's fingerprint, the signed bytes, the signature; all else must be as expected."""
    fields = Fields(where, parse(data, where))
    fields.only(("mediaType", "verificationMaterial", "dsseEnvelope"))
    fields.expect("mediaType", _BUNDLE_TYPE)
    material = fields.below("verificationMaterial")
    material.only(("publicKey", "tlogEntries"))
    if material.optional("tlogEntries") is not None:
        material.expect("tlogEntries", [])
    public = material.below("publicKey")
    public.only(("hint",))
    envelope = fields.below("dsseEnvelope")
    envelope.only(("payload", "payloadType", "signatures"))
    envelope.expect("payloadType", _PAYLOAD_TYPE)
    signatures = envelope.take("signatures", list)
    if len(signatures) != 1:
        envelope.fail(f"{len(signatures)} signatures, not one")
    signature = Fields(where, signatures[0])
    signature.only(("keyid", "sig"))
    if signature.optional("keyid") is not None:
        signature.expect("keyid", "")
    return public.take("hint", str), _bytes(envelope, "payload"), _bytes(signature, "sig")


def _bytes(fields: Fields, key: str) -> bytes:
    """The bytes under `key`, in the one way base64 writes them."""
    text = fields.take(key, str)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        fields.fail(f"{key} is not base64")
    if base64.b64encode(data).decode() != text:
        fields.fail(f"{key} is not base64 as it is usually written")
    return data


def _listed(payload: bytes, where: str) -> list[str]:
    """The hashes in a statement that is truly signed; the names must be the same."""
    fields = Fields(where, parse(payload, where))
    fields.expect("_type", _STATEMENT_TYPE)
    fields.expect("predicateType", _PREDICATE_TYPE)
    predicate = fields.below("predicate")
    how = predicate.below("serialization")
    how.expect("method", "files")
    how.expect("hash_type", "sha256")
    found = []
    for entry in predicate.take("resources", list):
        resource = Fields(where, entry)
        resource.expect("algorithm", "sha256")
        digest = resource.take("digest", str)
        resource.expect("name", digest)
        found.append(digest)
    subjects = fields.take("subject", list)
    if len(subjects) != 1:
        fields.fail(f"{len(subjects)} subjects, not one")
    try:
        root = _root(found)
    except ValueError:
        fields.fail("a digest is not in hex")
    Fields(where, subjects[0]).below("digest").expect("sha256", root)
    return sorted(found)


def _encoded(payload: bytes) -> bytes:
    """What is signed of a payload (DSSE 1.0, pre-authentication encoding)."""
    kind = _PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _algorithm(key: EllipticCurvePublicKey) -> ECDSA:
    """ECDSA with the hash that belongs to the curve."""
    crypto = _crypto()
    kinds = {256: crypto.hashes.SHA256, 384: crypto.hashes.SHA384, 521: crypto.hashes.SHA512}
    return crypto.ec.ECDSA(kinds[key.curve.key_size]())  # type: ignore[no-any-return]


def _elliptic(path: Path, key: object, *, private: bool) -> EllipticCurvePublicKey:
    """The key, if it is on one of the curves that model-signing takes."""
    ec = _crypto().ec
    curves = ("secp256r1", "secp384r1", "secp521r1")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in curves:
        kind = "private" if private else "public"
        raise InvalidOption(f"{path}: not a {kind} key on P-256, P-384 or P-521", hint=_MAKE)
    return key  # type: ignore[no-any-return]


def _fingerprint(key: EllipticCurvePublicKey) -> str:
    serialization = _crypto().serialization
    data = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(data).hexdigest()


def _key_bytes(path: Path) -> bytes:
    with reading(path), path.open("rb") as stream:
        return stream.read(_MOST_KEY_BYTES)


@dataclass(frozen=True)
class _Crypto:
    """What we use of `cryptography`."""

    serialization: Any
    hashes: Any
    ec: Any
    InvalidSignature: Any
    UnsupportedAlgorithm: Any


def _crypto() -> _Crypto:
    try:
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ModuleNotFoundError as error:
        raise Unsupported(
            f"signatures need {error.name}, which is not installed",
            hint="Install it with: pip install 'edgeslm[sign]'",
        ) from error
    return _Crypto(serialization, hashes, ec, InvalidSignature, UnsupportedAlgorithm)
