"""Token ids of converted vocabularies equal those of the tokenizers library."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_tokenizers
import oracle
import pytest
from mixed_strings import mixed_strings
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from edgeslm.errors import InvalidCheckpoint, Unsupported
from edgeslm.gguf.types import Field
from edgeslm.gguf.writer import write_gguf
from edgeslm.packager.convert.checkpoint import Checkpoint, read_optional_json
from edgeslm.packager.convert.fields import real, text, whole
from edgeslm.packager.convert.sentencepiece import scores
from edgeslm.packager.convert.special import chat_templates
from edgeslm.packager.convert.tokenizer import Vocabulary, read_vocabulary

COUNT = 1000
SPACES = {"space-prefix": True, "no-prefix": False}


def checkpoint_at(directory: Path, config: dict[str, Any] | None = None) -> Checkpoint:
    """A checkpoint of which only the side files matter."""
    generation = read_optional_json(directory / "generation_config.json")
    return Checkpoint(directory, config or {}, generation)


def vocabulary_of(
    tokenizer: Tokenizer, directory: Path, rows: int | None = None, **settings: Any
) -> Vocabulary:
    made_tokenizers.write(tokenizer, directory, **settings)
    return read_vocabulary(checkpoint_at(directory), rows or tokenizer.get_vocab_size())


def edited(directory: Path, change: Any) -> Vocabulary:
    """The vocabulary of a gpt-2 tokenizer after `change` was applied to its JSON."""
    made_tokenizers.write(made_tokenizers.byte_level("gpt-2", size=300), directory)
    path = directory / "tokenizer.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return read_vocabulary(checkpoint_at(directory), 301)


def write_vocabulary(vocabulary: Vocabulary, path: Path) -> Path:
    """A GGUF file that holds the vocabulary and no weights."""
    sizes = {"context_length": 8, "embedding_length": 8, "block_count": 1, "feed_forward_length": 8}
    fields: list[Field] = [
        text("general.architecture", "llama"),
        *(whole(f"llama.{key}", value) for key, value in sizes.items()),
        whole("llama.attention.head_count", 1),
        real("llama.attention.layer_norm_rms_epsilon", 1e-5),
        *vocabulary.fields(),
    ]
    write_gguf(path, fields, [], lambda index: b"")
    return path


def made(name: str) -> Tokenizer:
    if name in SPACES:
        return made_tokenizers.sentencepiece_like(prefix=SPACES[name])
    return made_tokenizers.byte_level(name)


@pytest.fixture(scope="module", params=[*made_tokenizers.BYTE_LEVEL, *SPACES])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A tokenizer, llama.cpp's model of it, and its name."""
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer = made(request.param)
    names = {"bos_token": "<s>" if request.param in SPACES else "<|begin|>"}
    vocabulary = vocabulary_of(tokenizer, directory, **names)
    path = write_vocabulary(vocabulary, directory / "vocabulary.gguf")
    with oracle.loaded(path, vocabulary_only=True) as model:
        yield tokenizer, model, vocabulary, request.param


@pytest.mark.parametrize("parse_special", [True, False])
@pytest.mark.parametrize("add_special", [True, False])
def test_ids_equal(pair: Any, parse_special: bool, add_special: bool) -> None:
    tokenizer, model, _, name = pair
    controls = ("<s>", "</s>") if name in SPACES else (*made_tokenizers.CONTROLS, "<think>")
    texts = mixed_strings(COUNT, controls, seed=3)
    if name.startswith("qwen"):  # llama.cpp does not compose characters; composed text is the same
        texts = [unicodedata.normalize("NFC", text) for text in texts]
    tokenizer.encode_special_tokens = not parse_special
    theirs = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=add_special)]
    ours = oracle.encode_all(model, texts, add_special=add_special, parse_special=parse_special)
    wrong = [(text, a, b) for text, a, b in zip(texts, ours, theirs, strict=True) if a != b]
    assert not wrong, f"{len(wrong)} of {COUNT}, first {wrong[0]}"


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_ids_equal_with_a_metaspace(scheme: str, tmp_path: Path) -> None:
    tokenizer = made_tokenizers.sentencepiece_like(prefix=True)
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
    path = write_vocabulary(vocabulary_of(tokenizer, tmp_path), tmp_path / "vocabulary.gguf")
    # llama.cpp puts a space even before a space, where this does not
    texts = [text for text in mixed_strings(300, seed=3) if scheme == "never" or text[:1] != " "]
    with oracle.loaded(path, vocabulary_only=True) as model:
        ours = oracle.encode_all(model, texts, add_special=True, parse_special=False)
    tokenizer.encode_special_tokens = True
    assert ours == [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def test_ids_turn_back_into_the_text(pair: Any) -> None:
    _, model, vocabulary, _ = pair
    texts = mixed_strings(200, seed=4)
    ids = oracle.encode_all(model, texts, add_special=False, parse_special=False)
    space = b" " if vocabulary.add_space_prefix else b""
    for text_, tokens in zip(texts, ids, strict=True):
        assert oracle.decode(model, tokens) == (space + text_.encode() if text_ else b"")


def test_structure_gives_the_name(pair: Any) -> None:
    _, _, vocabulary, name = pair
    assert vocabulary.pre == ("default" if name in SPACES else name)
    assert vocabulary.model == ("llama" if name in SPACES else "gpt2")


def test_template_gives_add_bos(pair: Any) -> None:
    _, _, vocabulary, name = pair
    assert vocabulary.add_bos == (name in SPACES or name == "llama-bpe")
    assert not vocabulary.add_eos


@pytest.mark.parametrize(
    "change",
    [
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Whitespace()),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda t: setattr(t, "normalizer", normalizers.NFKC()),
        lambda t: setattr(t, "normalizer", normalizers.Lowercase()),
    ],
)
def test_unknown_structure_is_refused(change: Any, tmp_path: Path) -> None:
    tokenizer = made_tokenizers.byte_level("gpt-2", size=300)
    change(tokenizer)
    with pytest.raises(Unsupported, match="unknown way"):
        vocabulary_of(tokenizer, tmp_path)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda data: data["model"].update(type="Unigram"), Unsupported),
        (lambda data: data["model"].update(end_of_word_suffix="</w>"), Unsupported),
        (lambda data: data["model"].update(vocab=None), InvalidCheckpoint),
        (lambda data: data["model"].update(merges=[["a"]]), InvalidCheckpoint),
        (lambda data: data["model"].update(merges=None), InvalidCheckpoint),
        (lambda data: data.pop("model"), InvalidCheckpoint),
        (lambda data: data["added_tokens"][0].pop("id"), InvalidCheckpoint),
        (
            lambda data: data["added_tokens"].append({"id": 5, "content": "<think>"}),
            InvalidCheckpoint,
        ),
        (lambda data: data["added_tokens"][-1].update(lstrip=True), Unsupported),
        (lambda data: data["model"]["vocab"].update(beyond=301), InvalidCheckpoint),
    ],
)
def test_damaged_or_odd_tokenizers_are_errors(change: Any, error: type, tmp_path: Path) -> None:
    with pytest.raises(error):
        edited(tmp_path, change)


def test_rows_without_a_token_are_named_and_unused(tmp_path: Path) -> None:
    tokenizer = made_tokenizers.byte_level("gpt-2", size=300)
    vocabulary = vocabulary_of(tokenizer, tmp_path, rows=310)
    assert vocabulary.tokens[300:303] == ("<think>", "[PAD301]", "[PAD302]")
    assert vocabulary.types[300:303] == (4, 5, 5)


def test_added_tokens_without_a_row_are_left_out(tmp_path: Path) -> None:
    tokenizer = made_tokenizers.byte_level("gpt-2", size=300)
    assert "<think>" not in vocabulary_of(tokenizer, tmp_path, rows=300).tokens


def test_token_types(tmp_path: Path) -> None:
    vocabulary = vocabulary_of(made_tokenizers.sentencepiece_like(prefix=True), tmp_path)
    assert vocabulary.types[:4] == (2, 3, 3, 6)
    assert set(vocabulary.types[260:]) == {1}


def test_merges_that_do_not_come_from_sentencepiece_are_refused(tmp_path: Path) -> None:
    made_tokenizers.write(made_tokenizers.sentencepiece_like(prefix=True), tmp_path)
    path = tmp_path / "tokenizer.json"
    data = json.loads(path.read_text())
    merges = data["model"]["merges"]
    joined = [left + right for left, right in merges]
    del merges[next(i for i, token in enumerate(joined) if joined.count(token) > 1)]
    path.write_text(json.dumps(data))
    with pytest.raises(Unsupported, match="SentencePiece"):
        read_vocabulary(checkpoint_at(tmp_path), len(data["model"]["vocab"]))


def test_control_tokens_that_text_could_be_merged_to_are_refused() -> None:
    with pytest.raises(Unsupported, match="'<s' \\+ '>' is no merge"):
        scores(["<s>", "<s", "<", "s", ">"], [("<", "s")])


def test_scores_fall_with_the_first_rank() -> None:
    merges = [("a", "b"), ("ab", "c"), ("a", "bc"), ("b", "c")]
    assert scores(["a", "b", "c", "ab", "abc", "bc"], merges) == [-4, -4, -4, 0, -1, -3]


def test_missing_tokenizer_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(InvalidCheckpoint, match=r"only tokenizer\.model") as raised:
        read_vocabulary(checkpoint_at(tmp_path), 10)
    assert "save_pretrained" in str(raised.value.hint)


def test_special_ids_come_from_every_file(tmp_path: Path) -> None:
    tokenizer = made_tokenizers.byte_level("gpt-2", size=300)
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": {"content": "<|im_start|>"}}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [50, 1, 51]}')
    made_tokenizers.write(tokenizer, tmp_path, bos_token=None, eos_token="<think>")
    vocabulary = read_vocabulary(checkpoint_at(tmp_path, {"bos_token_id": 0}), 301)
    assert vocabulary.special == {"bos": 0, "eos": 300, "padding": 2, "eot": 1, "eom": 50}


def test_a_bos_that_only_the_template_names(tmp_path: Path) -> None:
    vocabulary = vocabulary_of(made_tokenizers.byte_level("llama-bpe", size=300), tmp_path)
    assert vocabulary.special["bos"] == 0


def test_what_the_template_adds_goes_before_a_default_of_the_config(tmp_path: Path) -> None:
    made_tokenizers.write(made_tokenizers.byte_level("llama-bpe", size=300), tmp_path)
    vocabulary = read_vocabulary(checkpoint_at(tmp_path, {"bos_token_id": 7}), 301)
    assert vocabulary.special["bos"] == 0


def test_a_template_that_adds_another_token_is_refused(tmp_path: Path) -> None:
    tokenizer = made_tokenizers.byte_level("llama-bpe", size=300)
    with pytest.raises(Unsupported, match="adds the token 0"):
        vocabulary_of(tokenizer, tmp_path, bos_token="<|end|>")


def templates(directory: Path) -> dict[str, Any]:
    return {field.key: field.value for field in chat_templates(checkpoint_at(directory))}


def test_chat_template_in_the_settings(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "inner"}')
    assert templates(tmp_path) == {"tokenizer.chat_template": "inner"}


def test_chat_template_in_files_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "inner"}')
    (tmp_path / "chat_template.json").write_text('{"chat_template": "json"}')
    assert templates(tmp_path) == {"tokenizer.chat_template": "json"}
    (tmp_path / "chat_template.jinja").write_text("jinja ä")
    assert templates(tmp_path) == {"tokenizer.chat_template": "jinja ä"}


def test_named_chat_templates(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert templates(tmp_path) == {
        "tokenizer.chat_template": "a",
        "tokenizer.chat_template.tool_use": "b",
        "tokenizer.chat_templates": ["tool_use"],
    }


@pytest.mark.parametrize("value", [5, [{"name": "default"}], ["x"], [{"name": 1, "template": "x"}]])
def test_malformed_chat_templates_are_errors(value: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(InvalidCheckpoint, match="chat template"):
        templates(tmp_path)
