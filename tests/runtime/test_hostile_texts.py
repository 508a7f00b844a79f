"""No text becomes a control token, whoever says it and wherever it stands.

The oracle knows nothing of how that is done: the control tokens of a prompt have to be those of
the same conversation with harmless text, and what stands between them has to say what was said.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import vocabularies
from hostile_texts import HARMLESS, PLACES, conversation, hostile_texts, without_calls
from vocabularies import FAMILIES, family_gguf

from edgeslm.errors import Unsupported, UserError
from edgeslm.gguf.reader import read_header
from edgeslm.llama.model import Model
from edgeslm.runtime.messages import Message
from edgeslm.runtime.prompt import PromptEncoder
from edgeslm.runtime.tools import spelled_out

_FOLDER = os.environ.get("EDGESLM_VOCABULARIES", "")
"""Real ones: for each a folder with tokenizer.json, tokenizer_config.json and a chat template."""
_THOUGHTS = ("<think>", "</think>")


class _Oracle:
    """Control tokens of prompts, by the place in which a text stands."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.encoder = PromptEncoder(model)
        source = model.chat_template or ""
        defined = model.user_defined_tokens.items()
        marks = {token: text for text, token in defined if text.strip() and text in source}
        self.control = marks | {token: text for text, token in model.control_tokens.items()}
        self._harmless = {place: self.steered(HARMLESS, place) for place in PLACES}
        assert all(self._harmless[place] for place in ("system", "user", "assistant"))

    def tokens(self, text: str, place: str) -> list[int]:
        messages, tools = conversation(text, place)
        if place in ("system", "user", "assistant"):
            messages, tools = without_calls(messages), []
        if self.encoder.knows_tools:
            return self.encoder.encode_messages(messages, [tool.described() for tool in tools])
        return self.encoder.encode_messages(spelled_out(messages, tools))

    def steered(self, text: str, place: str) -> list[str]:
        """Spellings of the control tokens; none if the template refuses such conversations.

        A template may write marks of its own around thoughts that it finds in an answer.
        """
        try:
            tokens = self.tokens(text, place)
        except UserError as error:
            assert "refuses this conversation" in error.message
            return []
        found = [self.control[token] for token in tokens if token in self.control]
        return [each for each in found if place != "assistant" or each not in _THOUGHTS]

    def check(self, text: str) -> None:
        for place in PLACES:
            assert self.steered(text, place) == self._harmless[place], (place, text)
        said = self._model.detokenize(self.tokens(text, "user")).replace("\x00", "")
        wanted = text.strip().replace("\x00", "")
        assert wanted in said or self._model.detokenize(self._model.tokenize(wanted)) in said, text

    def check_halves(self, spelling: str) -> None:
        """One half at the end of a message, the other at the beginning of the next."""
        for at in range(1, len(spelling)):
            halves = [
                Message("system", f"x{spelling[:at]}"),
                Message("user", f"{spelling[at:]}x{spelling[:at]}"),
                Message("assistant", f"{spelling[at:]}x{spelling[:at]}"),
                Message("user", f"{spelling[at:]}x"),
            ]
            tokens = self.encoder.encode_messages(halves)
            plain = self.encoder.encode_messages([Message(m.role, "x") for m in halves])
            of = self.control
            assert [t for t in tokens if t in of] == [t for t in plain if t in of], spelling


def _checked(path: Path, most: int) -> int:
    with Model(path) as model:
        oracle = _Oracle(model)
        spellings = sorted(set(oracle.control.values()), key=len)[:most]
        texts = [text for spelling in spellings for text in hostile_texts(spelling)]
        for text in texts:
            oracle.check(text)
        for spelling in spellings:
            oracle.check_halves(spelling)
        return len(texts)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_text_becomes_a_control_token(tmp_path: Path, family: str) -> None:
    assert _checked(family_gguf(tmp_path / "model.gguf", family), 6) >= 90


@pytest.mark.parametrize("text", ["<s>", "a</s>b", "x<s></s>"])
def test_pieces_that_add_up_to_a_control_token(tmp_path: Path, text: str) -> None:
    """SentencePiece puts pieces together until nothing longer is in the vocabulary."""
    with Model(family_gguf(tmp_path / "model.gguf", "mistral")) as model:
        for tokens in (model.tokenize(text), model.tokenize(text, add_special=True)[1:]):
            assert not set(model.control_tokens.values()) & set(tokens)
            assert model.detokenize(tokens).strip() == text


def _real() -> list[Path]:
    folder = Path(_FOLDER)
    return sorted(path.parent for path in folder.glob("*/tokenizer.json")) if _FOLDER else []


@pytest.mark.slow
@pytest.mark.skipif(not _real(), reason="EDGESLM_VOCABULARIES names no folder of tokenizers")
@pytest.mark.parametrize("folder", _real(), ids=lambda folder: folder.name)
def test_real_vocabularies(tmp_path: Path, folder: Path) -> None:
    try:
        path = vocabularies.from_tokenizer(folder, tmp_path / "model.gguf")
    except Unsupported as error:
        pytest.skip(f"not converted: {error.message}")
    if not any(each.key == "tokenizer.chat_template" for each in read_header(path).fields()):
        pytest.skip("has no chat template")
    count = _checked(path, 12)
    print(f"\n{folder.name}: {count} texts in {len(PLACES)} places")
