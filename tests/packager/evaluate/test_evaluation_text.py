from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edgeslm.errors import EdgeslmError, Unsupported, UserError
from edgeslm.llama.model import Model
from edgeslm.packager.evaluate import text
from edgeslm.packager.evaluate.store import Store
from edgeslm.testing import tiny_gguf

HASH = "0" * 64


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "LONGEST_TOKENS", 40)


def test_one_line_break_at_the_end_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("grüß dich\r\n\n\n".encode())
    read = text.text_of_file(path)
    assert (read.text, read.source) == ("grüß dich\r\n\n", "file")
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc\xff")
    with pytest.raises(UserError, match=r"UTF-8 \(byte 3\)"):
        text.text_of_file(path)
    with pytest.raises(EdgeslmError, match="no such file"):
        text.text_of_file(tmp_path / "b.txt")
    with pytest.raises(EdgeslmError, match="directory"):
        text.text_of_file(tmp_path)


def test_the_same_seed_says_the_same(tiny_model: Path) -> None:
    with Model(tiny_model) as model:
        told: list[int] = []
        first = text.sample(model, seed=0, threads=1, advance=told.append)
        assert text.sample(model, seed=0, threads=1) == first
        assert text.sample(model, seed=1, threads=1) != first
    assert sum(told) == 8 * 40
    assert len(first) > 100


def test_sampled_tokens_are_as_likely_as_the_model_says(tiny_model: Path) -> None:
    """The first token of each text, drawn often, against the model's own probabilities."""
    import numpy as np

    from edgeslm.llama.context import Context, ContextOptions
    from edgeslm.llama.sampler import Sampler

    with Model(tiny_model) as model, Context(model, ContextOptions(length=256)) as context:
        context.prefill([1])
        logits = context.logits().astype(np.float64)
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        sampler = Sampler(model, text._SAMPLING)
        drawn = np.array([sampler.sample(context) for _ in range(20_000)])
        sampler.close()
    found = np.bincount(drawn, minlength=len(chances)) / len(drawn)
    assert np.abs(found - chances).max() < 0.01
    assert np.abs(found - chances).sum() < 0.2


def test_a_text_of_the_length_asked_for_is_kept(tiny_model: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    with Model(tiny_model) as model:
        first = text.sampled_text(model, HASH, store, 700, threads=1)
        assert len(model.tokenize(first.text)) >= 700
        assert first.source == "sampled"
        assert first.path.read_bytes() == first.text.encode()
        assert hashlib.sha256(first.path.read_bytes()).hexdigest() == first.sha256
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        assert text.sampled_text(model, HASH, store, 700, threads=1) == first
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        longer = text.sampled_text(model, HASH, store, 1400, threads=1)
        assert longer.text.startswith(first.text)
        other = text.sampled_text(model, "1" * 64, store, 100, threads=1)
        assert first.text.startswith(other.text)


def test_a_model_that_says_nothing_is_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "sample", lambda *_, **__: "")
    with Model(tiny_model) as model, pytest.raises(Unsupported, match="next to nothing"):
        text.sampled_text(model, HASH, Store(tmp_path / "store"), 100, 1)


def test_pieces_are_taken_from_the_store(tiny_model: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    with Model(tiny_model) as model:
        text.sampled_text(model, HASH, store, 100, threads=1)
        for path in tmp_path.iterdir():
            if not path.name.startswith("sampled-"):
                path.write_text("x" * 300)
        assert text.sampled_text(model, HASH, store, 100, threads=1).text == "x" * 300


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3"])
def test_every_family_speaks(tmp_path: Path, architecture: str) -> None:
    path = tiny_gguf(tmp_path / "m.gguf", architecture=architecture, context_length=64)
    with Model(path) as model:
        assert len(text.sample(model, seed=3, threads=1)) > 50
