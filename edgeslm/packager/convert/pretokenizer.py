"""Which of llama.cpp's pre-tokenizers splits text as a tokenizer.json does.

Decided by structure: normalizer, pre-tokenizer and merging rule are brought into one
canonical form and looked up. What is not in the table is refused, since a near miss would
give other token ids without anybody noticing. The patterns are those that src/llama-vocab.cpp
quotes as the originals of the ones it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from edgeslm.errors import Unsupported

Json = Mapping[str, Any]

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_NEWLINES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|" + _NEWLINES
_WORD = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_WORD}|\p{{N}}{{1,3}}|{_TAIL}"
_QWEN2 = rf"{_WORD}|\p{{N}}|{_TAIL}"
_QWEN35 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _NEWLINES
)


@dataclass(frozen=True)
class _Structure:
    """How text is cut into words, and whether a word that is a token is merged at all."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False


_NAMES: Mapping[_Structure, str] = MappingProxyType(
    {
        _Structure((_GPT2,)): "gpt-2",
        _Structure((r"\p{N}", _GPT2)): "smollm",
        _Structure((_LLAMA3,), ignore_merges=True): "llama-bpe",
        _Structure((_LLAMA3,)): "smaug-bpe",
        _Structure((_QWEN2,)): "qwen2",
        _Structure((_QWEN35,)): "qwen35",
    }
)

_CHECKPOINT_HINT = "Check for a newer edgeslm; a guess would give wrong token ids."


def pre_tokenizer_name(tokenizer: Json) -> str:
    """llama.cpp's name for how this byte-level tokenizer splits text.

    Unicode composition (NFC) in the normalizer is accepted although llama.cpp leaves text as
    it comes: text that is composed already, as nearly all is, gives the same tokens.

    Raises:
        Unsupported: llama.cpp has no pre-tokenizer known to do the same.
    """
    normalizers = [step.get("type") for step in steps(tokenizer.get("normalizer"))]
    if normalizers not in ([], ["NFC"]):
        raise Unsupported(
            f"the tokenizer normalises text in an unknown way: {', '.join(map(str, normalizers))}",
            hint=_CHECKPOINT_HINT,
        )
    pieces = steps(tokenizer.get("pre_tokenizer"))
    patterns = tuple(pattern for piece in pieces for pattern in _patterns(piece))
    merges = bool(tokenizer["model"].get("ignore_merges"))
    name = _NAMES.get(_Structure(patterns, merges))
    if name is None:
        kinds = " + ".join(str(piece.get("type")) for piece in pieces) or "none"
        raise Unsupported(
            f"the tokenizer splits text in an unknown way: {kinds}, {patterns or 'no pattern'}",
            hint=_CHECKPOINT_HINT,
        )
    return name


def steps(part: Any) -> list[Json]:
    """A normalizer or pre-tokenizer as the steps it consists of; none for null."""
    if not isinstance(part, Mapping):
        return []
    if part.get("type") != "Sequence":
        return [part]
    inner = part.get("normalizers") or part.get("pretokenizers") or []
    return [step for child in inner for step in steps(child)]


def _patterns(piece: Json) -> list[str]:
    """What a step cuts out of the text; every match and every gap becomes a word."""
    kind = piece.get("type")
    if kind == "ByteLevel" and not piece.get("add_prefix_space"):
        return [_GPT2] if piece.get("use_regex", True) else []
    if kind == "Digits":
        return [r"\p{N}" if piece.get("individual_digits") else r"\p{N}+"]
    if kind == "Split" and _keeps_everything(piece):
        pattern = piece.get("pattern")
        if isinstance(pattern, Mapping) and isinstance(pattern.get("Regex"), str):
            return [pattern["Regex"]]
    return [f"<{kind}>"]


def _keeps_everything(piece: Json) -> bool:
    """Whether matches become words of their own.

    Removing what does not match comes to the same with the patterns above: they match all.
    """
    return (piece.get("behavior"), bool(piece.get("invert"))) in (
        ("Isolated", False),
        ("Removed", True),
    )
