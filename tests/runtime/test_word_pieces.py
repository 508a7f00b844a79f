"""Vocabularies of words and their pieces, as embedding models have them."""

from __future__ import annotations

from pathlib import Path

from vocabularies import write_model

from edgeslm.gguf.types import Field, ValueType
from edgeslm.llama.model import Model

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁i", "▁you", "▁like", "d")
_NORMAL, _CONTROL = 1, 3


def test_an_unknown_word_keeps_its_place_among_the_tokens(tmp_path: Path) -> None:
    text, numbers = ValueType.STRING, ValueType.UINT32
    ids = {"unknown": 1, "cls": 2, "bos": 2, "seperator": 3, "eos": 3, "padding": 0}
    fields = [
        Field("tokenizer.ggml.model", text, "bert"),
        Field("tokenizer.ggml.tokens", ValueType.ARRAY, TOKENS, text),
        Field(
            "tokenizer.ggml.token_type",
            ValueType.ARRAY,
            [_CONTROL] * 4 + [_NORMAL] * 4,
            ValueType.INT32,
        ),
        *(Field(f"tokenizer.ggml.{name}_token_id", numbers, value) for name, value in ids.items()),
    ]
    with Model(write_model(tmp_path / "words.gguf", fields, None)) as model:
        tokens = model.tokenize("I 🦙 you", add_special=True)
        assert [model.token_text(token) for token in tokens] == [
            *("[CLS]", "▁i", "[UNK]", "▁you", "[SEP]")
        ]
