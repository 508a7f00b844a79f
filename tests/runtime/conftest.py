"""Tiny models for the tests of one module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgeslm.llama.model import Model
from edgeslm.testing import tiny_gguf


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Model]:
    """Opened; Gemma's window of 32 tokens moves on while it answers."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    with Model(tiny_gguf(path, architecture=request.param, context_length=512)) as opened:
        yield opened
