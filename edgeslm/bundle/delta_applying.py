"""Put a new version together on the device, from what it has and what a delta brings.

A file grows piece by piece, in some 40 MB of memory whatever its size. Each part of it whose hash
is known, such as a tensor, is checked when it ends; where an earlier attempt was interrupted, what
it left is read and kept up to the end of the last part that is right. Nothing is used before all of
it was compared with the manifest.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from edgeslm import progress
from edgeslm.bundle import durable, names
from edgeslm.bundle.delta_format import Copy, Delta, Piece, Recipe, Step, read_head
from edgeslm.bundle.delta_inventory import check_tensors
from edgeslm.bundle.image import Blob
from edgeslm.bundle.layout import DirectoryLayout, read_blob, read_image
from edgeslm.bundle.names import Role
from edgeslm.bundle.store import Store
from edgeslm.bundle.store_state import NAME_DIGITS, Added
from edgeslm.bundle.tensors import read_tensors
from edgeslm.errors import InvalidBundle, NotFound, reading, writing
from edgeslm.progress import Advance

_PIECE_BYTES = 1 << 20
_SYNCED_BYTES = 32 << 20
_AGAIN = (
    "Fetch the delta again, make it again from a new inventory of this device, or bring the whole "
    "bundle: edgeslm store add"
)


@dataclass(frozen=True)
class _Part:
    """A stretch of a file up to `end`; `sha256` is None where nobody said what it is."""

    name: str
    end: int
    sha256: str | None


def apply_delta(store: Store, path: Path, *, again: bool = False) -> Added:
    """Add the version that a delta describes, complete and not yet current.

    Where it had been there, it is read, mended if it was damaged since, and gets the signature that
    the delta brings.

    Args:
        store: Where it goes, and what it is made from.
        path: The delta's file.
        again: Take the version even if it did not pass its check before.

    Raises:
        NotFound: the store lacks what the delta takes for granted.
        UserError: the delta is damaged, or the version not accepted here.
        OutputFailure: it cannot be written, or there is not enough room.
    """
    delta, begin = read_head(path)
    name = delta.digest[:NAME_DIGITS]
    with store.locked():
        store.refuse_refused(name, again=again)
        there = store.folder(name).is_dir()
        written = shared = 0
        if not store.settle(name):
            written = _put_together(store, delta, path, begin)
            shared = sum(recipe.bytes for recipe in _blobs(delta)) - written
        if there:
            _bring_signature(store, delta, path, begin)
    return Added(name, new=not there, written_bytes=written, shared_bytes=shared)


def _put_together(store: Store, delta: Delta, path: Path, begin: int) -> int:
    """Make a version of what a delta describes; how many bytes of blobs that wrote."""
    sources = [_found(store, blob, path) for blob in delta.needs]
    kept = [each for each in delta.recipes if _kept(each, delta)]
    missing = {each.name: each.bytes for each in delta.recipes if each not in kept}
    folder = store.receive(delta.digest[:NAME_DIGITS], missing, [each.blob for each in kept])
    total = sum(recipe.bytes for recipe in delta.recipes)
    with (
        reading(path),
        path.open("rb") as stream,
        progress.bar("putting together", total, unit="bytes") as advance,
    ):
        builder = _Builder(store, delta, sources, folder, stream, path, advance)
        for recipe in delta.recipes:
            builder.build(recipe, begin)
            begin += recipe.stored
    store.admit(folder)
    return builder.written


def _bring_signature(store: Store, delta: Delta, path: Path, begin: int) -> None:
    """Have a version that is there get the signature that a delta brings, if it brings one."""
    folder = store.folder(delta.digest[:NAME_DIGITS])
    with reading(path), path.open("rb") as stream:
        builder = _Builder(store, delta, (), folder, stream, path, lambda _count: None)
        for recipe in delta.recipes:
            if recipe.name == names.SIGNATURE_NAME:
                store.renew_signature(folder.name, builder.small(recipe, begin))
            begin += recipe.stored


def _blobs(delta: Delta) -> list[Recipe]:
    return [each for each in delta.recipes if each.name.startswith(names.BLOBS)]


def _found(store: Store, blob: Blob, path: Path) -> Path:
    found = store.find_blob(blob)
    if found is None:
        raise NotFound(
            f"{path}: made for a device that has {blob.sha256[:NAME_DIGITS]}, and this one has not",
            hint="Make the delta from this device's own: edgeslm store inventory",
        )
    return found


def _kept(recipe: Recipe, delta: Delta) -> bool:
    """Whether a file is a blob that is there, as a whole."""
    first = recipe.steps[0] if len(recipe.steps) == 1 else None
    return isinstance(first, Copy) and delta.needs[first.need] == recipe.blob


class _Builder:
    """Puts files together in the folder of a version that is being received."""

    def __init__(
        self,
        store: Store,
        delta: Delta,
        sources: Sequence[Path],
        folder: Path,
        stream: BinaryIO,
        path: Path,
        advance: Advance,
    ) -> None:
        self._store = store
        self._delta = delta
        self._sources = sources
        self._folder = folder
        self._stream = stream
        self._path = path
        self._advance = advance
        self.written = 0
        """Bytes of blobs that were written."""

    def build(self, recipe: Recipe, begin: int) -> None:
        """Have a file appear, complete; its pieces begin there in the delta."""
        target = self._folder / recipe.name
        if not recipe.name.startswith(names.BLOBS):
            self._write_small(recipe, target, begin)
        elif durable.size(target) == recipe.bytes:
            # complete, or it would not have its name; read again before it is admitted
            self._advance(recipe.bytes)
        else:
            shared = self._store.share(recipe.blob, target)
            if shared is not None:
                self.written += shared
                self._advance(recipe.bytes)
            elif _kept(recipe, self._delta):
                raise self._damaged(f"{recipe.name} in the store was changed")
            else:
                self._write(recipe, target, begin)
                self.written += recipe.bytes

    def _write_small(self, recipe: Recipe, target: Path, begin: int) -> None:
        data = self.small(recipe, begin)
        with writing(target):
            durable.write_synced(target, data)
        self._advance(len(data))

    def small(self, recipe: Recipe, begin: int) -> bytes:
        """The bytes of a small file, found right; its pieces begin there in the delta."""
        data = b"".join(self._pieces(recipe.steps, begin, 0))
        if hashlib.sha256(data).hexdigest() != recipe.sha256:
            raise self._damaged(f"{recipe.name} comes out changed")
        return data

    def _write(self, recipe: Recipe, target: Path, begin: int) -> None:
        part = target.with_name(f"{target.name}.part")
        checked = _Checked(self._parts(recipe))
        with writing(target):
            if part.exists():
                checked.take_up(part)
            done = checked.position
            self._advance(done)
            with durable.Output(part, keep=done) as output:
                unsynced = 0
                for piece in self._pieces(recipe.steps, begin, done):
                    wrong = checked.feed(piece)
                    if wrong is not None:
                        raise self._damaged(f"{recipe.name}: {wrong} comes out changed")
                    output.write(piece)
                    self._advance(len(piece))
                    unsynced += len(piece)
                    if unsynced >= _SYNCED_BYTES:
                        output.sync()
                        unsynced = 0
                output.sync()
            if checked.sha256 != recipe.sha256:
                durable.unlink(part)  # what is wrong lies between parts: begin anew
                raise self._damaged(f"{recipe.name} comes out changed")
            durable.rename(part, target)

    def _parts(self, recipe: Recipe) -> list[_Part]:
        """The parts of a file whose hashes are known: of a model, its tensors."""
        whole = [_Part("it", recipe.bytes, recipe.sha256)]
        if recipe.sha256 == self._delta.digest:
            return whole  # the manifest, which tells of all others
        layout = DirectoryLayout(self._folder)
        image = read_image(layout)
        layer = image.layer(Role.TENSORS)
        if layer is None or image.model.blob != recipe.blob:
            return whole
        where = f"{self._folder}/{layer.blob.name}"
        hashes = read_tensors(read_blob(layout, layer.blob), where)
        check_tensors(hashes, recipe.bytes, where)
        parts = [_Part("its header", hashes.header_bytes, hashes.header_sha256)]
        for tensor in hashes.tensors:
            if tensor.offset > parts[-1].end:
                parts.append(_Part("what lies between tensors", tensor.offset, None))
            if tensor.bytes:
                end = tensor.offset + tensor.bytes
                parts.append(_Part(tensor.name, end, tensor.sha256))
        return parts

    def _pieces(self, steps: Sequence[Step], position: int, skip: int) -> Iterator[bytes]:
        """The bytes of a file from the place `skip` on; its pieces begin at `position`."""
        for step in steps:
            left_out = min(skip, step.bytes)
            if left_out < step.bytes:
                yield from self._bytes_of(step, position, left_out)
            skip -= left_out
            position += step.stored if isinstance(step, Piece) else 0

    def _bytes_of(self, step: Step, position: int, skip: int) -> Iterator[bytes]:
        if isinstance(step, Copy):
            if step.need >= len(self._sources):
                raise self._damaged("it copies what it has to bring")
            yield from self._copied(self._sources[step.need], step.offset, step.bytes, skip)
        elif isinstance(step, Piece):
            yield self._piece(step, position)[skip:]
        else:
            for start in range(skip, step.bytes, _PIECE_BYTES):
                yield bytes(min(_PIECE_BYTES, step.bytes - start))

    def _copied(self, source: Path, offset: int, count: int, skip: int) -> Iterator[bytes]:
        with reading(source), source.open("rb") as stream:
            stream.seek(offset + skip)
            left = count - skip
            while left:
                piece = stream.read(min(_PIECE_BYTES, left))
                if not piece:
                    raise self._damaged(f"{source} is shorter than it was")
                left -= len(piece)
                yield piece

    def _piece(self, step: Piece, position: int) -> bytes:
        with reading(self._path):
            self._stream.seek(position)
            data = self._stream.read(step.stored)
        if len(data) < step.stored:
            raise self._damaged("it is truncated")
        if step.stored == step.bytes:
            return data
        inflater = zlib.decompressobj()
        try:
            data = inflater.decompress(data, step.bytes)
            # what ends a stream may come after its last byte
            rest = inflater.decompress(inflater.unconsumed_tail, 1)
        except zlib.error as error:
            raise self._damaged(str(error)) from error
        if rest or len(data) != step.bytes or not inflater.eof or inflater.unused_data:
            raise self._damaged("a piece has another size than it says")
        return data

    def _damaged(self, problem: str) -> InvalidBundle:
        return InvalidBundle(f"{self._path}: {problem}", hint=_AGAIN)


class _Checked:
    """Bytes that are hashed as a whole and in parts.

    Attributes:
        position: How many there were.
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        self.position = 0
        self._parts = parts
        self._next = 0
        self._whole: Any = hashlib.sha256()
        self._part = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of all of them."""
        return str(self._whole.hexdigest())

    def feed(self, data: bytes) -> str | None:
        """More bytes; the name of a part that ends there and is not what it should be, if any."""
        view = memoryview(data)
        while view:
            end = self._parts[self._next].end if self._next < len(self._parts) else None
            taken = view if end is None else view[: end - self.position]
            self._whole.update(taken)
            self._part.update(taken)
            self.position += len(taken)
            view = view[len(taken) :]
            if self.position == end:
                wrong = self._end_part()
                if wrong is not None:
                    return wrong
        return None

    def take_up(self, path: Path) -> None:
        """Begin with what a file has, up to the end of the last part that is right."""
        good: tuple[int, int, Any] = (0, 0, self._whole.copy())
        with path.open("rb") as stream:
            for part in self._parts:
                wrong = self._read_part(stream, part)
                if wrong:
                    break
                if part.sha256 is not None:
                    good = (self.position, self._next, self._whole.copy())
        self.position, self._next, self._whole = good
        self._part = hashlib.sha256()

    def _read_part(self, stream: BinaryIO, part: _Part) -> bool:
        """Whether a part is not there, or not what it should be."""
        while self.position < part.end:
            piece = stream.read(min(_PIECE_BYTES, part.end - self.position))
            if not piece or self.feed(piece) is not None:
                return True
        return False

    def _end_part(self) -> str | None:
        part = self._parts[self._next]
        found = self._part.hexdigest()
        self._next += 1
        self._part = hashlib.sha256()
        return part.name if part.sha256 not in (None, found) else None
