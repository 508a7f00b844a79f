"""What a bundle says of its model, in whichever form it was packed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeslm.bundle import names
from edgeslm.bundle.documents import Fields, parse
from edgeslm.bundle.image import Image, Layer
from edgeslm.bundle.layout import Layout, read_blob
from edgeslm.bundle.names import Role
from edgeslm.bundle.runtimes import RuntimeList, read_runtimes
from edgeslm.errors import InvalidBundle
from edgeslm.gguf.inspection import inspect
from edgeslm.gguf.reader import Header
from edgeslm.records import CHAT_SCHEMA, FIGURES_SCHEMA


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
class FileEntry:
    """A file that came with it."""

    file: str
    sha256: str
    file_bytes: int


@dataclass(frozen=True)
class PromptEntry:
    """What the model is told about its task, and what came of reading it.

    `kv_type` is the type of the cache that the state is of; None where nothing was said of it.
    """

    system: str
    kv_type: str | None
    state: FileEntry | None


@dataclass(frozen=True)
class Contents:
    """What a bundle holds.

    Attributes:
        digest: SHA-256 of the manifest, which stands for all of it; None for the form that came
            before bundles.
        created_by: Program and version; None where it does not say.
        model: The model.
        prediction: A `records.Prediction` as JSON: the target and what to expect of the model
            there; None where nobody predicted.
        measured: Measurements as JSON, as `edgeslm profile --json` prints them.
        prompt: What the model is told, if anything.
        files: All other files.
    """

    digest: str | None
    created_by: str | None
    model: ModelEntry
    prediction: Mapping[str, Any] | None
    measured: tuple[Mapping[str, Any], ...] = ()
    prompt: PromptEntry | None = None
    files: tuple[FileEntry, ...] = ()


@dataclass(frozen=True)
class ChatSettings:
    """What is said to the model and computed with, if the user says nothing else."""

    system: str | None = None
    kv_type: str | None = None


def read_contents(layout: Layout, image: Image, header: Header) -> Contents:
    """What a bundle holds; `header` is its model's.

    Raises:
        InvalidBundle: one of the documents in it is missing, changed or malformed.
    """
    chat = read_chat(layout, image)
    state = image.layer(Role.STATE)
    prompt = None
    if chat.system is not None:
        entry = None if state is None else _file(state)
        prompt = PromptEntry(chat.system, chat.kv_type, entry)
    prediction, measured = _read_figures(layout, image)
    rest = [layer for layer in image.layers if layer not in (image.model, state)]
    return Contents(
        digest=image.manifest.sha256,
        created_by=image.created_by,
        model=model_entry(header, image.model),
        prediction=prediction,
        measured=measured,
        prompt=prompt,
        files=tuple(map(_file, rest)),
    )


def model_entry(header: Header, layer: Layer) -> ModelEntry:
    """What is known of the model in a layer from its header."""
    inspection = inspect(header)
    return ModelEntry(
        file=layer.path or names.MODEL_NAME,
        sha256=layer.blob.sha256,
        file_bytes=layer.blob.size,
        architecture=inspection.architecture,
        name=inspection.name,
        license=inspection.license,
        parameters=inspection.parameters,
        bits_per_weight=inspection.bits_per_weight,
    )


def read_chat(layout: Layout, image: Image) -> ChatSettings:
    """The settings in a bundle; none where it has none.

    Raises:
        InvalidBundle: they are missing, changed or malformed.
    """
    layer = image.layer(Role.CHAT)
    if layer is None:
        return ChatSettings()
    where = f"{layout.shown}/{layer.blob.name}"
    fields = Fields(where, parse(read_blob(layout, layer.blob), where))
    fields.expect("schema", CHAT_SCHEMA)
    return ChatSettings(
        system=fields.take("system", str, None), kv_type=fields.take("kv_type", str, None)
    )


def read_runtime_list(layout: Layout, image: Image) -> RuntimeList | None:
    """Which wheels in a bundle make up which runtime; None where it does not say.

    Raises:
        InvalidBundle: it is malformed, or names wheels that are not in the bundle.
    """
    layer = image.layer(Role.RUNTIMES)
    if layer is None:
        return None
    where = f"{layout.shown}/{layer.blob.name}"
    found = read_runtimes(read_blob(layout, layer.blob), where)
    there = {(each.path, each.blob.sha256) for each in image.all(Role.RUNTIME)}
    for wheel in found.wheels:
        if (f"{names.RUNTIME}/{wheel.name}", wheel.sha256) not in there:
            raise InvalidBundle(
                f"{where}: {wheel.name} is not in the bundle, or is another", hint=names.DAMAGED
            )
    return found


def _read_figures(
    layout: Layout, image: Image
) -> tuple[Mapping[str, Any] | None, tuple[Mapping[str, Any], ...]]:
    layer = image.layer(Role.FIGURES)
    if layer is None:
        return None, ()
    where = f"{layout.shown}/{layer.blob.name}"
    fields = Fields(where, parse(read_blob(layout, layer.blob), where))
    fields.expect("schema", FIGURES_SCHEMA)
    measured = fields.take("measured", list)
    if not all(isinstance(each, dict) for each in measured):
        fields.fail("measured has the wrong type")
    return fields.take("prediction", dict, None), tuple(measured)


def _file(layer: Layer) -> FileEntry:
    return FileEntry(layer.path or layer.blob.name, layer.blob.sha256, layer.blob.size)
