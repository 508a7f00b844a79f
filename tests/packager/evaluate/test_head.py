from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rewriting import rewrite

from edgeslm.llama.model import Model
from edgeslm.packager.evaluate.chunks import ChunkReader
from edgeslm.packager.evaluate.head import OutputHead
from edgeslm.testing import tiny_gguf

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")
WIDE_TYPES = ("Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_XS", "IQ3_S")
TOKENS = [int(token) for token in np.random.default_rng(4).integers(3, 270, 64)]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("wide") / "m.gguf", width=256, heads=4)


def _both(path: Path) -> tuple[np.ndarray, np.ndarray, OutputHead]:
    """Hidden states and real logits."""
    with Model(path) as model, ChunkReader(model, 64, 1) as reader:
        rows = [(part.hidden, part.logits.copy()) for part in reader.rows(TOKENS, hidden=True)]
        hidden, logits = rows[0]
        assert hidden is not None
        return hidden.copy(), logits, OutputHead(model.header)


@pytest.mark.parametrize("kind", TYPES + WIDE_TYPES)
def test_logits_are_those_of_llama_cpp(wide: Path, tmp_path: Path, kind: str) -> None:
    path = rewrite(wide, tmp_path / "m.gguf", types={"token_embd.weight": kind})
    hidden, logits, head = _both(path)
    np.testing.assert_allclose(head.logits(hidden), logits, atol=1e-2)
    assert head.agrees(hidden, logits)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3"])
def test_every_family_of_tiny_models(tmp_path: Path, architecture: str) -> None:
    hidden, logits, head = _both(tiny_gguf(tmp_path / "m.gguf", architecture=architecture))
    assert head.agrees(hidden, logits)


def test_what_comes_after_the_matrix_is_noticed(tmp_path: Path) -> None:
    plain = tiny_gguf(tmp_path / "plain.gguf", architecture="gemma3")
    capped = rewrite(
        plain, tmp_path / "capped.gguf", fields={"gemma3.final_logit_softcapping": 2.0}
    )
    hidden, logits, head = _both(capped)
    assert not head.agrees(hidden, logits)


def test_another_shape_does_not_agree(wide: Path) -> None:
    hidden, logits, head = _both(wide)
    assert not head.agrees(hidden[:, :-1], logits)
    assert not head.agrees(hidden, logits[:, :-1])


def test_a_matrix_of_many_slabs(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, logits, head = _both(wide)
    monkeypatch.setattr("edgeslm.packager.evaluate.head._SLAB_TOKENS", 100)
    np.testing.assert_allclose(head.logits(hidden), logits, atol=1e-3)
