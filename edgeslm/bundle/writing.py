"""A plan becomes a directory or a tar; what is in a tar becomes a directory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from edgeslm import progress
from edgeslm.bundle import names
from edgeslm.bundle.contents import Contents, read_contents
from edgeslm.bundle.image import Image
from edgeslm.bundle.layout import (
    DirectoryLayout,
    Layout,
    check_files,
    hashed,
    open_layout,
    read_image,
    read_model_header,
    read_small,
)
from edgeslm.bundle.planning import Parts, Plan, Source, plan_bundle
from edgeslm.bundle.replacing import ensure_replaceable, ensure_replaceable_tar, replaced
from edgeslm.bundle.tar import write_tar
from edgeslm.errors import OutputFailure, reading, writing
from edgeslm.files import atomic_path, ensure_writable, sync
from edgeslm.gguf.validation import read_model

TAR_ENDING = ".tar"
_PIECE_BYTES = 1 << 20


def ensure_bundle_writable(output: Path) -> None:
    """Return if a bundle can appear there: to be asked before long work.

    Raises:
        OutputFailure: it cannot.
    """
    if output.suffix == TAR_ENDING:
        ensure_writable(output)
        ensure_replaceable_tar(output)
    else:
        ensure_replaceable(output)


def write_bundle(
    output: Path, parts: Parts, *, sign: Callable[[Image], bytes] | None = None
) -> Contents:
    """Write a bundle; one that stood there before is replaced.

    Args:
        output: Where it appears once it is complete: one tar if the name ends so, else a
            directory.
        parts: What goes in.
        sign: Makes the text of its signature.

    Raises:
        OutputFailure: it cannot be written, or something else than a bundle is there.
        UserError: a part is not what it should be.
    """
    ensure_bundle_writable(output)
    plan = plan_bundle(parts)
    small = {names.LAYOUT_NAME: plan.layout, names.INDEX_NAME: plan.index}
    if sign is not None:
        small[names.SIGNATURE_NAME] = sign(plan.image)
    if output.suffix == TAR_ENDING:
        _write_tar(output, plan, small)
    else:
        _write_directory(output, plan, small)
    layout = open_layout(output)
    image = read_image(layout)
    check_files(layout, image)
    return read_contents(layout, image, plan.header)


def _write_directory(output: Path, plan: Plan, small: Mapping[str, bytes]) -> None:
    with replaced(output) as folder:
        with writing(output):
            (folder / names.BLOBS).mkdir(parents=True)
        for name, data in small.items():
            write_pieces([data], folder / name, output)
        with writing(output):
            mode = (folder / names.INDEX_NAME).stat().st_mode & 0o777
        with progress.bar("packing", _total(plan), unit="bytes") as advance:
            for source in plan.blobs:
                target = folder / source.blob.name
                if isinstance(source.data, Path) and source.move:
                    with writing(output):
                        source.data.rename(target)
                        target.chmod(mode)  # for whoever may read the rest
                        sync(target)
                    advance(source.blob.size)
                else:
                    write_pieces(_pieces(source, advance), target, output)


def _write_tar(output: Path, plan: Plan, small: Mapping[str, bytes]) -> None:
    with progress.bar("packing", _total(plan), unit="bytes") as advance:
        files = [
            *((each.blob.name, each.blob.size, _pieces(each, advance)) for each in plan.blobs),
            *((name, len(data), [data]) for name, data in sorted(small.items())),
        ]
        write_tar_file(output, files)


def write_tar_file(output: Path, files: Iterable[tuple[str, int, Iterable[bytes]]]) -> None:
    """Write a tar that appears when it is complete.

    Raises:
        OutputFailure: it cannot be written.
    """
    with atomic_path(output) as temporary, writing(output), temporary.open("wb") as stream:
        write_tar(stream, files)


def unpack_bundle(tar: Path, output: Path) -> Contents:
    """Write what is in a tar as a directory, each hash checked on the way; the signature too.

    Raises:
        InvalidBundle: the tar is damaged.
        OutputFailure: the directory cannot be written, or something else than a bundle is there.
    """
    ensure_replaceable(output)
    layout = open_layout(tar)
    image = read_image(layout)
    check_files(layout, image)
    with replaced(output) as folder:
        with writing(output):
            (folder / names.BLOBS).mkdir(parents=True)
        for name in (names.LAYOUT_NAME, names.INDEX_NAME, names.SIGNATURE_NAME):
            if name in layout.files:
                write_pieces([read_small(layout, name)], folder / name, output)
        _copy_blobs(layout, image, folder, output)
        unpacked = DirectoryLayout(folder, shown=output)
        return read_contents(unpacked, image, read_model_header(unpacked, image))


def unpack_files(bundle: Path, output: Path) -> Contents:
    """Write the files of a bundle under their own names into a new or empty directory.

    Raises:
        InvalidBundle: the bundle is damaged.
        OutputFailure: the directory cannot be written, or is not empty.
    """
    with writing(output):
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise OutputFailure(
                f"cannot write {output}: it is there and not empty", hint="Choose another place."
            )
    layout = open_layout(bundle)
    image = read_image(layout)
    check_files(layout, image)
    with replaced(output) as folder:
        total = sum(layer.blob.size for layer in image.layers)
        with progress.bar("unpacking", total, unit="bytes") as advance:
            for layer in image.layers:
                if layer.path is None and layer is not image.model:
                    continue
                target = folder / (layer.path or names.MODEL_NAME)
                with writing(output):
                    target.parent.mkdir(parents=True, exist_ok=True)
                write_pieces(hashed(layout, layer.blob, advance), target, output)
        model = read_model(folder / (image.model.path or names.MODEL_NAME))
        return read_contents(layout, image, model)


def _copy_blobs(layout: Layout, image: Image, folder: Path, output: Path) -> None:
    total = sum(blob.size for blob in image.blobs.values())
    with progress.bar("unpacking", total, unit="bytes") as advance:
        for blob in image.blobs.values():
            write_pieces(hashed(layout, blob, advance), folder / blob.name, output)


def _total(plan: Plan) -> int:
    return sum(source.blob.size for source in plan.blobs)


def _pieces(source: Source, advance: progress.Advance) -> Iterator[bytes]:
    """A source's bytes, which must still be the ones that were hashed."""
    if isinstance(source.data, bytes):
        yield source.data
        advance(len(source.data))
        return
    digest = hashlib.sha256()
    left = source.blob.size
    with reading(source.data), source.data.open("rb") as stream:
        while left and (piece := stream.read(min(_PIECE_BYTES, left))):
            left -= len(piece)
            digest.update(piece)
            yield piece
            advance(len(piece))
    if digest.hexdigest() != source.blob.sha256:
        raise OutputFailure(
            f"{source.data} changed while it was packed", hint="Let nothing write to it meanwhile."
        )


def write_pieces(pieces: Iterable[bytes], target: Path, output: Path) -> None:
    """Write pieces to a new file, safe on the disk; errors name `output`."""
    with writing(output), target.open("xb") as stream:
        for piece in pieces:
            stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())
