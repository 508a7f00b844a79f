"""Bundles for the tests: what goes in, one made by hand, and ways to look inside."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgeslm.bundle.contents import ChatSettings
from edgeslm.bundle.planning import Parts
from edgeslm.records import UNKNOWN, Figure, MemoryPlan, Prediction, Provenance

PREDICTION = Prediction(
    target="rpi5-4gb",
    target_name="Raspberry Pi 5, 4 GB",
    context_length=2048,
    memory=MemoryPlan(1, 2, 3, 4),
    memory_free_bytes=None,
    fits=True,
    prefill_tokens_per_second=UNKNOWN,
    decode_tokens_per_second=Figure(10.5, Provenance.ESTIMATED, "bandwidth"),
    decode_joules_per_token=UNKNOWN,
)


def full_parts(model: Path, folder: Path, **more: Any) -> Parts:
    """Everything that a bundle can hold, with stand-ins for what is not looked into."""
    state, adapter, wheel = folder / "state", folder / "poet", folder / "some-1-py3-none-any.whl"
    for path in (state, adapter, wheel):
        path.write_bytes(path.name.encode() * 50)
    given: dict[str, Any] = {
        "model": model,
        "prediction": PREDICTION,
        "chat": ChatSettings("You are kind.", "Q8_0"),
        "state": state,
        "target": 'id = "rpi5-4gb"\n',
        "measured": ({"schema": "edgeslm.measurement/1", "model": {"sha256": "0" * 64}},),
        "license": b"Do as you like.\n",
        "card": b"# A model\n",
        "quality": {"schema": "edgeslm.quality/1"},
        "adapters": {"poet": adapter},
        "wheels": (wheel,),
    }
    return Parts(**(given | more))


def make_by_hand(
    folder: Path, model: bytes, *, named: bool = True, change: dict[str, Any] | None = None
) -> Path:
    """A bundle as ModelPack's text asks for it, with blanks and without anything of ours."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    weights = {"mediaType": "application/vnd.cncf.model.weight.v1.raw", **put(model)}
    config = {
        "descriptor": {"name": "by hand", "createdAt": "2025-01-01T00:00:00Z"},
        "config": {"format": "gguf"},
        "modelfs": {"type": "layers", "diffIds": [weights["digest"]]},
    }
    if named:
        weights["annotations"] = {"org.cncf.model.filepath": "weights/some.gguf"}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.cncf.model.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.cncf.model.config.v1+json",
            **put(json.dumps(config).encode()),
        },
        "layers": [weights],
        "annotations": {"org.opencontainers.image.created": "2025-01-01T00:00:00Z"},
        **(change or {}),
    }
    entry = {
        "mediaType": manifest["mediaType"],
        **put(json.dumps(manifest, indent=4).encode()),
        "annotations": {"org.opencontainers.image.ref.name": "latest"},
    }
    index = {"schemaVersion": 2, "manifests": [entry]}
    (folder / "index.json").write_text(json.dumps(index, indent=4) + "\n")
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}\n')
    return folder


def manifest_of(bundle: Path) -> dict[str, Any]:
    """The manifest of a bundle in a directory."""
    index = json.loads((bundle / "index.json").read_text())
    return dict(json.loads(blob(bundle, index["manifests"][0]["digest"]).read_text()))


def blob(bundle: Path, digest: str) -> Path:
    """The file of a blob."""
    return bundle / "blobs" / "sha256" / digest.removeprefix("sha256:")


def layers_of(bundle: Path) -> dict[str, Path]:
    """The files in a bundle, by their names in it."""
    return {
        layer["annotations"]["org.cncf.model.filepath"]: blob(bundle, layer["digest"])
        for layer in manifest_of(bundle)["layers"]
    }


def write_pair(path: Path, curve: ec.EllipticCurve) -> Path:
    """A pair of keys: `path`, and beside it the public one as .pub."""
    key = ec.generate_private_key(curve)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.with_suffix(".pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return path
