"""The three documents that say what a bundle is: index, manifest, config.

Nothing protects the index, so whatever is not known there is refused. The manifest is named by
its hash in the index, and names everything else by theirs; entries that we do not know may stand
there for others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeslm.bundle import names
from edgeslm.bundle.documents import Fields, canonical, parse
from edgeslm.bundle.names import Role
from edgeslm.errors import InvalidBundle, Unsupported

_INDEX_KEYS = ("schemaVersion", "mediaType", "manifests", "annotations", "artifactType")
_ENTRY_KEYS = ("mediaType", "digest", "size", "annotations", "artifactType", "platform")
_LONGEST_PATH = 255


@dataclass(frozen=True)
class Blob:
    """Bytes, by their SHA-256 in hex and their number."""

    sha256: str
    size: int

    @property
    def digest(self) -> str:
        """As OCI writes it."""
        return f"sha256:{self.sha256}"

    @property
    def name(self) -> str:
        """The file in a layout."""
        return f"{names.BLOBS}/{self.sha256}"


@dataclass(frozen=True)
class Layer:
    """A file in a bundle.

    Attributes:
        blob: Its bytes.
        media_type: What they are.
        path: Its name there, relative, with "/"; None where nobody gave it one.
        role: What it is to us; None for what others put there.
    """

    blob: Blob
    media_type: str
    path: str | None
    role: Role | None


@dataclass(frozen=True)
class Image:
    """What a manifest says."""

    manifest: Blob
    config: Blob
    layers: tuple[Layer, ...]
    created_by: str | None

    @property
    def blobs(self) -> dict[str, Blob]:
        """Every blob, by its file's name."""
        layers = (layer.blob for layer in self.layers)
        return {blob.name: blob for blob in (self.manifest, self.config, *layers)}

    def layer(self, role: Role) -> Layer | None:
        """The one layer with that role."""
        return next(iter(self.all(role)), None)

    def all(self, role: Role) -> tuple[Layer, ...]:
        """The layers with that role."""
        return tuple(layer for layer in self.layers if layer.role is role)

    @property
    def model(self) -> Layer:
        """The weights: what we call so, else the first GGUF file among raw weights.

        Raises:
            Unsupported: there are none.
        """
        ours = self.layer(Role.MODEL)
        if ours is not None:
            return ours
        weights = [layer for layer in self.layers if layer.media_type == names.WEIGHTS]
        named = [layer for layer in weights if (layer.path or "").endswith(".gguf")]
        if named or len(weights) == 1:
            return (named or weights)[0]
        kinds = sorted({layer.media_type for layer in self.layers})
        raise Unsupported(
            f"the bundle holds no GGUF file as a layer of {names.WEIGHTS}",
            hint=f"It holds: {', '.join(kinds)[:300]}.",
        )


def read_index(data: bytes, where: str) -> Blob:
    """The one manifest that a layout's index.json names.

    Raises:
        InvalidBundle: it is malformed, or names none or several.
    """
    fields = Fields(where, parse(data, where))
    fields.only(_INDEX_KEYS)
    fields.expect("schemaVersion", 2)
    if fields.optional("mediaType") is not None:
        fields.expect("mediaType", names.INDEX_TYPE)
    fields.texts("annotations")
    entries = fields.take("manifests", list)
    if len(entries) != 1:
        raise InvalidBundle(
            f"{where}: names {len(entries)} manifests; a bundle has one",
            hint="Copy the one you want into a layout of its own.",
        )
    entry = Fields(f"{where}: manifests", entries[0])
    entry.only(_ENTRY_KEYS)
    entry.expect("mediaType", names.MANIFEST_TYPE)
    if entry.optional("artifactType") is not None:
        entry.expect("artifactType", names.ARTIFACT_TYPE)
    entry.texts("annotations")
    return _blob(entry)


def read_manifest(data: bytes, blob: Blob, where: str) -> Image:
    """What a manifest says; `blob` is the manifest itself.

    Raises:
        InvalidBundle: it is malformed, no ModelPack manifest, or names files that lead elsewhere.
    """
    fields = Fields(where, parse(data, where))
    fields.expect("schemaVersion", 2)
    if fields.optional("mediaType") is not None:
        fields.expect("mediaType", names.MANIFEST_TYPE)
    fields.expect("artifactType", names.ARTIFACT_TYPE)
    config = fields.below("config")
    config.expect("mediaType", names.CONFIG_TYPE)
    entries = fields.take("layers", list)
    if not 1 <= len(entries) <= names.MOST_LAYERS:
        fields.fail(f"{len(entries)} layers; 1 to {names.MOST_LAYERS} are possible")
    layers = tuple(
        _layer(Fields(f"{where}: layer {number}", entry)) for number, entry in enumerate(entries)
    )
    _refuse_clashes(layers, where)
    created_by = fields.texts("annotations").get(names.CREATED_BY)
    return Image(blob, _blob(config), layers, created_by)


def read_config(data: bytes, where: str) -> None:
    """Return if a config has what ModelPack requires of it.

    Raises:
        InvalidBundle: it has not.
    """
    fields = Fields(where, parse(data, where))
    fields.below("descriptor")
    fields.below("config")
    files = fields.below("modelfs")
    files.expect("type", "layers")
    for each in files.take("diffIds", list):
        if not isinstance(each, str):
            files.fail("diffIds has the wrong type")


def write_index(manifest: Blob) -> bytes:
    """The index.json of a layout that holds one bundle, without a tag: nothing protects those."""
    entry = {
        "artifactType": names.ARTIFACT_TYPE,
        "digest": manifest.digest,
        "mediaType": names.MANIFEST_TYPE,
        "size": manifest.size,
    }
    return canonical({"manifests": [entry], "mediaType": names.INDEX_TYPE, "schemaVersion": 2})


def write_layout() -> bytes:
    """The file that marks a layout."""
    return canonical({"imageLayoutVersion": names.LAYOUT_VERSION})


def write_manifest(config: Blob, layers: Iterable[Layer], annotations: Mapping[str, str]) -> bytes:
    """The manifest of a bundle."""
    return canonical(
        {
            "annotations": annotations,
            "artifactType": names.ARTIFACT_TYPE,
            "config": _entry(config, names.CONFIG_TYPE),
            "layers": [_layer_entry(layer) for layer in layers],
            "mediaType": names.MANIFEST_TYPE,
            "schemaVersion": 2,
        }
    )


def check_layout(data: bytes, where: str) -> None:
    """Return if `data` marks a layout of the version we know.

    Raises:
        InvalidBundle: it does not.
    """
    fields = Fields(where, parse(data, where))
    fields.only(("imageLayoutVersion",))
    fields.expect("imageLayoutVersion", names.LAYOUT_VERSION)


def _entry(blob: Blob, media_type: str) -> dict[str, Any]:
    return {"digest": blob.digest, "mediaType": media_type, "size": blob.size}


def _layer_entry(layer: Layer) -> dict[str, Any]:
    annotations = {}
    if layer.path is not None:
        annotations = {names.FILE_PATH: layer.path, names.TITLE: layer.path}
    if layer.role is not None:
        annotations[names.ROLE] = layer.role.value
    return {**_entry(layer.blob, layer.media_type), "annotations": annotations}


def _blob(fields: Fields) -> Blob:
    digest, size = fields.take("digest", str), fields.take("size", int)
    algorithm, _, sha256 = digest.partition(":")
    if algorithm != "sha256":
        fields.fail(f"the digest {digest[:80]!r} is not of SHA-256")
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        fields.fail(f"not a SHA-256: {digest[:80]!r}")
    if size < 0:
        fields.fail(f"a size of {size}")
    return Blob(sha256, size)


def _layer(fields: Fields) -> Layer:
    annotations = fields.texts("annotations")
    found = {annotations[key] for key in (names.FILE_PATH, names.TITLE) if key in annotations}
    if len(found) > 1:
        fields.fail(f"has two names: {', '.join(sorted(found))[:300]}")
    path = found.pop() if found else None
    if path is not None:
        _check_path(fields, path)
    role = annotations.get(names.ROLE)
    known = Role(role) if role in {each.value for each in Role} else None
    return Layer(_blob(fields), fields.take("mediaType", str), path, known)


def _check_path(fields: Fields, path: str) -> None:
    """Refuse names that lead out of a folder, or that not every system can hold."""
    parts = path.split("/")
    sound = all(names.FILE_NAME.fullmatch(part) for part in parts)
    if not sound or {".", ".."} & set(parts) or len(path.encode()) > _LONGEST_PATH:
        fields.fail(f"not a plain relative file name: {path[:300]!r}")


def _refuse_clashes(layers: Iterable[Layer], where: str) -> None:
    """Refuse two files of one name, a file where another has a folder, two layers for one role."""
    paths: set[str] = set()
    folders: set[str] = set()
    roles: set[Role] = set()
    for layer in layers:
        if layer.role is not None and layer.role not in (Role.ADAPTER, Role.RUNTIME):
            if layer.role in roles:
                raise InvalidBundle(
                    f"{where}: two layers for {layer.role.value}", hint=names.DAMAGED
                )
            roles.add(layer.role)
        if layer.path is None:
            continue
        parts = layer.path.split("/")
        above = {"/".join(parts[:end]) for end in range(1, len(parts))}
        if layer.path in paths | folders or paths & above:
            raise InvalidBundle(f"{where}: {layer.path} is named twice", hint=names.DAMAGED)
        paths.add(layer.path)
        folders |= above
