"""tokenizer.json and its side files to a GGUF vocabulary.

Two kinds exist among the supported families: byte-level BPE (llama.cpp's "gpt2") and BPE
with byte fallback that came from SentencePiece (llama.cpp's "llama").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeslm.errors import InvalidCheckpoint, Unsupported
from edgeslm.gguf.types import Field
from edgeslm.packager.convert import sentencepiece
from edgeslm.packager.convert.checkpoint import Checkpoint, read_json, read_optional_json
from edgeslm.packager.convert.fields import flag, integers, reals, text, texts, whole
from edgeslm.packager.convert.pretokenizer import pre_tokenizer_name
from edgeslm.packager.convert.special import special_ids

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""llama.cpp's token types (llama.h, llama_token_type)."""


@dataclass(frozen=True)
class Vocabulary:
    """Everything GGUF says about tokens; entry `i` of `tokens` and `types` is token `i`."""

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...] | None
    scores: tuple[float, ...] | None
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    special: Mapping[str, int]

    def fields(self) -> list[Field]:
        """The vocabulary's metadata."""
        prefix = "tokenizer.ggml"
        fields = [
            text(f"{prefix}.model", self.model),
            text(f"{prefix}.pre", self.pre),
            texts(f"{prefix}.tokens", self.tokens),
            integers(f"{prefix}.token_type", self.types),
        ]
        if self.scores is not None:
            fields.append(reals(f"{prefix}.scores", self.scores))
        if self.merges is not None:
            fields.append(texts(f"{prefix}.merges", self.merges))
        fields += [whole(f"{prefix}.{name}_token_id", id_) for name, id_ in self.special.items()]
        return [
            *fields,
            flag(f"{prefix}.add_bos_token", self.add_bos),
            flag(f"{prefix}.add_eos_token", self.add_eos),
            flag(f"{prefix}.add_space_prefix", self.add_space_prefix),
        ]


@dataclass(frozen=True)
class _Entry:
    """One token; `type` in llama.cpp's numbers."""

    text: str
    type: int


def read_vocabulary(checkpoint: Checkpoint, rows: int) -> Vocabulary:
    """The checkpoint's vocabulary, made as long as its embedding.

    Args:
        checkpoint: Where the tokenizer's files lie beside config.json.
        rows: Rows of the embedding. Rows without a token get an unused one, since every row
            must have a name; tokens without a row cannot be used and are left out.

    Raises:
        InvalidCheckpoint: the files are missing, damaged or contradict each other.
        Unsupported: a kind of tokenizer that llama.cpp or edgeslm does not have.
    """
    path = checkpoint.directory / "tokenizer.json"
    tokenizer = _read_tokenizer(path)
    settings = read_optional_json(checkpoint.directory / "tokenizer_config.json")
    try:
        vocabulary = _vocabulary(tokenizer, settings, rows)
        _refuse_duplicates(vocabulary.tokens, path)
        ids = {token: number for number, token in enumerate(vocabulary.tokens)}
        added = _surrounding(tokenizer)
        special = special_ids(checkpoint, settings, tokenizer, ids, added)
        _refuse_other_roles(special, added)
        _refuse_missing_rows(special, rows, path)
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise InvalidCheckpoint(
            f"{path.parent}: its tokenizer is not laid out as transformers writes one: {error!r}",
            hint="Download or copy tokenizer.json and tokenizer_config.json again.",
        ) from error
    return replace(vocabulary, special=special)


def _read_tokenizer(path: Path) -> dict[str, Any]:
    if not path.is_file():
        has_model = (path.parent / "tokenizer.model").is_file()
        raise InvalidCheckpoint(
            f"{path.parent} has no tokenizer.json"
            + (", only tokenizer.model" if has_model else ""),
            hint="Write one: AutoTokenizer.from_pretrained(dir).save_pretrained(dir).",
        )
    tokenizer = read_json(path)
    model = tokenizer.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), (dict, list)):
        raise InvalidCheckpoint(f"{path}: has no vocabulary", hint="Download or copy it again.")
    kind = model.get("type", "BPE")
    odd = [
        name
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
        if model.get(name)
    ]
    if kind != "BPE" or odd:
        raise Unsupported(
            f"a tokenizer of the kind {kind}" + (f" with {odd[0]}" if odd else ""),
            hint="Only BPE tokenizers can be converted.",
        )
    return tokenizer


def _vocabulary(tokenizer: Mapping[str, Any], settings: Mapping[str, Any], rows: int) -> Vocabulary:
    """All but the special ids."""
    model = tokenizer["model"]
    merges = [_pair(merge) for merge in model["merges"]]
    from_sentencepiece = sentencepiece.is_sentencepiece(tokenizer)
    made = {left + right for left, right in merges} if from_sentencepiece else set()
    entries = {_id(number): _Entry(token, _plain_type(token, model, from_sentencepiece))
               for token, number in model["vocab"].items()}  # fmt: skip
    if len(entries) != len(model["vocab"]):
        raise ValueError("two tokens have the same id")
    for number, added in _added_tokens(tokenizer, settings).items():
        entries[number] = _added(added, entries.get(number), made)
    entries = _fitted(entries, rows)
    tokens = tuple(entries[number].text for number in range(rows))
    before, behind = _template(tokenizer.get("post_processor"))
    common = Vocabulary(
        model="gpt2",
        pre="",
        tokens=tokens,
        types=tuple(entries[number].type for number in range(rows)),
        merges=None,
        scores=None,
        add_bos=bool(before),
        add_eos=bool(behind),
        add_space_prefix=False,
        special={},
    )
    if not from_sentencepiece:
        if any(" " in part for pair in merges for part in pair):
            raise Unsupported("merges of raw spaces", hint="Only byte-level BPE can be converted.")
        joined = tuple(" ".join(pair) for pair in merges)
        return replace(common, pre=pre_tokenizer_name(tokenizer), merges=joined)
    missing = [byte for byte in sentencepiece.BYTES if byte not in model["vocab"]]
    if missing:
        raise Unsupported(
            f"the tokenizer has no token for the byte {missing[0]}",
            hint="llama.cpp needs all 256 of them.",
        )
    return replace(
        common,
        model="llama",
        pre="default",
        scores=tuple(sentencepiece.scores(tokens, merges)),
        add_space_prefix=sentencepiece.adds_space_prefix(tokenizer, model["vocab"]),
    )


def _pair(merge: Any) -> tuple[str, str]:
    """A merge, written as a list or, formerly, as one string."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return _str(left), _str(right)


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _id(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is no token id")
    return value


def _plain_type(token: str, model: Mapping[str, Any], from_sentencepiece: bool) -> int:
    """The type of a token that was not added later."""
    if from_sentencepiece and token in sentencepiece.BYTES:
        return BYTE
    return UNKNOWN if from_sentencepiece and token == model.get("unk_token") else NORMAL


def _added_tokens(
    tokenizer: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[int, Mapping[str, Any]]:
    """Tokens beside the trained ones, by id; those only tokenizer_config.json knows included."""
    later = settings.get("added_tokens_decoder") or {}
    known = {_id(int(number)): added for number, added in later.items()}
    return known | {_id(added["id"]): added for added in tokenizer.get("added_tokens") or ()}


def _added(added: Mapping[str, Any], plain: _Entry | None, made: set[str]) -> _Entry:
    """An added token: special ones are control tokens, others are cut out of any text."""
    content = _str(added["content"])
    if plain is not None and plain.type == UNKNOWN:
        return _Entry(content, UNKNOWN)
    if added.get("special"):
        return _Entry(content, CONTROL)
    if any(added.get(key) for key in ("single_word", "lstrip", "rstrip")):
        raise Unsupported(
            f"the added token {content!r} takes spaces or word ends into account",
            hint="llama.cpp cannot do that.",
        )
    # Runs of spaces that merges make anyway stay plain: only plain tokens have their
    # space marks turned back into spaces.
    if sentencepiece.SPACE in content and content in made:
        return _Entry(content, NORMAL)
    return _Entry(content, USER_DEFINED)


def _fitted(entries: Mapping[int, _Entry], rows: int) -> dict[int, _Entry]:
    """One entry for each row of the embedding."""
    trained = [number for number, entry in entries.items() if number >= rows and
               entry.type not in (CONTROL, USER_DEFINED)]  # fmt: skip
    if trained:
        raise InvalidCheckpoint(
            f"the tokenizer has token {max(trained)}, the embedding only {rows} rows",
            hint="Tokenizer and weights belong to different models.",
        )
    return {number: entries.get(number, _Entry(f"[PAD{number}]", UNUSED)) for number in range(rows)}


def _template(processor: Any) -> tuple[list[int], list[int]]:
    """The ids put in front of a text, and behind it."""
    parts = [processor] if isinstance(processor, Mapping) else []
    if parts and parts[0].get("type") == "Sequence":
        parts = parts[0]["processors"]
    for part in parts:
        if part.get("type") == "TemplateProcessing":
            at = ["Sequence" in item for item in part["single"]].index(True)
            return _template_ids(part, 0, at), _template_ids(part, at + 1, None)
    return [], []


def _template_ids(part: Mapping[str, Any], start: int, stop: int | None) -> list[int]:
    names = [item["SpecialToken"]["id"] for item in part["single"][start:stop]]
    return [_id(number) for name in names for number in part["special_tokens"][name]["ids"]]


def _surrounding(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """The tokens the template puts before and behind a text, by the role they must have."""
    added = {}
    for role, ids in zip(("bos", "eos"), _template(tokenizer.get("post_processor")), strict=True):
        if len(ids) > 1:
            raise Unsupported(
                f"the tokenizer adds the tokens {ids} to texts",
                hint=f"llama.cpp can add one {role} token only.",
            )
        if ids:
            added[role] = ids[0]
    return added


def _refuse_other_roles(special: Mapping[str, int], added: Mapping[str, int]) -> None:
    for role, number in added.items():
        if special[role] != number:
            raise Unsupported(
                f"the tokenizer adds the token {number} to texts, its {role} token is "
                f"{special[role]}",
                hint=f"llama.cpp can add the {role} token only.",
            )


def _refuse_duplicates(tokens: Iterable[str], path: Path) -> None:
    """llama.cpp ends the process where two tokens have the same text."""
    twice = _first_duplicate(tokens)
    if twice is not None:
        raise InvalidCheckpoint(
            f"{path}: the token {twice!r} has two ids", hint="Every token needs its own text."
        )


def _refuse_missing_rows(special: Mapping[str, int], rows: int, path: Path) -> None:
    for role, number in special.items():
        if number >= rows:
            raise InvalidCheckpoint(
                f"{path}: the {role} token is {number}, the embedding has {rows} rows",
                hint="Tokenizer and weights belong to different models.",
            )


def _first_duplicate(tokens: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for token in tokens:
        if token in seen or not token:
            return token
        seen.add(token)
    return None
