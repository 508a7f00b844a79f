"""Find the model in whatever a user named, and what came with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeslm.bundle.directory import (
    MANIFEST_NAME,
    Manifest,
    model_file,
    read_manifest,
    state_files,
)
from edgeslm.errors import NotFound, UserError, reading


@dataclass(frozen=True)
class Package:
    """A model and what came with it.

    Attributes:
        model: The GGUF file.
        system: What the model is told about its task if nothing else is said.
        kv_type: The type of cache if nothing else is said.
        states: Files of prompts' states.
    """

    model: Path
    system: str | None = None
    kv_type: str | None = None
    states: tuple[Path, ...] = ()


def name_of(path: Path) -> str:
    """What a model is called unless somebody gives it a name.

    A file's name without its ending, or all of a directory's, where a dot begins no ending.
    """
    path = path.resolve()
    return path.name if path.is_dir() else path.stem


def find_model(path: Path) -> Path:
    """The GGUF file meant by `path`: the file itself, or the model of a packed directory.

    A file's content is not looked at.

    Raises:
        NotFound: nothing is there.
        InvalidBundle: a packed directory that is damaged.
        UserError: a directory of another kind.
    """
    return find_package(path).model


def find_package(path: Path) -> Package:
    """The same, with what came with the model.

    Raises:
        EdgeslmError: as from `find_model`.
    """
    with reading(path):
        if path.is_dir():
            manifest = _manifest(path)
            return Package(
                model_file(path, manifest),
                manifest.prompt.system if manifest.prompt else None,
                manifest.prompt.kv_type if manifest.prompt else None,
                state_files(path, manifest),
            )
        exists = path.exists()
    if not exists:
        raise NotFound(
            f"{path}: no such file or directory",
            hint="Name a GGUF file, or a directory that edgeslm pack wrote.",
        )
    return Package(path)


def _manifest(path: Path) -> Manifest:
    if (path / MANIFEST_NAME).exists():
        return read_manifest(path)
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
