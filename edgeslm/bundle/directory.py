"""The packed directory that came before bundles: read and checked, no longer written.

OUT/model.gguf        the model
OUT/prompt.state      what its KV cache holds after the system prompt, where there is one
OUT/manifest.json     hashes and sizes, its facts, the figures predicted for the target
"""

from __future__ import annotations

import re
from pathlib import Path

from edgeslm import progress
from edgeslm.bundle.contents import Contents, FileEntry, ModelEntry, PromptEntry
from edgeslm.bundle.documents import Fields, parse
from edgeslm.errors import InvalidBundle, NotFound, reading
from edgeslm.files import sha256
from edgeslm.records import MANIFEST_SCHEMA

MANIFEST_NAME = "manifest.json"

_MOST_MANIFEST_BYTES = 2**20
_DAMAGED = "Pack the model again, or copy the directory again."


def read_manifest(directory: Path) -> Contents:
    """The manifest of a packed directory, its form checked but not the files' hashes.

    Raises:
        NotFound: there is no such directory.
        InvalidBundle: no manifest, or a malformed one.
    """
    path = directory / MANIFEST_NAME
    with reading(directory):
        if not directory.is_dir():
            raise NotFound(f"{directory}: no such directory", hint="Check the path.")
        if not path.is_file():
            raise InvalidBundle(
                f"{directory}: no bundle", hint="Make one: edgeslm pack MODEL -o DIRECTORY."
            )
    with reading(path), path.open("rb") as stream:
        data = stream.read(_MOST_MANIFEST_BYTES + 1)
    if len(data) > _MOST_MANIFEST_BYTES:
        raise InvalidBundle(f"{path}: too large for a manifest", hint=_DAMAGED)
    return _parse(str(path), parse(data, str(path)))


def verify_directory(directory: Path) -> Contents:
    """Check that a packed directory holds exactly what its manifest says, byte for byte.

    Raises:
        NotFound: there is no such directory.
        InvalidBundle: a file is missing, extra, or changed; the message names it.
    """
    manifest = read_manifest(directory)
    with reading(directory):
        found = {path.name for path in directory.iterdir()}
    for name in sorted(found - expected_files(manifest)):
        raise InvalidBundle(
            f"{directory}: {name} is not in the manifest", hint="Remove it, or pack again."
        )
    state = manifest.prompt.state if manifest.prompt else None
    entries: list[ModelEntry | FileEntry] = [manifest.model, *([state] if state else [])]
    total = sum(entry.file_bytes for entry in entries)
    with progress.bar("verifying", total, unit="bytes") as advance:
        for entry in entries:
            path = _present(directory, entry)
            if sha256(path, advance) != entry.sha256:
                raise InvalidBundle(
                    f"{path}: changed: its hash is not the manifest's", hint=_DAMAGED
                )
    return manifest


def model_file(directory: Path, manifest: Contents) -> Path:
    """The model of a packed directory, present and of the right size.

    Raises:
        InvalidBundle: it is not.
    """
    return _present(directory, manifest.model)


def state_files(directory: Path, manifest: Contents) -> tuple[Path, ...]:
    """Where the state of the packed prompt lies, if one was packed: one file, or none.

    Whether it is there and undamaged is seen when it is read; without it, reading the prompt only
    takes longer.
    """
    entry = manifest.prompt.state if manifest.prompt else None
    return () if entry is None else (directory / entry.file,)


def expected_files(manifest: Contents) -> set[str]:
    """The names of all that a packed directory holds."""
    state = manifest.prompt.state if manifest.prompt else None
    return {MANIFEST_NAME, manifest.model.file, *([state.file] if state else [])}


def _present(directory: Path, entry: ModelEntry | FileEntry) -> Path:
    path = directory / entry.file
    with reading(path):
        if path.is_symlink() or not path.is_file():
            raise InvalidBundle(f"{path}: missing, or not a regular file", hint=_DAMAGED)
        size = path.stat().st_size
    if size != entry.file_bytes:
        raise InvalidBundle(
            f"{path}: {size} bytes, the manifest says {entry.file_bytes}", hint=_DAMAGED
        )
    return path


def _parse(where: str, data: object) -> Contents:
    fields = Fields(where, data)
    schema = fields.take("schema", str)
    if schema != MANIFEST_SCHEMA:
        raise InvalidBundle(
            f"{where}: schema {schema!r}, not {MANIFEST_SCHEMA}",
            hint="It was made by another program or a newer edgeslm.",
        )
    model = Fields(where, fields.take("model", dict))
    entry = ModelEntry(
        file=model.take("file", str),
        sha256=model.take("sha256", str),
        file_bytes=model.take("file_bytes", int),
        architecture=model.take("architecture", str, None),
        name=model.take("name", str, None),
        license=model.take("license", str, None),
        parameters=model.take("parameters", int),
        bits_per_weight=model.take("bits_per_weight", float, int, None),
    )
    _check_entry(where, entry)
    prompt = _parse_prompt(where, fields.optional("prompt"))
    if prompt is not None and prompt.state is not None and prompt.state.file == entry.file:
        raise InvalidBundle(f"{where}: {entry.file} is named twice", hint=_DAMAGED)
    return Contents(
        digest=None,
        created_by=fields.take("created_by", str),
        model=entry,
        prediction=fields.take("prediction", dict),
        prompt=prompt,
    )


def _parse_prompt(where: str, data: object) -> PromptEntry | None:
    if data is None:
        return None
    fields = Fields(where, data)
    system, kv_type = fields.take("system", str), fields.take("kv_type", str)
    state = fields.take("state", dict, None)
    if state is None:
        return PromptEntry(system, kv_type, None)
    of_state = Fields(where, state)
    entry = FileEntry(
        file=of_state.take("file", str),
        sha256=of_state.take("sha256", str),
        file_bytes=of_state.take("file_bytes", int),
    )
    _check_entry(where, entry)
    return PromptEntry(system, kv_type, entry)


def _check_entry(where: str, entry: ModelEntry | FileEntry) -> None:
    if not re.fullmatch(r"[\w][\w.-]*", entry.file) or entry.file == MANIFEST_NAME:
        raise InvalidBundle(f"{where}: not a plain file name: {entry.file!r}", hint=_DAMAGED)
    if not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
        raise InvalidBundle(f"{where}: not a SHA-256: {entry.sha256!r}", hint=_DAMAGED)
