from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewriting import rewrite

from edgeslm.errors import InvalidOption, NativeFailure, Unsupported
from edgeslm.llama.context import Batch, Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.packager.evaluate import chunks
from edgeslm.testing import tiny_gguf

TOKENS = [int(token) for token in np.random.default_rng(4).integers(3, 270, 300)]


@pytest.mark.parametrize("length", [16, 17, 100, 300])
def test_the_second_half_counts_and_nothing_else(tiny_model: Path, length: int) -> None:
    window = TOKENS[:length]
    with Model(tiny_model) as model:
        with chunks.ChunkReader(model, length, 1) as reader:
            rows = [(part.first, part.targets, part.logits.copy()) for part in reader.rows(window)]
        expected = _all_logits(model, window)
    targets = np.concatenate([part[1] for part in rows])
    assert targets.tolist() == window[length // 2 + 1 :]
    assert len(targets) == chunks.counted(length)
    assert [part[0] for part in rows] == list(range(0, len(targets), 128))
    found = np.concatenate([part[2] for part in rows])
    np.testing.assert_allclose(found, expected[length // 2 : -1], atol=2e-2)


def _all_logits(model: Model, tokens: list[int]) -> np.ndarray:
    options = ContextOptions(length=len(tokens), outputs=len(tokens))
    batch = Batch(len(tokens))
    for position, token in enumerate(tokens):
        batch.add(token, position, logits=True)
    with Context(model, options) as context:
        context.decode(batch)
        logits = context.all_logits(len(tokens)).copy()
    batch.close()
    return logits


def test_hidden_states_do_not_change_the_logits(tiny_model: Path) -> None:
    with Model(tiny_model) as model, chunks.ChunkReader(model, 64, 1) as reader:
        plain = [part.logits.copy() for part in reader.rows(TOKENS[:64])]
        both = [(part.logits.copy(), part.hidden) for part in reader.rows(TOKENS[:64], hidden=True)]
    np.testing.assert_array_equal(np.concatenate(plain), np.concatenate([part[0] for part in both]))
    assert all(part[1] is not None and part[1].shape[1] == 32 for part in both)


def test_a_large_vocabulary_is_decoded_in_small_pieces() -> None:
    assert chunks.rows_at_once(271) == 128
    assert chunks.rows_at_once(49_152) == 128
    assert chunks.rows_at_once(262_144) == 32
    assert chunks.rows_at_once(10**7) == 16


@given(tokens=st.integers(16, 300), length=st.integers(16, 64), most=st.none() | st.integers(1, 9))
def test_chunks_are_the_text_cut_up(
    opened: Model, tokens: int, length: int, most: int | None
) -> None:
    text = TOKENS[:tokens]
    if tokens < length:
        with pytest.raises(InvalidOption, match=f"{tokens} tokens, less than one"):
            chunks.cut(opened, text, length, most)
        return
    parts = chunks.cut(opened, text, length, most)
    assert len(parts) == min(tokens // length, most or tokens)
    assert [token for part in parts for token in part] == text[: len(parts) * length]


@pytest.fixture(scope="module")
def opened(tiny_model: Path) -> Model:
    return Model(tiny_model)


def test_each_chunk_begins_as_the_model_wants_texts_to_begin(
    tiny_model: Path, tmp_path: Path
) -> None:
    path = rewrite(tiny_model, tmp_path / "m.gguf", fields={"tokenizer.ggml.add_bos_token": True})
    with Model(path) as model:
        parts = chunks.cut(model, TOKENS, 20, 2)
    assert parts == ((1, *TOKENS[1:20]), (1, *TOKENS[21:40]))


def test_a_context_longer_than_the_models(tmp_path: Path) -> None:
    with Model(tiny_gguf(tmp_path / "m.gguf", context_length=128)) as model:
        chunks.require_suitable(model, 128)
        with pytest.raises(InvalidOption, match="more than the 128"):
            chunks.require_suitable(model, 129)


def test_embedding_models_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    path = rewrite(tiny_model, tmp_path / "m.gguf", fields={"llama.pooling_type": 1})
    with Model(path) as model, pytest.raises(Unsupported, match="embedding model"):
        chunks.require_suitable(model, 32)


def test_weights_that_are_no_numbers(tiny_model: Path, tmp_path: Path) -> None:
    path = rewrite(tiny_model, tmp_path / "m.gguf", nan="blk.0.ffn_up.weight")
    with (
        Model(path) as model,
        chunks.ChunkReader(model, 32, 1) as reader,
        pytest.raises(NativeFailure, match="NaN"),
    ):
        list(reader.rows(TOKENS[:32]))
