"""What things are called in a bundle: files, media types, annotations; and how large they may be.

Sources: the OCI image specification 1.1 (layout, index, manifest) and the CNCF ModelPack
specification (artifact, config and layer types, `org.cncf.model.filepath`). The annotations that
begin with `io.github.edgeslm` are ours, and other programs may ignore them.
"""

from __future__ import annotations

import re
from enum import Enum

LAYOUT_NAME = "oci-layout"
INDEX_NAME = "index.json"
SIGNATURE_NAME = "model.sig"
BLOBS = "blobs/sha256"

LAYOUT_VERSION = "1.0.0"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"

WEIGHTS = "application/vnd.cncf.model.weight.v1.raw"
SETTINGS = "application/vnd.cncf.model.weight.config.v1.raw"
DOCUMENT = "application/vnd.cncf.model.doc.v1.raw"
CODE = "application/vnd.cncf.model.code.v1.raw"

FILE_PATH = "org.cncf.model.filepath"
TITLE = "org.opencontainers.image.title"
ROLE = "io.github.edgeslm.role"
CREATED_BY = "io.github.edgeslm.created-by"

MOST_JSON_BYTES = 4 << 20
"""Of any JSON document in a bundle; a registry takes no larger manifest."""
MOST_LAYERS = 4096

FILE_NAME = re.compile(r"[\w+=@,()! .-]+")
"""A name that every system can hold; "!" is in those of wheels with an epoch."""

DAMAGED = "Copy or pull the bundle again, or pack it again."


class Role(str, Enum):
    """What a layer is to us; its value stands in an annotation."""

    MODEL = "model"
    ADAPTER = "adapter"
    TENSORS = "tensors"
    CHAT = "chat"
    STATE = "state"
    TARGET = "target"
    FIGURES = "figures"
    LICENSE = "license"
    CARD = "card"
    QUALITY = "quality"
    RUNTIME = "runtime"
    RUNTIMES = "runtimes"
    PROBE = "probe"


MODEL_NAME = "model.gguf"
STATE_NAME = "prompt.state"
ADAPTERS, RUNTIME = "adapters", "runtime"
FILES = {
    Role.TENSORS: ("tensors.json", SETTINGS),
    Role.CHAT: ("chat.json", SETTINGS),
    Role.STATE: (STATE_NAME, SETTINGS),
    Role.TARGET: ("target.toml", SETTINGS),
    Role.FIGURES: ("figures.json", DOCUMENT),
    Role.PROBE: ("probe.json", DOCUMENT),
    Role.LICENSE: ("LICENSE", DOCUMENT),
    Role.CARD: ("README.md", DOCUMENT),
    Role.QUALITY: ("quality.json", DOCUMENT),
    Role.RUNTIMES: ("runtime.json", CODE),
}
"""Name and media type of the layers of which there is one at most."""
