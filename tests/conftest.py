"""Shared by all tests: a tiny model that truly runs, and a cache folder of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.testing import tiny_gguf


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("EDGESLM_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of some hundred kilobytes with random weights; never write to it."""
    return tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", context_length=512)
