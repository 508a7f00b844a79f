"""BPE with byte fallback (Llama 2, Mistral, Gemma) as llama.cpp's SentencePiece vocabulary.

llama.cpp merges the neighbours whose joined token has the highest score; BPE merges the pair
with the lowest rank. The two agree when each token's score falls with its first rank and
every way to put a token together is a merge. Vocabularies that came from SentencePiece are
like that; any other is refused here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from edgeslm.errors import Unsupported
from edgeslm.packager.convert.pretokenizer import steps

SPACE = "\u2581"
BYTES = tuple(f"<0x{value:02X}>" for value in range(256))

Merge = tuple[str, str]


def is_sentencepiece(tokenizer: Mapping[str, Any]) -> bool:
    """Whether unknown characters fall back to byte tokens, the mark of this kind."""
    return bool(tokenizer["model"].get("byte_fallback"))


def adds_space_prefix(tokenizer: Mapping[str, Any], tokens: Collection[str]) -> bool:
    """Whether text gets a space in front, after checking that spaces are handled as usual.

    Two things a Metaspace does cannot be told in GGUF, and it is taken all the same, since
    transformers 5 writes one for every model of this kind: it adds no space where the text
    begins with one, and with the scheme "first" none after control tokens.

    Raises:
        Unsupported: llama.cpp cannot treat whitespace like this tokenizer.
    """
    normalizer = [_space_step(step) for step in steps(tokenizer.get("normalizer"))]
    pieces = [_space_step(step) for step in steps(tokenizer.get("pre_tokenizer"))]
    if pieces in ([], ["split at spaces"]):  # there are no spaces left to split at
        if normalizer == ["prepend", "replace"]:
            return True
        if normalizer == ["replace"]:
            return False
    if not normalizer and pieces and pieces[0].startswith("metaspace"):
        if pieces == ["metaspace, split"] and any(SPACE in token[1:] for token in tokens):
            raise Unsupported(
                "the tokenizer splits at spaces although some tokens contain them",
                hint="llama.cpp would merge across them.",
            )
        scheme = tokenizer["pre_tokenizer"].get("prepend_scheme", "always")
        return bool(scheme != "never" and tokenizer["pre_tokenizer"].get("add_prefix_space", True))
    raise Unsupported(
        f"the tokenizer treats whitespace in an unknown way: {normalizer + pieces}",
        hint="Check for a newer edgeslm; a guess would give wrong token ids.",
    )


def scores(tokens: Sequence[str], merges: Sequence[Merge]) -> list[float]:
    """A score for each token such that llama.cpp merges in the order of `merges`.

    Raises:
        Unsupported: no scores can do that.
    """
    ranks: dict[str, int] = {}
    last: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        token = left + right
        if last.get(token, rank - 1) != rank - 1 and len(set(token)) > 1:
            raise _inexpressible(f"merges to {token!r} are interleaved with others")
        ranks.setdefault(token, rank)
        last[token] = rank
    _check_complete(tokens, merges)
    # Tokens that no merge makes are never offered one; their score only has to be low.
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _check_complete(tokens: Sequence[str], merges: Sequence[Merge]) -> None:
    """Every split of a token into two tokens, or single characters, must be a merge.

    Otherwise llama.cpp would merge what BPE leaves apart; of control tokens, it would make
    them out of ordinary text.
    """
    known = frozenset(tokens) | {character for token in tokens for character in token}
    pairs = frozenset(merges)
    for token in tokens:
        for cut in range(1, len(token)):
            pair = token[:cut], token[cut:]
            if pair[0] in known and pair[1] in known and pair not in pairs:
                raise _inexpressible(f"{pair[0]!r} + {pair[1]!r} is no merge")


def _inexpressible(reason: str) -> Unsupported:
    return Unsupported(
        f"the tokenizer's merges do not come from SentencePiece: {reason}",
        hint="llama.cpp has no tokenizer for such a vocabulary.",
    )


def _space_step(step: Mapping[str, Any]) -> str:
    """A step of the normalizer or pre-tokenizer, by what it does to spaces."""
    kind, pattern = step.get("type"), step.get("pattern")
    on_space = pattern == {"String": " "}
    if kind == "Prepend" and step.get("prepend") == SPACE:
        return "prepend"
    if kind == "Replace" and on_space and step.get("content") == SPACE:
        return "replace"
    if kind == "Split" and on_space and step.get("behavior") == "MergedWithPrevious":
        return "split at spaces"
    if kind == "Metaspace" and step.get("replacement") == SPACE:
        return "metaspace, split" if step.get("split", True) else "metaspace"
    return str(kind)
