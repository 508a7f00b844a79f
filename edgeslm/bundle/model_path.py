"""Find the model in whatever a user named, and what came with it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeslm.bundle import names
from edgeslm.bundle.contents import read_chat
from edgeslm.bundle.directory import MANIFEST_NAME, model_file, read_manifest, state_files
from edgeslm.bundle.documents import Fields, parse
from edgeslm.bundle.image import Blob, Image
from edgeslm.bundle.layout import DirectoryLayout, check_size, is_layout, read_blob, read_image
from edgeslm.bundle.names import Role
from edgeslm.bundle.store_state import current_version, is_store
from edgeslm.bundle.tar import looks_like_tar
from edgeslm.bundle.trust import ensure_trusted, refuse_unsigned
from edgeslm.errors import NotFound, UserError, reading


@dataclass(frozen=True)
class Package:
    """A model and what came with it.

    Attributes:
        model: The GGUF file.
        system: What the model is told about its task if nothing else is said.
        kv_type: The type of cache if nothing else is said.
        states: Files of prompts' states.
        adapters: Files of low-rank adapters, by name.
    """

    model: Path
    system: str | None = None
    kv_type: str | None = None
    states: tuple[Path, ...] = ()
    adapters: Mapping[str, Path] = field(default_factory=dict)


def name_of(path: Path) -> str:
    """What a model is called unless somebody gives it a name.

    A file's name without its ending, or all of a directory's, where a dot begins no ending. In a
    store, what the current bundle's model says that its name is, if it says so.

    Raises:
        NotFound: a store without a current version.
        InvalidBundle: that is damaged.
    """
    path = path.resolve()
    bundle = pinned(path)
    if bundle != path:
        return _told_name(bundle) or path.name
    return path.name if path.is_dir() else path.stem


def _told_name(bundle: Path) -> str | None:
    """The name in a bundle's config, in letters that need no quoting in an address."""
    layout = DirectoryLayout(bundle)
    config = read_image(layout).config
    where = f"{bundle}/{config.name}"
    described = Fields(where, parse(read_blob(layout, config), where)).below("descriptor")
    name = described.optional("name")
    return re.sub(r"[^\w.+-]+", "-", name).strip("-") or None if isinstance(name, str) else None


def pinned(path: Path) -> Path:
    """The bundle that is current in a store, for who looks at it several times; else `path`.

    Raises:
        NotFound: a store without a current version.
    """
    with reading(path):
        in_store = path.is_dir() and not is_layout(path) and is_store(path)
    return current_version(path) if in_store else path


def bundle_around(file: Path) -> Path | None:
    """The bundle, or packed directory, that a file is a part of; None for none."""
    file = file.absolute()
    whole = file.parent.parent.parent
    if file.parent == whole / names.BLOBS and is_layout(whole):
        return whole
    return file.parent if (file.parent / MANIFEST_NAME).exists() else None


def find_model(path: Path, *, to_run: bool = False) -> Path:
    """The GGUF file meant by `path`: itself, or the model of a bundle, or of a store's current one.

    A file's content is not looked at.

    Args:
        path: What the user named.
        to_run: Whether it will be run here, and so has to be something this machine accepts.

    Raises:
        NotFound: nothing is there.
        InvalidBundle: a bundle that is damaged.
        Untrusted: this machine does not accept it.
        UserError: a directory of another kind.
    """
    return find_package(path, to_run=to_run).model


def find_package(path: Path, *, to_run: bool = False) -> Package:
    """The same, with what came with the model.

    Raises:
        EdgeslmError: as from `find_model`.
    """
    with reading(path):
        if path.is_dir():
            if is_layout(path):
                return _of_bundle(path, to_run=to_run)
            if is_store(path):
                return _of_bundle(current_version(path), to_run=to_run)
            found = _of_directory(path)
        elif path.exists():
            found = _of_file(path)
        else:
            raise NotFound(
                f"{path}: no such file or directory",
                hint="Name a GGUF file, or a bundle that edgeslm pack wrote.",
            )
    if to_run:
        refuse_unsigned(path)
    return found


def _of_file(path: Path) -> Package:
    if path.is_file() and looks_like_tar(path):
        raise UserError(
            f"{path}: a tar, whose model cannot be mapped into memory",
            hint=f"Unpack it first: edgeslm unpack {path} -o {path.with_suffix('')}",
        )
    return Package(path)


def _of_bundle(path: Path, *, to_run: bool) -> Package:
    layout = DirectoryLayout(path)
    if to_run:
        ensure_trusted(layout)
    image = read_image(layout)
    model = image.model.blob
    adapters = _adapters(image)
    for blob in (model, *adapters.values()):
        check_size(layout, blob)
    chat = read_chat(layout, image)
    return Package(
        model=path / model.name,
        system=chat.system,
        kv_type=chat.kv_type,
        states=tuple(path / layer.blob.name for layer in image.all(Role.STATE)),
        adapters={name: path / blob.name for name, blob in adapters.items()},
    )


def _adapters(image: Image) -> dict[str, Blob]:
    """Adapters by the names of their files, without the ending; by their paths where two agree."""
    found = [(layer.path, layer.blob) for layer in image.all(Role.ADAPTER) if layer.path]
    counts = Counter(Path(path).stem for path, _ in found)
    return {stem if counts[stem := Path(path).stem] == 1 else path: blob for path, blob in found}


def _of_directory(path: Path) -> Package:
    if (path / MANIFEST_NAME).exists():
        manifest = read_manifest(path)
        return Package(
            model_file(path, manifest),
            manifest.prompt.system if manifest.prompt else None,
            manifest.prompt.kv_type if manifest.prompt else None,
            state_files(path, manifest),
        )
    if (path / "config.json").exists():
        raise UserError(
            f"{path}: a Hugging Face checkpoint, not yet a GGUF file",
            hint=f"Convert it first: edgeslm convert {path} -o model.gguf",
        )
    files = sorted(entry.name for entry in path.glob("*.gguf"))
    raise UserError(
        f"{path}: a directory that edgeslm pack did not write",
        hint=f"Name the file: {path / files[0]}" if files else "Name a GGUF file.",
    )
