"""Vectors are what the model's hidden states say, pooled as it was trained to or by their mean."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edgeslm.errors import Unsupported, UserError
from edgeslm.llama.context import Batch, Context, ContextOptions
from edgeslm.llama.embedder import Embedder
from edgeslm.llama.model import Model

sys.path.append(str(Path(__file__).parent.parent / "packager" / "evaluate"))
from rewriting import rewrite

MEAN, LAST, RANK = 1, 3, 4
TEXT = "there was once a model that made vectors of texts, and "


def _hidden(model: Model, tokens: list[int]) -> np.ndarray:
    """All at once, shape (tokens, hidden size)."""
    options = ContextOptions(length=512, outputs=512)
    with Context(model, options) as context:
        context.keep_hidden(True)
        batch = Batch(len(tokens))
        for position, token in enumerate(tokens):
            batch.add(token, position, logits=True)
        context.decode(batch)
        states = np.array(context.all_hidden(len(tokens)))
        batch.close()
    return states


@pytest.mark.parametrize("rows", [7, 512])
@pytest.mark.parametrize("pooling", [None, MEAN, LAST])
def test_hidden_states_are_pooled(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pooling: int | None,
    rows: int,
) -> None:
    monkeypatch.setattr("edgeslm.llama.embedder.rows_of_logits", lambda _: rows)
    path = tiny_model
    if pooling is not None:
        fields = {"llama.pooling_type": pooling}
        path = rewrite(tiny_model, tmp_path / "pooled.gguf", fields=fields)
    with Model(tiny_model) as plain:
        tokens = plain.tokenize(TEXT, add_special=True)
        states = _hidden(plain, tokens)
    expected = states[-1] if pooling == LAST else states.mean(axis=0)
    with Model(path) as model, Embedder(model, 512, 1) as embedder:
        assert model.can_generate == (pooling is None)
        for _ in range(2):  # the second time, nothing of the first is left
            vector = embedder.embed(tokens)
            assert vector == pytest.approx(expected / np.linalg.norm(expected), abs=2e-3)
            embedder.embed(tokens[:3])


def test_what_cannot_become_a_vector(tiny_model: Path, tmp_path: Path) -> None:
    path = rewrite(tiny_model, tmp_path / "rank.gguf", fields={"llama.pooling_type": RANK})
    with Model(path) as model, pytest.raises(Unsupported, match="ranks texts"):
        Embedder(model, 64, 1)
    with Model(tiny_model) as model, Embedder(model, 64, 1) as embedder:
        for tokens in ([], [1] * 65):
            with pytest.raises(UserError, match="cannot be embedded"):
                embedder.embed(tokens)
        embedder.close()
        embedder.close()
