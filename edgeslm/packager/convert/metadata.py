"""What a GGUF file says about where the model comes from: name, size, licence."""

from __future__ import annotations

from pathlib import Path

from edgeslm.errors import reading
from edgeslm.gguf.types import FILE_TYPES, Field
from edgeslm.packager.convert.fields import text, whole

_QUANTIZATION_VERSION = 2
"""The version of ggml's block formats (GGML_QNT_VERSION)."""
_LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE")


def general_fields(directory: Path, arch: str, parameters: int, type_name: str) -> list[Field]:
    """The keys that begin with `general`."""
    file_type = next(number for number, name in FILE_TYPES.items() if name == type_name)
    card = model_card(directory / "README.md")
    fields = [
        text("general.architecture", arch),
        text("general.type", "model"),
        text("general.name", model_name(directory.resolve())),
        text("general.size_label", size_label(parameters)),
        whole("general.file_type", file_type),
        whole("general.quantization_version", _QUANTIZATION_VERSION),
    ]
    link = card.get("license_link") or next(
        (name for name in _LICENCE_FILES if (directory / name).is_file()), None
    )
    licence = {
        "general.license": card.get("license"),
        "general.license.name": card.get("license_name"),
        "general.license.link": link,
    }
    return fields + [text(key, value) for key, value in licence.items() if value]


def model_name(directory: Path) -> str:
    """The directory's name; in Hugging Face's cache, where that is a hash, the model's."""
    repository = directory.parent.parent.name
    if directory.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return directory.name


def model_card(path: Path) -> dict[str, str]:
    """The plain `key: value` lines of a model card's front matter; empty without one."""
    if not path.is_file():
        return {}
    with reading(path):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    card: dict[str, str] = {}
    for line in lines[1:]:
        if line.strip() == "---":
            return card
        key, colon, value = line.partition(":")
        if colon and key == key.strip():
            card[key] = value.strip().strip("\"'")
    return {}


def size_label(parameters: int) -> str:
    """A parameter count as models are named by it: 135M, 1.2B."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= unit:
            scaled = parameters / unit
            return (
                f"{scaled:.1f}".removesuffix(".0") + letter
                if scaled < 10
                else f"{scaled:.0f}{letter}"
            )
    return str(parameters)
