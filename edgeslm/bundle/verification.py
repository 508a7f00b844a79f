"""A bundle is what its manifest says, byte for byte; and who signed it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm import progress
from edgeslm.bundle import durable, names
from edgeslm.bundle.contents import Contents, read_contents, read_runtime_list
from edgeslm.bundle.directory import MANIFEST_NAME, verify_directory
from edgeslm.bundle.image import Image, read_config
from edgeslm.bundle.layout import (
    Layout,
    check_files,
    hashed,
    is_layout,
    open_layout,
    read_blob,
    read_image,
    read_model_header,
    read_small,
)
from edgeslm.bundle.names import Role
from edgeslm.bundle.probes import read_limits, read_probe
from edgeslm.bundle.signing import read_public_key, sign_image
from edgeslm.bundle.tensors import read_tensors
from edgeslm.bundle.trust import check_signed
from edgeslm.bundle.writing import write_pieces, write_tar_file
from edgeslm.errors import Unsupported, reading, writing
from edgeslm.files import scratch_folder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey


@dataclass(frozen=True)
class Verified:
    """A bundle that is complete and unchanged.

    Attributes:
        contents: What it holds.
        signed: Whether there is a signature.
        key: Fingerprint of the key that it was checked with; None where it was not checked.
    """

    contents: Contents
    signed: bool
    key: str | None


def verify_bundle(path: Path, key: Path | None = None) -> Verified:
    """Check a bundle: structure, sizes, every hash, the documents in it, the model's header.

    Args:
        path: A directory or a tar; or a packed directory of the form before bundles.
        key: The public key that must have signed it; None to leave the signature alone.

    Raises:
        NotFound: nothing is there.
        InvalidBundle: it is damaged, or was changed; the message names the file.
        Untrusted: it is not signed with that key.
        InvalidGGUF, Unsupported: the model in it is none that llama.cpp can run.
    """
    if _is_earlier(path):
        if key is not None:
            raise Unsupported(f"{path}: packed before bundles, and never signed", hint=_AGAIN)
        return Verified(verify_directory(path), signed=False, key=None)
    public = None if key is None else read_public_key(key)
    layout = open_layout(path)
    image = read_image(layout)
    check_files(layout, image)
    signer = None if public is None else check_signed(layout, image, [public])
    _check_hashes(layout, image)
    contents = read_all(layout, image)
    return Verified(
        contents,
        signed=names.SIGNATURE_NAME in layout.files,
        key=None if signer is None else signer.fingerprint,
    )


_AGAIN = "Pack it again: edgeslm pack DIRECTORY -o BUNDLE --target ID"


def sign_bundle(path: Path, key: EllipticCurvePrivateKey) -> Contents:
    """Sign a bundle that was found complete and unchanged; an earlier signature is replaced.

    Args:
        path: A directory or a tar.
        key: The private key, from `read_private_key`.

    Raises:
        InvalidBundle: it is damaged; nothing was signed.
        OutputFailure: the signature cannot be written.
    """
    if _is_earlier(path):
        raise Unsupported(f"{path}: packed before bundles, and cannot be signed", hint=_AGAIN)
    layout = open_layout(path)
    image = read_image(layout)
    check_files(layout, image)
    _check_hashes(layout, image)
    contents = read_all(layout, image)
    data = sign_image(image, key)
    if path.is_dir():
        target = path / names.SIGNATURE_NAME
        # beside it: what a killed process left in it would make it no bundle
        with scratch_folder(path) as folder:
            write_pieces([data], folder / names.SIGNATURE_NAME, target)
            with writing(target):
                (folder / names.SIGNATURE_NAME).replace(target)
                durable.sync_folder(path)
    else:
        _sign_tar(layout, data)
    return contents


def _sign_tar(layout: Layout, signature: bytes) -> None:
    """Write a tar again, with a signature."""
    files = [
        (name, size, layout.pieces(name))
        for name, size in layout.files.items()
        if size is not None and name != names.SIGNATURE_NAME
    ]
    files.append((names.SIGNATURE_NAME, len(signature), iter([signature])))
    write_tar_file(layout.path, sorted(files, key=lambda file: file[0]))


def _is_earlier(path: Path) -> bool:
    with reading(path):
        return path.is_dir() and not is_layout(path) and (path / MANIFEST_NAME).exists()


def _check_hashes(layout: Layout, image: Image) -> None:
    blobs = image.blobs.values()
    with progress.bar("verifying", sum(blob.size for blob in blobs), unit="bytes") as advance:
        for blob in blobs:
            for _ in hashed(layout, blob, advance):
                pass


def read_all(layout: Layout, image: Image) -> Contents:
    """Read every document, so that nothing in a bundle that was verified fails later.

    Raises:
        UserError: one of them is malformed, or the model is none that llama.cpp can run.
    """
    where = f"{layout.shown}/{image.config.name}"
    read_config(read_blob(layout, image.config), where)
    contents = read_contents(layout, image, read_model_header(layout, image))
    tensors = image.layer(Role.TENSORS)
    if tensors is not None:
        read_tensors(read_blob(layout, tensors.blob), f"{layout.shown}/{tensors.blob.name}")
    read_probe(layout, image)
    read_limits(layout, image)
    read_runtime_list(layout, image)
    if names.SIGNATURE_NAME in layout.files:
        read_small(layout, names.SIGNATURE_NAME)
    return contents
