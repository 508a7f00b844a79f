from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from rewriting import rewrite

from edgeslm.bundle.model_path import find_model
from edgeslm.errors import NativeFailure, OutputFailure, Unsupported
from edgeslm.gguf.reader import read_header
from edgeslm.packager.evaluate import QualityCard, card_path, evaluate
from edgeslm.packager.evaluate.card import card_file, identify, in_words
from edgeslm.packager.evaluate.reference import Reference
from edgeslm.packager.pipeline import pack
from edgeslm.records import QUALITY_SCHEMA, document
from edgeslm.targets.loading import load_target
from edgeslm.testing import byte_vocabulary

TEXT = "Twelve good friends went for a walk.\n" * 6


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_the_card_is_what_was_returned(tiny_model: Path, text: Path, tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    card = evaluate(tiny_model, tiny_model, text=text, context_length=32, card=path)
    assert isinstance(card, QualityCard)
    written = json.loads(path.read_text())
    assert written == json.loads(json.dumps(document(QUALITY_SCHEMA, card)))
    assert written["schema"] == "edgeslm.quality/1"
    assert written["text"]["file"] == "text.txt"
    assert written["model"]["sha256"] == written["reference"]["sha256"]
    assert str(tmp_path) not in path.read_text()


def test_a_place_that_cannot_be_written_is_known_first(text: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputFailure, match="no folder"):
        evaluate(Path("nothing.gguf"), text=text, card=tmp_path / "no" / "card.json")


def test_a_failed_evaluation_leaves_the_old_card(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text("old")

    def fail() -> None:
        with card_file(path):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["card.json"]


def test_cards_lie_beside_their_models(tmp_path: Path) -> None:
    assert card_path(tmp_path / "a.Q4.gguf") == tmp_path / "a.Q4.quality.json"
    (tmp_path / "packed").mkdir()
    assert card_path(tmp_path / "packed") == tmp_path / "packed.quality.json"
    (tmp_path / "qwen-0.6b").mkdir(exist_ok=True)
    assert card_path(tmp_path / "qwen-0.6b") == tmp_path / "qwen-0.6b.quality.json"


def test_a_card_stays_out_of_a_bundle(tiny_model: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    pack(tiny_model, packed, target=load_target("rpi4-4gb"), file_type="Q8_0")
    for path in (packed, find_model(packed)):
        assert card_path(path) == tmp_path / "packed.quality.json"
    assert identify(read_header(find_model(packed))).file == "packed"


def test_a_card_lies_where_the_link_does(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").symlink_to(tmp_path / "blobs" / "123")
    assert card_path(tmp_path / "small.gguf") == tmp_path / "small.quality.json"


def test_file_names_of_any_bytes(tiny_model: Path, text: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xff.gguf"))
    shutil.copy(tiny_model, odd)
    card = tmp_path / "card.json"
    evaluate(odd, text=text, context_length=32, card=card)
    assert json.loads(card.read_text())["model"]["file"] == "m?.gguf"


def test_predictions_beyond_any_perplexity(tiny_model: Path, text: Path, tmp_path: Path) -> None:
    huge = rewrite(tiny_model, tmp_path / "m.gguf", factors={"output_norm.weight": 1e6})
    with pytest.raises(NativeFailure, match="nothing to do with the text"):
        evaluate(huge, text=text, context_length=32)


def test_another_vocabulary_is_known_first(
    tiny_model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = [f"t{index}" for index in range(len(byte_vocabulary()))]
    other = rewrite(tiny_model, tmp_path / "m.gguf", fields={"tokenizer.ggml.tokens": tokens})
    monkeypatch.setattr(Reference, "_compute", None)  # so nothing is computed before
    with pytest.raises(Unsupported, match="another vocabulary"):
        evaluate(other, tiny_model, text=text, context_length=32)


def test_words_follow_the_figure() -> None:
    figures = (0, 0.0025, 0.023, 0.056, 0.14, 0.42)
    words = [in_words(figure) for figure in figures]
    assert len(set(words)) == len(words)
    assert words[0] == "as good as the reference"
    assert in_words(9) == words[-1]
