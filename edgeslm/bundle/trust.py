"""Whose bundles this machine accepts.

Where `EDGESLM_TRUSTED_KEYS` names public keys, or the configuration folder or `/etc/edgeslm` has a
`trusted_keys` folder, models are run only from bundles that one of those keys signed. Hashes are
computed once for each file and remembered until the file is touched, but only on the disk that the
notes are on: on one that can be carried away, a file can be changed and look untouched. This guards
against what was brought to the machine, not against somebody who may already write there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from edgeslm.bundle import names
from edgeslm.bundle.image import Image
from edgeslm.bundle.layout import Layout, check_files, read_image, read_small
from edgeslm.bundle.signing import PublicKey, check_signature, read_public_key
from edgeslm.errors import InvalidBundle, InvalidOption, Untrusted, reading
from edgeslm.files import cache_folder, config_folder, remembered_sha256, sha256

VARIABLE = "EDGESLM_TRUSTED_KEYS"
_FOLDER = "trusted_keys"
_DEVICE_FOLDER = Path("/etc/edgeslm") / _FOLDER
"""Of the machine, whoever uses it."""
_ENDINGS = (".pem", ".pub")


def trusted_keys() -> tuple[PublicKey, ...] | None:
    """The keys whose bundles are accepted; None where everything is.

    Raises:
        InvalidOption: the place for keys holds none, or something else.
        Unsupported: there are keys, but nothing to check them with.
    """
    named = os.environ.get(VARIABLE)
    if named:
        places = [Path(each) for each in named.split(os.pathsep) if each]
    else:
        folders = (config_folder(_FOLDER), _DEVICE_FOLDER)
        places = [folder for folder in folders if folder and os.path.lexists(folder)]
        if not places:
            return None
    keys = tuple(read_public_key(file) for place in places for file in _files(place))
    if not keys:
        raise InvalidOption(
            f"no public key in {', '.join(map(str, places))}, and so nothing is trusted",
            hint=f"Put one there ({' or '.join(_ENDINGS)}), or remove the folder.",
        )
    return keys


def _files(place: Path) -> Sequence[Path]:
    with reading(place):
        if not place.is_dir():
            return [place]
        return sorted(file for file in place.iterdir() if file.suffix in _ENDINGS)


def refuse_unsigned(what: Path) -> None:
    """Return if this machine accepts what nobody can have signed, such as a bare file.

    Raises:
        Untrusted: it accepts signed bundles only.
    """
    if trusted_keys() is not None:
        raise Untrusted(
            f"{what}: not a signed bundle, and this machine accepts nothing else",
            hint="Pack and sign it: edgeslm pack MODEL -o BUNDLE --key PRIVATE",
        )


def ensure_trusted(layout: Layout) -> None:
    """Return if this machine accepts a bundle.

    Raises:
        Untrusted: it accepts signed bundles only, and nobody it trusts signed this one.
        InvalidBundle: something in it was changed.
    """
    keys = trusted_keys()
    if keys is None:
        return
    image = read_image(layout)
    check_files(layout, image)
    check_signed(layout, image, keys)
    for blob in image.blobs.values():
        path = layout.path / blob.name
        digest = remembered_sha256(path) if _is_on_our_disk(path) else sha256(path)
        if digest != blob.sha256:
            raise InvalidBundle(
                f"{layout.shown}/{blob.name}: changed: its hash is another", hint=names.DAMAGED
            )


def _is_on_our_disk(path: Path) -> bool:
    """Whether a file is on the disk that holds our notes, or is going to hold them."""
    ours = cache_folder("hashes")
    if ours is None:
        return False
    with reading(path):
        while not ours.exists():
            ours = ours.parent
        return path.stat().st_dev == ours.stat().st_dev


def check_signed(layout: Layout, image: Image, keys: Sequence[PublicKey]) -> PublicKey:
    """The key, of those, that signed a bundle; the blobs' hashes are for others to check.

    Raises:
        Untrusted: none of them did.
    """
    if names.SIGNATURE_NAME not in layout.files:
        raise Untrusted(
            f"{layout.shown}: not signed", hint="Sign it: edgeslm sign BUNDLE --key PRIVATE"
        )
    data = read_small(layout, names.SIGNATURE_NAME)
    return check_data_signed(data, image, keys, f"{layout.shown}/{names.SIGNATURE_NAME}")


def check_data_signed(
    data: bytes, image: Image, keys: Sequence[PublicKey], where: str
) -> PublicKey:
    """The same for a signature that does not lie in the bundle; `where` is what to call it.

    Raises:
        Untrusted: it is nobody's of those.
    """
    return check_signature(data, [blob.sha256 for blob in image.blobs.values()], keys, where)
