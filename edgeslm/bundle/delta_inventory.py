"""What a device has: enough to tell what an update need not send, and some hundred kilobytes.

Of a store that is the current version and the one before: those stay there.

Each blob's hash and size; of each model the hashes of its tensors, and those of the blocks of its
header. A device writes it (`edgeslm store inventory`), and it is read where updates are made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm import progress
from edgeslm.bundle.delta_blocks import BLOCK_BYTES, STRONG_DIGITS, Block, block_hashes
from edgeslm.bundle.documents import Fields, canonical, parse
from edgeslm.bundle.image import Blob, Image
from edgeslm.bundle.layout import DirectoryLayout, Layout, open_layout, read_blob, read_image
from edgeslm.bundle.names import MOST_JSON_BYTES, Role
from edgeslm.bundle.store import Store
from edgeslm.bundle.store_state import is_store
from edgeslm.bundle.tensors import TensorHash, TensorHashes, hash_model, read_tensors
from edgeslm.errors import InvalidBundle, InvalidOption, reading
from edgeslm.gguf.reader import MAX_HEADER_BYTES
from edgeslm.gguf.validation import read_model
from edgeslm.records import INVENTORY_SCHEMA

_HEX = re.compile("[0-9a-f]{64}")
_AGAIN = "Make it again on the device: edgeslm store inventory --json > inventory.json"


@dataclass(frozen=True)
class HeldModel:
    """A model that is there.

    Attributes:
        sha256: Of its file.
        blocks: Of its header, in order.
        tensors: Hash, offset and bytes of each.
    """

    sha256: str
    blocks: tuple[Block, ...]
    tensors: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Inventory:
    """All that is there.

    Attributes:
        versions: Names of those versions in a store that are listed; none for a single bundle.
        blobs: Every blob of these.
        models: What is known of models among them.
    """

    versions: tuple[str, ...]
    blobs: tuple[Blob, ...]
    models: tuple[HeldModel, ...]


def inventory_of(path: Path) -> Inventory:
    """What there is in a store, in a bundle, or by an inventory's file.

    In a store where none is current yet, all versions count.

    Raises:
        UserError: it is none of these, or damaged.
    """
    with reading(path):
        if path.is_dir() and is_store(path):
            store = Store(path)
            versions = store.versions()
            kept = [version for version in versions if version.current or version.previous]
            names = tuple(version.name for version in kept or versions)
            return _of_layouts(names, [DirectoryLayout(store.folder(name)) for name in names])
        is_document = path.is_file() and path.open("rb").read(1) == b"{"
        if is_document and path.stat().st_size > MOST_JSON_BYTES:
            raise InvalidBundle(f"{path}: too large for an inventory", hint=_AGAIN)
    return read_inventory(path) if is_document else _of_layouts((), [open_layout(path)])


def write_inventory(inventory: Inventory) -> bytes:
    """The text of an inventory."""
    models = [
        {"blocks": model.blocks, "sha256": model.sha256, "tensors": model.tensors}
        for model in inventory.models
    ]
    return canonical(
        {
            "schema": INVENTORY_SCHEMA,
            "block_bytes": BLOCK_BYTES,
            "versions": inventory.versions,
            "blobs": [[blob.sha256, blob.size] for blob in inventory.blobs],
            "models": models,
        }
    )


def read_inventory(path: Path) -> Inventory:
    """What an inventory's file says.

    Raises:
        UserError: it is malformed.
    """
    with reading(path):
        data = path.read_bytes()
    fields = Fields(str(path), parse(data, str(path)))
    fields.expect("schema", INVENTORY_SCHEMA)
    fields.expect("block_bytes", BLOCK_BYTES)
    versions = fields.take("versions", list)
    if not all(isinstance(each, str) for each in versions):
        fields.fail("versions has the wrong type")
    rows = _rows(fields, "blobs", (str, int))
    models = [Fields(f"{path}: models", each) for each in fields.take("models", list)]
    return Inventory(
        versions=tuple(versions),
        blobs=tuple(Blob(_hash(fields, sha256), size) for sha256, size in rows),
        models=tuple(_read_model(each) for each in models),
    )


def tensors_of(layout: Layout, image: Image) -> TensorHashes | None:
    """The hashes of a model's tensors: as the bundle lists them, else computed; None for a tar.

    Raises:
        UserError: they are malformed, or the model cannot be read.
    """
    layer = image.layer(Role.TENSORS)
    model = image.model.blob
    if layer is not None:
        where = f"{layout.shown}/{layer.blob.name}"
        hashes = read_tensors(read_blob(layout, layer.blob), where)
        check_tensors(hashes, model.size, where)
        return hashes
    if not isinstance(layout, DirectoryLayout):
        return None
    with progress.bar("hashing", model.size, unit="bytes") as advance:
        return hash_model(read_model(layout.path / model.name), advance)[1]


def check_tensors(hashes: TensorHashes, file_bytes: int, where: str) -> None:
    """Return if tensors lie one after the other within their file.

    Raises:
        InvalidBundle: they do not.
    """
    fields = Fields(where, {})
    end = hashes.header_bytes
    if not 0 <= end <= min(file_bytes, MAX_HEADER_BYTES):
        fields.fail(f"a header of {end} bytes")
    for tensor in hashes.tensors:
        if tensor.offset < end or tensor.bytes < 0 or not _HEX.fullmatch(tensor.sha256):
            fields.fail(f"{tensor.name[:80]!r} lies before the end of what comes before it")
        end = tensor.offset + tensor.bytes
    if end > file_bytes:
        fields.fail(f"tensors end at {end}, the file at {file_bytes}")


def _of_layouts(versions: tuple[str, ...], layouts: Iterable[Layout]) -> Inventory:
    blobs: dict[str, Blob] = {}
    models: dict[str, HeldModel] = {}
    for layout in layouts:
        image = read_image(layout)
        blobs.update(image.blobs)
        model = image.model.blob
        if model.sha256 in models:
            continue
        hashes = tensors_of(layout, image)
        if hashes is not None:
            models[model.sha256] = HeldModel(
                model.sha256,
                block_hashes(first_bytes(layout, model, hashes.header_bytes)),
                tuple(map(_row, hashes.tensors)),
            )
    return Inventory(versions, tuple(blobs[name] for name in sorted(blobs)), (*models.values(),))


def first_bytes(layout: Layout, blob: Blob, count: int) -> bytes:
    """So many bytes of a blob."""
    pieces: list[bytes] = []
    left = count
    for piece in _until(layout.pieces(blob.name), count):
        pieces.append(piece[:left])
        left -= len(piece)
    return b"".join(pieces)


def _until(pieces: Iterator[bytes], count: int) -> Iterator[bytes]:
    while count > 0 and (piece := next(pieces, b"")):
        count -= len(piece)
        yield piece


def _row(tensor: TensorHash) -> tuple[str, int, int]:
    return tensor.sha256, tensor.offset, tensor.bytes


def _read_model(fields: Fields) -> HeldModel:
    blocks = _rows(fields, "blocks", (int, str))
    if any(len(strong) != STRONG_DIGITS for _, strong in blocks):
        fields.fail("blocks are of another kind")
    tensors = _rows(fields, "tensors", (str, int, int))
    return HeldModel(
        _hash(fields, fields.take("sha256", str)),
        tuple((weak, strong) for weak, strong in blocks),
        tuple((_hash(fields, sha256), offset, size) for sha256, offset, size in tensors),
    )


def _rows(fields: Fields, key: str, kinds: tuple[type, ...]) -> list[list[Any]]:
    rows: list[list[Any]] = fields.take(key, list)
    for row in rows:
        if not isinstance(row, list) or [type(each) for each in row] != list(kinds):
            fields.fail(f"{key} has the wrong type")
        if any(isinstance(each, int) and each < 0 for each in row):
            fields.fail(f"{key}: a negative number")
    return rows


def _hash(fields: Fields, text: object) -> str:
    if not isinstance(text, str) or not _HEX.fullmatch(text):
        raise InvalidOption(f"{fields.where}: not a SHA-256: {str(text)[:80]!r}", hint=_AGAIN)
    return text
