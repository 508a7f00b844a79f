"""Make an update: what a device lacks of a new bundle, and how the rest is put together there."""

from __future__ import annotations

import hashlib
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgeslm import progress
from edgeslm.bundle import names
from edgeslm.bundle.delta_blocks import find_runs
from edgeslm.bundle.delta_format import (
    MOST_PIECE_BYTES,
    Copy,
    Delta,
    Piece,
    Recipe,
    Step,
    Zeros,
    total_bytes,
    write_head,
)
from edgeslm.bundle.delta_inventory import Inventory, tensors_of
from edgeslm.bundle.image import Blob, Image
from edgeslm.bundle.layout import Layout, open_layout, read_image, read_small
from edgeslm.bundle.tensors import TensorHashes
from edgeslm.bundle.verification import verify_bundle
from edgeslm.errors import InvalidBundle, reading, writing
from edgeslm.files import atomic_path, scratch_folder
from edgeslm.progress import Advance

_TRIED_BYTES = 64 << 10
_WORTH = 0.97
"""Compressing is worth its time where less than this share is left."""


@dataclass(frozen=True)
class Made:
    """A delta that was written.

    Attributes:
        path: Its file.
        digest: The new bundle's, with its prefix.
        sent_bytes: Of the delta, which is all that the device has to get.
        bundle_bytes: Of the new bundle.
        lacked_bytes: Of the bundle, what the device lacks, before compression.
        changed: Files of the bundle that the device lacks, by their names in it, and how many bytes
            of each.
    """

    path: Path
    digest: str
    sent_bytes: int
    bundle_bytes: int
    lacked_bytes: int
    changed: tuple[tuple[str, int], ...]


def make_delta(bundle: Path, inventory: Inventory, output: Path) -> Made:
    """Write what turns what a device has into a bundle.

    Args:
        bundle: The new one: a directory, or a tar.
        inventory: What the device has.
        output: The delta's file, which appears when it is complete.

    Raises:
        UserError: the bundle is damaged.
        OutputFailure: the delta cannot be written.
    """
    verify_bundle(bundle)
    layout = open_layout(bundle)
    image = read_image(layout)
    with (
        scratch_folder(output) as folder,
        atomic_path(output) as temporary,
        writing(output),
        (folder / "pieces").open("w+b") as pieces,
        temporary.open("wb") as stream,
    ):
        delta = _Maker(layout, image, inventory, pieces).delta()
        pieces.seek(0)
        stream.write(write_head(delta))
        shutil.copyfileobj(pieces, stream, 1 << 20)
    with reading(output):
        sent = output.stat().st_size
    names_ = {layer.blob.name: layer.path or layer.blob.name for layer in image.layers}
    changed = [(names_.get(each.name, each.name), _lacked(each)) for each in delta.recipes]
    return Made(
        path=output,
        digest=image.manifest.digest,
        sent_bytes=sent,
        bundle_bytes=total_bytes(delta.recipes),
        lacked_bytes=sum(map(_lacked, delta.recipes)),
        changed=tuple((name, count) for name, count in changed if count),
    )


def _lacked(recipe: Recipe) -> int:
    return sum(step.bytes for step in recipe.steps if isinstance(step, Piece))


class _Maker:
    """Writes pieces while it finds out how each file is put together."""

    def __init__(
        self, layout: Layout, image: Image, inventory: Inventory, pieces: BinaryIO
    ) -> None:
        self._layout = layout
        self._image = image
        self._inventory = inventory
        self._pieces = pieces
        self._held = {blob.sha256: blob for blob in inventory.blobs}
        self._tensors = {
            (sha256, size): (model.sha256, offset)
            for model in reversed(inventory.models)
            for sha256, offset, size in model.tensors
            if model.sha256 in self._held
        }
        self._needs: dict[str, int] = {}

    def delta(self) -> Delta:
        """All of it; tensors.json comes before the model, so that a device can check its parts."""
        recipes = [
            self._small(name)
            for name in (names.LAYOUT_NAME, names.INDEX_NAME, names.SIGNATURE_NAME)
            if name in self._layout.files
        ]
        model, manifest = self._image.model.blob, self._image.manifest
        others = [blob for blob in self._image.blobs.values() if blob not in (model, manifest)]
        blobs = [manifest, *sorted(others, key=lambda blob: (blob.size, blob.sha256)), model]
        with progress.bar("comparing", sum(blob.size for blob in blobs), unit="bytes") as advance:
            recipes += [self._blob(blob, advance) for blob in blobs]
        needs = tuple(self._held[sha256] for sha256 in self._needs)
        return Delta(manifest.sha256, needs, tuple(recipes))

    def _small(self, name: str) -> Recipe:
        data = read_small(self._layout, name)
        steps = tuple(self._literal(data))
        return Recipe(name, len(data), hashlib.sha256(data).hexdigest(), steps)

    def _blob(self, blob: Blob, advance: Advance) -> Recipe:
        if self._held.get(blob.sha256) == blob:
            steps: list[Step] = [Copy(self._need(blob.sha256), 0, blob.size)]
            advance(blob.size)
        else:
            is_model = blob == self._image.model.blob
            hashes = tensors_of(self._layout, self._image) if is_model else None
            source = _Source(self._layout, blob, advance)
            steps = _joined(
                self._rest(source, blob.size) if hashes is None else self._model(source, hashes)
            )
        return Recipe(blob.name, blob.size, blob.sha256, tuple(steps))

    def _model(self, source: _Source, hashes: TensorHashes) -> Iterator[Step]:
        header = b"".join(source.read(hashes.header_bytes))
        known = [
            (model.sha256, model.blocks)
            for model in self._inventory.models
            if model.sha256 in self._held
        ]
        for run in find_runs(header, known):
            if run.source is None:
                yield from self._literal(header[run.start : run.end])
            else:
                yield Copy(self._need(run.source), run.offset, run.end - run.start)
        for tensor in hashes.tensors:
            yield from self._gap(source, tensor.offset)
            held = self._tensors.get((tensor.sha256, tensor.bytes))
            digest = hashlib.sha256()
            for piece in source.read(tensor.bytes):
                digest.update(piece)
                if held is None:
                    yield from self._literal(piece)
            if digest.hexdigest() != tensor.sha256:
                raise InvalidBundle(
                    f"{self._layout.shown}: {tensor.name} is not what tensors.json says",
                    hint="Pack it again.",
                )
            if held is not None and tensor.bytes:
                yield Copy(self._need(held[0]), held[1], tensor.bytes)
        yield from self._gap(source, source.blob.size)

    def _gap(self, source: _Source, end: int) -> Iterator[Step]:
        for piece in source.read(end - source.position):
            if any(piece):
                yield from self._literal(piece)
            else:
                yield Zeros(len(piece))

    def _rest(self, source: _Source, count: int) -> Iterator[Step]:
        for piece in source.read(count):
            yield from self._literal(piece)

    def _literal(self, data: bytes) -> Iterator[Step]:
        for start in range(0, len(data), MOST_PIECE_BYTES):
            piece = data[start : start + MOST_PIECE_BYTES]
            stored = _shorter(piece)
            self._pieces.write(stored)
            yield Piece(len(piece), len(stored))

    def _need(self, sha256: str) -> int:
        return self._needs.setdefault(sha256, len(self._needs))


class _Source:
    """A blob that is read once, from its beginning to its end."""

    def __init__(self, layout: Layout, blob: Blob, advance: Advance) -> None:
        self.blob = blob
        self.position = 0
        self._pieces = layout.pieces(blob.name)
        self._left = b""
        self._advance = advance

    def read(self, count: int) -> Iterator[bytes]:
        """So many bytes, in pieces of one MiB at most."""
        while count > 0:
            if not self._left:
                self._left = next(self._pieces, b"")
                if not self._left:
                    return
            piece = self._left[: min(count, MOST_PIECE_BYTES)]
            self._left = self._left[len(piece) :]
            self.position += len(piece)
            count -= len(piece)
            self._advance(len(piece))
            yield piece


def _shorter(data: bytes) -> bytes:
    """The bytes compressed, or as they are where that saves next to nothing."""
    tried = data[:_TRIED_BYTES]
    if len(zlib.compress(tried, 1)) > _WORTH * len(tried):
        return data
    compressed = zlib.compress(data, 9)
    return compressed if len(compressed) < len(data) else data


def _joined(steps: Iterator[Step]) -> list[Step]:
    """The same with copies in one where their source has them one after the other."""
    joined: list[Step] = []
    for step in steps:
        last = joined[-1] if joined else None
        if (
            isinstance(step, Copy)
            and isinstance(last, Copy)
            and (last.need, last.offset + last.bytes) == (step.need, step.offset)
        ):
            joined[-1] = Copy(last.need, last.offset, last.bytes + step.bytes)
        else:
            joined.append(step)
    return joined
