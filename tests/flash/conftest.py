"""Shared by the tests of flash: a bundle, a runtime, images of systems."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from made_images import ARM64, make_runtime

from edgeslm.flash.runtimes import Brought, find_runtimes
from edgeslm.packager.pipeline import pack
from edgeslm.targets.loading import load_target

sys.path += [str(Path(__file__).parent.parent / "bundle"), str(Path(__file__).parent / "wheels")]


@pytest.fixture(scope="session")
def packed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle; never write to it."""
    folder = tmp_path_factory.mktemp("bundle") / "packed"
    pack(tiny_model, folder, target=load_target("rpi5-4gb"))
    return folder


@pytest.fixture(scope="session")
def brought(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Brought:
    """Wheels for the Pythons of Bookworm and Trixie, with names that are not plain."""
    from made_wheels import make_several

    more = {
        "edgeslm/with blank (dev).tmpl": b"x" * 5000,
        "edgeslm/native.so": ARM64 * 2000,
    }
    folder = make_several(tmp_path_factory.mktemp("wheels") / "both", ("3.11", "3.13"), more)
    return find_runtimes(packed, folder)


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unpacked runtime; never write to it."""
    return make_runtime(tmp_path_factory.mktemp("runtime"))
