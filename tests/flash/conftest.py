"""Shared by the tests of flash: a bundle, a runtime, images of systems."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from made_images import make_runtime

from edgeslm.packager.pipeline import pack
from edgeslm.targets.loading import load_target

sys.path.append(str(Path(__file__).parent.parent / "bundle"))


@pytest.fixture(scope="session")
def packed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle; never write to it."""
    folder = tmp_path_factory.mktemp("bundle") / "packed"
    pack(tiny_model, folder, target=load_target("rpi5-4gb"))
    return folder


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands for a runtime; never write to it."""
    return make_runtime(tmp_path_factory.mktemp("runtime"))
