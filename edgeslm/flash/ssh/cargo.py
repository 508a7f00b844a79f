"""What is carried to a board, by hashes: a bundle, the runtime for it, keys."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeslm.bundle import names
from edgeslm.bundle.contents import read_runtime_list
from edgeslm.bundle.layout import DirectoryLayout, read_image
from edgeslm.bundle.names import Role
from edgeslm.bundle.runtimes import RUNTIME_NAME, RuntimeList, read_runtimes
from edgeslm.bundle.signing import read_public_key
from edgeslm.errors import InvalidOption, reading
from edgeslm.files import read_text, sha256
from edgeslm.flash.carried import Carried


@dataclass(frozen=True)
class Item:
    """A file here: its hash, its size."""

    sha256: str
    bytes: int
    path: Path


@dataclass(frozen=True)
class Cargo:
    """All of it.

    Attributes:
        named: The bundle as the user named it.
        folder: That the bundle's files lie in.
        digest: Of the bundle, 64 hex digits.
        blobs: Of the bundle.
        files: Of the bundle too, by their names in it: what leads to the blobs.
        runtimes: Which there are; None where nothing is brought along.
        runtime_items: By hashes, the wheels and the list of them.
        runtime_list: The hash of that list.
        keys: Texts of public keys by the names of their files.
    """

    named: str
    folder: Path
    digest: str
    blobs: tuple[Item, ...]
    files: Mapping[str, Item]
    runtimes: RuntimeList | None
    runtime_items: Mapping[str, Item]
    runtime_list: str | None
    keys: Mapping[str, str]

    @property
    def version(self) -> str:
        """What the store calls it."""
        return self.digest[:32]

    @property
    def items(self) -> tuple[Item, ...]:
        """All that belongs to the bundle, each once."""
        return tuple({item.sha256: item for item in (*self.blobs, *self.files.values())}.values())


def load(carried: Carried, runtime: Path | None, keys: Sequence[Path] = ()) -> Cargo:
    """What a verified bundle and a folder of wheels hold.

    Args:
        carried: The bundle.
        runtime: What `edgeslm wheels` made; None for what lies in the bundle.
        keys: Public keys that the board is to trust.

    Raises:
        EdgeslmError: something cannot be read, or is not what it should be.
    """
    layout = DirectoryLayout(carried.folder)
    image = read_image(layout)
    blobs = {
        blob.sha256: Item(blob.sha256, blob.size, carried.folder / blob.name)
        for blob in image.blobs.values()
    }
    other = (names.LAYOUT_NAME, names.INDEX_NAME, names.SIGNATURE_NAME)
    files = {name: _item(carried.folder / name) for name in other if name in layout.files}
    layer = image.layer(Role.RUNTIMES)
    runtimes, listed = read_runtime_list(layout, image), layer.blob.sha256 if layer else None
    brought: Mapping[str, Item] = blobs
    if runtime is not None:
        runtimes, brought, listed = _runtime_folder(runtime)
    return Cargo(
        str(carried.named),
        carried.folder,
        image.manifest.sha256,
        tuple(blobs.values()),
        files,
        runtimes,
        brought,
        listed,
        _texts(keys),
    )


def _texts(keys: Sequence[Path]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key in keys:
        name, text = _key_name(key), _public_text(key)
        if found.setdefault(name, text) != text:
            raise InvalidOption(
                f"two keys with the name {name}", hint="Give one of the files another name."
            )
    return found


def _item(path: Path) -> Item:
    with reading(path):
        return Item(sha256(path), path.stat().st_size, path)


def _runtime_folder(folder: Path) -> tuple[RuntimeList, Mapping[str, Item], str]:
    listed = folder / RUNTIME_NAME
    if not listed.is_file():
        raise InvalidOption(
            f"{folder}: has no {RUNTIME_NAME}",
            hint="Name a folder that edgeslm wheels made: edgeslm wheels --target BOARD -o DIR",
        )
    with reading(listed):
        data = listed.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    runtimes = read_runtimes(data, str(listed))
    items = {digest: Item(digest, len(data), listed)}
    for wheel in runtimes.wheels:
        items[wheel.sha256] = Item(wheel.sha256, wheel.bytes, folder / wheel.name)
    return runtimes, items, digest


def _key_name(key: Path) -> str:
    if not key.name.isascii() or not all(sign.isalnum() or sign in "._-" for sign in key.name):
        raise InvalidOption(
            f"not a name for a key on a board: {key.name!r}",
            hint="Use letters, digits and . _ - only.",
        )
    if key.suffix != ".pub" or key.name.startswith("."):
        raise InvalidOption(f"{key}: does not end in .pub", hint="Name the public key.")
    return key.name


def _public_text(key: Path) -> str:
    """The text of a file that really holds a public key, not the private one beside it."""
    read_public_key(key)
    return read_text(key)
