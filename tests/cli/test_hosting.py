"""Under which names models are served."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.cli.hosting import names_of
from edgeslm.errors import InvalidOption


def test_models_are_called_like_their_files_and_directories(tmp_path: Path) -> None:
    folder, file = tmp_path / "helper-v1.5", tmp_path / "tiny-0.5b.gguf"
    folder.mkdir()
    file.touch()
    assert names_of([folder, file], []) == ["helper-v1.5", "tiny-0.5b"]
    assert names_of([folder, file], ["a", "b"]) == ["a", "b"]
    with pytest.raises(InvalidOption, match="1 names for 2 models"):
        names_of([folder, file], ["a"])
