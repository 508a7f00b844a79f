"""Small tokenizers, trained here, that are built like the well-known ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mixed_strings import mixed_strings
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

CONTROLS = ("<|begin|>", "<|end|>", "<|im_start|>")
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN35_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")


def _split(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


BYTE_LEVEL = {
    "llama-bpe": _split(LLAMA3_PATTERN),
    "smaug-bpe": _split(LLAMA3_PATTERN),
    "qwen2": _split(QWEN2_PATTERN),
    "qwen35": _split(QWEN35_PATTERN),
    "smollm": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
}
"""By llama.cpp's name for how they split text."""


def byte_level(name: str, size: int = 1000) -> Tokenizer:
    """A byte-level BPE tokenizer that splits text as `name` does."""
    tokenizer = Tokenizer(BPE(ignore_merges=name == "llama-bpe"))
    if name.startswith("qwen"):
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = BYTE_LEVEL[name]
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=size,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(CONTROLS),
    )
    tokenizer.train_from_iterator(mixed_strings(400, seed=1), trainer)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    if name == "llama-bpe":
        tokenizer.post_processor = TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
        )
    return tokenizer


def sentencepiece_like(*, prefix: bool, size: int = 900) -> Tokenizer:
    """BPE with byte fallback whose merges are all ways to put its tokens together.

    That is how a vocabulary of SentencePiece arrives in tokenizer.json.
    """
    space = normalizers.Replace(" ", "▁")
    trained = Tokenizer(BPE())
    trained.normalizer = space
    trained.train_from_iterator(
        # Without < and > no piece of <s> becomes a token, from which llama.cpp would make it.
        [re.sub("[\n<>]", "", text) for text in mixed_strings(300, seed=2)],
        BpeTrainer(vocab_size=size, show_progress=False, max_token_length=12),
    )
    pieces = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    ranked = [piece for piece in pieces if len(piece) > 1 and piece not in special]
    vocabulary = {
        token: number
        for number, token in enumerate(
            [*special, *ranked, *(piece for piece in pieces if len(piece) == 1)]
        )
    }
    merges = [
        (piece[:cut], piece[cut:])
        for piece in ranked
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    model = BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), space]) if prefix else space
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def write(tokenizer: Tokenizer, directory: Path, **settings: Any) -> None:
    """tokenizer.json and tokenizer_config.json."""
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
