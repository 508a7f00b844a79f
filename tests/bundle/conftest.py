"""A tiny model, a bundle of it, a pair of keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from made_bundles import full_parts, write_pair

from edgeslm.bundle.writing import write_bundle
from edgeslm.testing import tiny_gguf


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_gguf(tmp_path / "tiny.gguf", layers=1)


@pytest.fixture
def packed(tmp_path: Path, model: Path) -> Path:
    """A bundle of everything, as a directory."""
    parts = tmp_path / "parts"
    parts.mkdir()
    write_bundle(tmp_path / "packed", full_parts(model, parts))
    return tmp_path / "packed"


@pytest.fixture
def tar(tmp_path: Path, model: Path) -> Path:
    """The same as one tar."""
    parts = tmp_path / "parts-of-tar"
    parts.mkdir()
    write_bundle(tmp_path / "packed.tar", full_parts(model, parts))
    return tmp_path / "packed.tar"


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A private key; the public one lies beside it as key.pub."""
    return write_pair(tmp_path / "key.pem", ec.SECP256R1())
