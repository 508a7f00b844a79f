"""Find the model in whatever a user named."""

from __future__ import annotations

from pathlib import Path

from edgeslm.bundle.directory import MANIFEST_NAME, model_file, read_manifest
from edgeslm.errors import NotFound, UserError, reading


def find_model(path: Path) -> Path:
    """The GGUF file meant by `path`: the file itself, or the model of a packed directory.

    A file's content is not looked at.

    Raises:
        NotFound: nothing is there.
        InvalidBundle: a packed directory that is damaged.
        UserError: a directory of another kind.
    """
    with reading(path):
        if path.is_dir():
            return _in_directory(path)
        exists = path.exists()
    if not exists:
        raise NotFound(
            f"{path}: no such file or directory",
            hint="Name a GGUF file, or a directory that edgeslm pack wrote.",
        )
    return path


def _in_directory(path: Path) -> Path:
    if (path / MANIFEST_NAME).exists():
        return model_file(path, read_manifest(path))
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
