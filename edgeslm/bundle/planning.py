"""From what goes into a bundle to every blob's hash, before anything is written.

The same parts give the same digest: no times, no owners, everything in one order and one form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import edgeslm
from edgeslm import progress
from edgeslm.bundle import names
from edgeslm.bundle.contents import ChatSettings
from edgeslm.bundle.documents import canonical
from edgeslm.bundle.image import (
    Blob,
    Image,
    Layer,
    read_manifest,
    write_index,
    write_layout,
    write_manifest,
)
from edgeslm.bundle.names import Role
from edgeslm.bundle.probes import Limits, write_probe
from edgeslm.bundle.tensors import hash_model, write_tensors
from edgeslm.errors import InvalidOption, reading
from edgeslm.files import sha256
from edgeslm.gguf.inspection import inspect
from edgeslm.gguf.reader import Header
from edgeslm.gguf.validation import read_model
from edgeslm.records import CHAT_SCHEMA, FIGURES_SCHEMA, Prediction, Probe, document, to_json

_SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


@dataclass(frozen=True)
class Parts:
    """What goes into a bundle.

    Attributes:
        model: The GGUF file.
        prediction: What to expect of it on the target; None for nothing.
        move: Take the model's file instead of a copy; it has to lie on the bundle's disk.
        chat: What the model is told, and the type of its cache, if the user says nothing else.
        state: The file of that prompt's state, which is taken.
        target: The board it was packed for, as the text of a target file.
        measured: Measurements as JSON.
        limits: What the user asked of it, for the device to check.
        probe: What it says here, for the device to compare with.
        license: The licence's text.
        card: The model card; None for one made of the file's own facts.
        quality: The quality card as JSON.
        adapters: Low-rank adapters by name.
        wheels: Python packages that the device installs.
        runtimes: Which of them make up the runtime of which device, as the text of runtime.json.
    """

    model: Path
    prediction: Prediction | None = None
    move: bool = False
    chat: ChatSettings | None = None
    state: Path | None = None
    target: str | None = None
    measured: Sequence[Mapping[str, Any]] = ()
    limits: Limits | None = None
    probe: Probe | None = None
    license: bytes | None = None
    card: bytes | None = None
    quality: Mapping[str, Any] | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    wheels: Sequence[Path] = ()
    runtimes: bytes | None = None


@dataclass(frozen=True)
class Source:
    """Where a blob's bytes come from; `move` takes the file."""

    blob: Blob
    data: bytes | Path
    move: bool = False


@dataclass(frozen=True)
class Plan:
    """All that a bundle will hold.

    Attributes:
        image: Its manifest.
        header: The model's.
        blobs: Where each comes from, in the order of their names.
        index: The text of index.json.
        layout: The text of oci-layout.
    """

    image: Image
    header: Header
    blobs: tuple[Source, ...]
    index: bytes
    layout: bytes


def plan_bundle(parts: Parts) -> Plan:
    """Read and hash all that goes in.

    Raises:
        UserError: a part is not what it should be, or cannot be read.
    """
    header = read_model(parts.model)
    with progress.bar("hashing", header.file_bytes, unit="bytes") as advance:
        digest, tensors = hash_model(header, advance)
    model = Source(Blob(digest, header.file_bytes), parts.model, parts.move)
    entries = [
        _Entry(Role.MODEL, names.MODEL_NAME, names.WEIGHTS, model),
        *_files(names.ADAPTERS, ".gguf", Role.ADAPTER, parts.adapters),
        *_documents(parts, header, write_tensors(tensors)),
        *_files(names.RUNTIME, "", Role.RUNTIME, {path.name: path for path in parts.wheels}),
    ]
    layers = [Layer(each.source.blob, each.media_type, each.path, each.role) for each in entries]
    config = _of_bytes(_config(header, layers))
    annotations = {names.CREATED_BY: f"edgeslm {edgeslm.__version__}"}
    text = write_manifest(config.blob, layers, annotations)
    manifest = _of_bytes(text)
    unique = {
        source.blob.name: source
        for source in (manifest, config, *(entry.source for entry in reversed(entries)))
    }
    return Plan(
        # what is written is held to what is read: names, numbers, sizes
        image=read_manifest(text, manifest.blob, "the new manifest"),
        header=header,
        blobs=tuple(unique[name] for name in sorted(unique)),
        index=write_index(manifest.blob),
        layout=write_layout(),
    )


@dataclass(frozen=True)
class _Entry:
    role: Role
    path: str
    media_type: str
    source: Source


def _of_bytes(data: bytes) -> Source:
    return Source(Blob(hashlib.sha256(data).hexdigest(), len(data)), data)


def _of_file(path: Path, *, move: bool = False) -> Source:
    digest = sha256(path)
    with reading(path):
        return Source(Blob(digest, path.stat().st_size), path, move)


def _files(folder: str, ending: str, role: Role, files: Mapping[str, Path]) -> Iterator[_Entry]:
    kind = names.WEIGHTS if role is Role.ADAPTER else names.CODE
    for name in sorted(files):
        yield _Entry(role, f"{folder}/{name}{ending}", kind, _of_file(files[name]))


def _documents(parts: Parts, header: Header, tensors: bytes) -> Iterator[_Entry]:
    """The layers of which there is one at most, in the order of the table of their names."""
    figures = None
    if parts.prediction is not None or parts.measured or parts.limits is not None:
        value = {"prediction": to_json(parts.prediction), "measured": list(parts.measured)}
        if parts.limits is not None:
            value["limits"] = to_json(parts.limits)
        figures = canonical(document(FIGURES_SCHEMA, value))
    given: dict[Role, bytes | None] = {
        Role.TENSORS: tensors,
        Role.CHAT: None if parts.chat is None else canonical(document(CHAT_SCHEMA, parts.chat)),
        Role.TARGET: None if parts.target is None else parts.target.encode(),
        Role.FIGURES: figures,
        Role.PROBE: None if parts.probe is None else write_probe(parts.probe),
        Role.LICENSE: parts.license,
        Role.CARD: parts.card if parts.card is not None else _card(header),
        Role.QUALITY: None if parts.quality is None else canonical(parts.quality),
        Role.RUNTIMES: parts.runtimes,
    }
    for role, (path, media_type) in names.FILES.items():
        data = given.get(role)
        if role is Role.STATE and parts.state is not None:
            yield _Entry(role, path, media_type, _of_file(parts.state, move=True))
        elif data is not None:
            if len(data) > names.MOST_JSON_BYTES:
                raise InvalidOption(
                    f"{path}: {len(data)} bytes, at most {names.MOST_JSON_BYTES} fit into a bundle",
                    hint="Shorten it, or leave it out.",
                )
            yield _Entry(role, path, media_type, _of_bytes(data))


def _config(header: Header, layers: Sequence[Layer]) -> bytes:
    """ModelPack's description of the model; what the file does not say is left out."""
    inspection = inspect(header)
    described = {
        "name": inspection.name or None,
        "family": inspection.architecture,
        "licenses": [inspection.license] if inspection.license else None,
    }
    technical = {
        "format": "gguf",
        "paramSize": _size_in_words(inspection.parameters),
        "quantization": inspection.file_type or inspection.true_type,
        "capabilities": {"inputTypes": ["text"], "outputTypes": ["text"]},
    }
    return canonical(
        {
            "descriptor": _known(described),
            "config": _known(technical),
            "modelfs": {"type": "layers", "diffIds": [layer.blob.digest for layer in layers]},
        }
    )


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _size_in_words(parameters: int) -> str:
    """A number of weights as ModelPack writes it: 134.5M."""
    for scale, letter in _SCALES:
        if parameters >= scale:
            return f"{parameters / scale:.1f}{letter}"
    return f"{parameters / 1e3:.1f}K"


def _card(header: Header) -> bytes:
    """A model card that says what the file says, and no more."""
    inspection = inspect(header)
    bits = inspection.bits_per_weight
    types = ", ".join(f"{share.type} {share.share:.0%}" for share in inspection.types)
    rows = (
        ("architecture", inspection.architecture),
        ("licence", inspection.license),
        ("parameters", f"{inspection.parameters:,}"),
        ("bits per weight", None if bits is None else f"{bits:.2f}"),
        ("types", types),
        ("context", inspection.context_length),
        ("chat template", "yes" if inspection.chat_template else "no"),
    )
    title = " ".join((inspection.name or "Model").split())
    lines = [f"# {title}", "", "What the model's file says of itself; nothing was added.", ""]
    lines += [f"- {name}: {'not stated' if value is None else value}" for name, value in rows]
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")
