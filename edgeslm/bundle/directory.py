"""A packed model: a directory with the GGUF file and a manifest that says what it is.

    OUT/model.gguf        the model
    OUT/prompt.state      what its KV cache holds after the system prompt, where there is one
    OUT/manifest.json     hashes and sizes, its facts, the figures predicted for the target

The same input gives the same bytes: no times, no host names. The directory is built under
a temporary name beside its place and renamed when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import edgeslm
from edgeslm import progress
from edgeslm.errors import InvalidBundle, NotFound, OutputFailure, reading, writing
from edgeslm.files import scratch_folder
from edgeslm.gguf.inspection import inspect
from edgeslm.gguf.validation import read_model
from edgeslm.records import MANIFEST_SCHEMA, Prediction, document, to_json

MANIFEST_NAME = "manifest.json"
MODEL_NAME = "model.gguf"
STATE_NAME = "prompt.state"

_MAX_MANIFEST_BYTES = 2**20
_CHUNK_BYTES = 2**20
_DAMAGED = "Pack the model again, or copy the directory again."


@dataclass(frozen=True)
class ModelEntry:
    """The model file and what is known of it; what the file does not say is None."""

    file: str
    sha256: str
    file_bytes: int
    architecture: str | None
    name: str | None
    license: str | None
    parameters: int
    bits_per_weight: float | None


@dataclass(frozen=True)
class StateEntry:
    """The file of a prompt's state."""

    file: str
    sha256: str
    file_bytes: int


@dataclass(frozen=True)
class PromptEntry:
    """What the model is told about its task, and what came of reading it.

    `kv_type` is the type of the cache that the state is of.
    """

    system: str
    kv_type: str
    state: StateEntry | None


@dataclass(frozen=True)
class PromptFile:
    """A system prompt to be packed, and the file of its state, which is moved."""

    system: str
    kv_type: str
    state: Path | None


@dataclass(frozen=True)
class Manifest:
    """What a packed directory holds."""

    created_by: str
    model: ModelEntry
    prediction: Mapping[str, Any]
    """A `records.Prediction` as JSON: the target and what to expect of the model there."""
    prompt: PromptEntry | None = None


def write_bundle(
    directory: Path,
    model: Path,
    prediction: Prediction,
    *,
    move: bool = False,
    prompt: PromptFile | None = None,
) -> Manifest:
    """Write a packed directory; one that stood there before is replaced.

    Args:
        directory: Where it appears once it is complete.
        model: The GGUF file.
        prediction: What to expect on the target.
        move: Take the file instead of a copy; it has to lie on the same disk.
        prompt: What the model is told there; its file lies on the same disk.

    Raises:
        OutputFailure: it cannot be written, or something else than a bundle is there.
        InvalidGGUF, NotFound: `model` is no sound model file.
    """
    inspection = inspect(read_model(model))
    with _replaced(directory) as folder:
        with progress.bar("packing", inspection.file_bytes, unit="bytes") as advance:
            sha256 = _put(model, folder / MODEL_NAME, directory, advance, move=move)
        entry = ModelEntry(
            file=MODEL_NAME,
            sha256=sha256,
            file_bytes=inspection.file_bytes,
            architecture=inspection.architecture,
            name=inspection.name,
            license=inspection.license,
            parameters=inspection.parameters,
            bits_per_weight=inspection.bits_per_weight,
        )
        manifest = Manifest(
            f"edgeslm {edgeslm.__version__}",
            entry,
            to_json(prediction),
            prompt=None if prompt is None else _put_prompt(prompt, folder, directory),
        )
        text = json.dumps(document(MANIFEST_SCHEMA, manifest), indent=2, ensure_ascii=False) + "\n"
        with writing(directory):
            (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return manifest


def ensure_replaceable(directory: Path) -> None:
    """Return if nothing would be lost: no, or an empty, directory, or a bundle and nothing else.

    Raises:
        OutputFailure: something else is there; the message names it.
    """
    hint = "Choose another place, or remove it yourself first."
    with writing(directory):
        if not directory.exists():
            return
        if not directory.is_dir():
            raise OutputFailure(f"cannot write {directory}: it is a file", hint=hint)
        names = {path.name for path in directory.iterdir()}
    if not names:
        return
    try:
        expected = _files(read_manifest(directory))
    except InvalidBundle as error:
        raise OutputFailure(
            f"cannot write {directory}: it is there and no packed directory", hint=hint
        ) from error
    if names - expected:
        raise OutputFailure(
            f"cannot write {directory}: it also holds {min(names - expected)}", hint=hint
        )


def read_manifest(directory: Path) -> Manifest:
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
                f"{directory}: no packed directory: it has no {MANIFEST_NAME}",
                hint="Make one: edgeslm pack MODEL -o DIRECTORY.",
            )
    with reading(path), path.open("rb") as stream:
        data = stream.read(_MAX_MANIFEST_BYTES + 1)
    if len(data) > _MAX_MANIFEST_BYTES:
        raise InvalidBundle(f"{path}: too large for a manifest", hint=_DAMAGED)
    try:
        return _parse(path, json.loads(data, parse_constant=_no_number))
    except (ValueError, RecursionError) as error:
        raise InvalidBundle(f"{path}: not JSON: {error}", hint=_DAMAGED) from error


def verify_bundle(directory: Path) -> Manifest:
    """Check that a packed directory holds exactly what its manifest says, byte for byte.

    Raises:
        NotFound: there is no such directory.
        InvalidBundle: a file is missing, extra, or changed; the message names it.
    """
    manifest = read_manifest(directory)
    with reading(directory):
        found = {path.name for path in directory.iterdir()}
    for name in sorted(found - _files(manifest)):
        raise InvalidBundle(
            f"{directory}: {name} is not in the manifest", hint="Remove it, or pack again."
        )
    state = manifest.prompt.state if manifest.prompt else None
    entries: list[ModelEntry | StateEntry] = [manifest.model, *([state] if state else [])]
    for entry in entries:
        path = _present(directory, entry)
        with (
            progress.bar("verifying", entry.file_bytes, unit="bytes") as advance,
            reading(path),
            path.open("rb") as stream,
        ):
            if _hash(stream, advance) != entry.sha256:
                raise InvalidBundle(
                    f"{path}: changed: its hash is not the manifest's", hint=_DAMAGED
                )
    return manifest


def model_file(directory: Path, manifest: Manifest) -> Path:
    """The model of a packed directory, present and of the right size.

    Raises:
        InvalidBundle: it is not.
    """
    return _present(directory, manifest.model)


def state_files(directory: Path, manifest: Manifest) -> tuple[Path, ...]:
    """Where the state of the packed prompt lies, if one was packed: one file, or none.

    Whether it is there and undamaged is seen when it is read; without it, reading the prompt only
    takes longer.
    """
    entry = manifest.prompt.state if manifest.prompt else None
    return () if entry is None else (directory / entry.file,)


def _files(manifest: Manifest) -> set[str]:
    """The names of all that a packed directory holds."""
    state = manifest.prompt.state if manifest.prompt else None
    return {MANIFEST_NAME, manifest.model.file, *([state.file] if state else [])}


def _present(directory: Path, entry: ModelEntry | StateEntry) -> Path:
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


def _put_prompt(prompt: PromptFile, folder: Path, directory: Path) -> PromptEntry:
    if prompt.state is None:
        return PromptEntry(prompt.system, prompt.kv_type, None)
    size = prompt.state.stat().st_size
    sha256 = _put(prompt.state, folder / STATE_NAME, directory, _ignore, move=True)
    with writing(directory):  # for whoever may read the model
        (folder / STATE_NAME).chmod((folder / MODEL_NAME).stat().st_mode & 0o777)
    return PromptEntry(prompt.system, prompt.kv_type, StateEntry(STATE_NAME, sha256, size))


def _ignore(_done: int) -> None:
    """Progress that nobody watches."""


def _put(
    source: Path, target: Path, directory: Path, advance: progress.Advance, *, move: bool
) -> str:
    """Copy or move a file; returns the SHA-256 of its bytes. Errors name `directory`."""
    with reading(source):
        stream = source.open("rb")
    with stream, writing(directory):
        if not move:
            with target.open("xb") as copy:
                return _hash(stream, advance, copy)
        sha256 = _hash(stream, advance)
        source.rename(target)
        return sha256


def _hash(stream: BinaryIO, advance: progress.Advance, copy: BinaryIO | None = None) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK_BYTES):
        digest.update(chunk)
        if copy is not None:
            copy.write(chunk)
        advance(len(chunk))
    if copy is not None:
        copy.flush()
        os.fsync(copy.fileno())
    return digest.hexdigest()


@contextmanager
def _replaced(directory: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `directory` when the block succeeds."""
    with writing(directory):
        target = directory.resolve()
        _settle(target)
        ensure_replaceable(directory)
    with scratch_folder(target) as folder:
        yield folder
        with writing(directory):
            _swap(folder, target)


def _old(target: Path) -> Path:
    """Where a directory waits until its successor is in its place."""
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
    return target.with_name(f".edgeslm-{name}.old")


def _settle(target: Path) -> None:
    """Take back, or complete, an exchange during which the process was killed."""
    old = _old(target)
    if not old.exists():
        return
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.rename(target)


def _swap(folder: Path, target: Path) -> None:
    """Put `folder` in the place of `target`, which goes only once its successor is there."""
    if not target.exists():
        folder.rename(target)
        return
    old = _old(target)
    target.rename(old)
    try:
        folder.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _parse(path: Path, data: object) -> Manifest:
    fields = _Fields(path, data)
    schema = fields.take("schema", str)
    if schema != MANIFEST_SCHEMA:
        raise InvalidBundle(
            f"{path}: schema {schema!r}, not {MANIFEST_SCHEMA}",
            hint="It was made by another program or a newer edgeslm.",
        )
    model = _Fields(path, fields.take("model", dict))
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
    _check_entry(path, entry)
    prompt = _parse_prompt(path, fields.optional("prompt"))
    if prompt is not None and prompt.state is not None and prompt.state.file == entry.file:
        raise InvalidBundle(f"{path}: {entry.file} is named twice", hint=_DAMAGED)
    return Manifest(fields.take("created_by", str), entry, fields.take("prediction", dict), prompt)


def _parse_prompt(path: Path, data: object) -> PromptEntry | None:
    if data is None:
        return None
    fields = _Fields(path, data)
    system, kv_type = fields.take("system", str), fields.take("kv_type", str)
    state = fields.take("state", dict, None)
    if state is None:
        return PromptEntry(system, kv_type, None)
    of_state = _Fields(path, state)
    entry = StateEntry(
        file=of_state.take("file", str),
        sha256=of_state.take("sha256", str),
        file_bytes=of_state.take("file_bytes", int),
    )
    _check_entry(path, entry)
    return PromptEntry(system, kv_type, entry)


def _check_entry(path: Path, entry: ModelEntry | StateEntry) -> None:
    if not re.fullmatch(r"[\w][\w.-]*", entry.file) or entry.file == MANIFEST_NAME:
        raise InvalidBundle(f"{path}: not a plain file name: {entry.file!r}", hint=_DAMAGED)
    if not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
        raise InvalidBundle(f"{path}: not a SHA-256: {entry.sha256!r}", hint=_DAMAGED)


class _Fields:
    """A JSON object whose entries have to be there and of the right type."""

    def __init__(self, path: Path, data: object) -> None:
        if not isinstance(data, dict):
            raise InvalidBundle(f"{path}: not a JSON object", hint=_DAMAGED)
        self._path = path
        self._data = data

    def optional(self, key: str) -> object:
        """The entry `key`, whatever it is; None if there is none."""
        return self._data.get(key)

    def take(self, key: str, *kinds: type | None) -> Any:
        """The entry `key`, which has one of the types; None stands for null."""
        if key not in self._data:
            raise InvalidBundle(f"{self._path}: {key} is missing", hint=_DAMAGED)
        value = self._data[key]
        if value is None and None in kinds:
            return None
        if isinstance(value, bool) or not isinstance(value, tuple(filter(None, kinds))):
            raise InvalidBundle(f"{self._path}: {key} has the wrong type", hint=_DAMAGED)
        return value
