from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.errors import InvalidGGUF, NativeFailure, NotFound
from edgeslm.gguf.reader import Header, read_header
from edgeslm.llama.model import Model, ModelOptions
from edgeslm.testing import CHAT_TEMPLATE, CONTROL_TOKENS, tiny_gguf


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Model]:
    with Model(tiny_model) as opened:
        yield opened


def test_an_open_model_knows_its_vocabulary(model: Model) -> None:
    assert model.vocabulary_size == len(model.header.metadata["tokenizer.ggml.tokens"])
    assert set(model.control_tokens) == set(CONTROL_TOKENS)
    assert model.chat_template == CHAT_TEMPLATE
    assert model.trained_context_length == 512
    assert model.can_generate
    assert model.ends_generation(model.control_tokens["<|im_end|>"])


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None)
def test_tokens_give_the_text_back(model: Model, text: str) -> None:
    assert model.detokenize(model.tokenize(text)) == text


def test_control_tokens_are_read_only_where_asked(model: Model) -> None:
    control = model.control_tokens["<|im_end|>"]
    assert model.tokenize("<|im_end|>", parse_special=True) == [control]
    assert control not in model.tokenize("<|im_end|>")


def test_qwen_text_is_composed_first(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "qwen.gguf", architecture="qwen3")
    with Model(path) as model:
        plain = model.tokenize("cafe\u0301")
    path.write_bytes(path.read_bytes().replace(b"gpt-2", b"qwen2"))
    with Model(path) as model:
        assert model.tokenize("cafe\u0301") == model.tokenize("caf\u00e9") != plain


def test_a_long_piece_of_a_token_is_given_whole(model: Model) -> None:
    control = model.control_tokens["<|im_end|>"]
    assert model.token_bytes(control, special=True) == b"<|im_end|>"
    assert model.token_bytes(control) == b""


def test_mapped_and_read_weights_are_told_apart(tiny_model: Path) -> None:
    with Model(tiny_model) as mapped:
        assert mapped.buffer_bytes["mapped_weights"] > 0
        assert "weights" not in mapped.buffer_bytes
    with Model(tiny_model, ModelOptions(mmap=False, repack=False)) as read:
        assert read.buffer_bytes["weights"] > 0
        assert "mapped_weights" not in read.buffer_bytes


def test_a_closed_model_is_not_used(tiny_model: Path) -> None:
    model = Model(tiny_model)
    model.close()
    model.close()
    with pytest.raises(ValueError, match="closed"):
        _ = model.handle


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nothing\.gguf"):
        Model(tmp_path / "nothing.gguf")


def test_what_is_no_model_is_refused_before_native_code_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "text.gguf"
    path.write_text("This is a letter, not a model.")
    with pytest.raises(InvalidGGUF):
        Model(path)


def test_a_refusal_carries_the_words_of_llama_cpp(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "model.gguf")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"blk.0.ffn_up.weight", b"blk.0.ffn_xx.weight"))
    read_header(path)  # well formed; only llama.cpp knows which tensors it wants
    for trusted in (False, True):
        with pytest.raises(NativeFailure) as caught:
            Model(path, ModelOptions(trusted=trusted))
        assert "tensor 'blk.0.ffn_up.weight' not found" in caught.value.message
        assert str(path) in caught.value.message


def test_the_vocabulary_is_not_kept_twice(
    tiny_model: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeslm.gguf.reader._LONG", 100)
    with Model(tiny_model) as opened:
        kept = [value for value in vars(opened).values() if isinstance(value, Header)]
        assert [header.get("tokenizer.ggml.tokens") for header in kept] == [None]
        assert len(opened.header.metadata["tokenizer.ggml.tokens"]) == model.vocabulary_size
        assert opened.hyper("block_count") == model.header.hyper("block_count")
        assert opened.chat_template == CHAT_TEMPLATE
