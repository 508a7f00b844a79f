from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeslm.errors import OutputFailure
from edgeslm.packager.evaluate import QualityCard, card_path, evaluate
from edgeslm.packager.evaluate.card import card_file, in_words
from edgeslm.records import QUALITY_SCHEMA, document

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


def test_words_follow_the_figure() -> None:
    figures = (0, 0.0025, 0.023, 0.056, 0.14, 0.42)
    words = [in_words(figure) for figure in figures]
    assert len(set(words)) == len(words)
    assert words[0] == "as good as the reference"
    assert in_words(9) == words[-1]
