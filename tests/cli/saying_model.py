"""A tiny model that says a given text: what it says next depends on its last token alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeslm import testing
from edgeslm.gguf.types import tensor_type
from edgeslm.gguf.writer import TensorSpec, write_gguf

_NEWLINE = len(testing.CONTROL_TOKENS) + ord("\n")
"""The token that the template ends with."""
_END = 2


def saying_gguf(path: Path, pieces: Sequence[bytes], *, forever: bool = False) -> Path:
    """Write a model that answers everything with `pieces`, a token each; returns `path`.

    Args:
        path: Where the file goes.
        pieces: All different, and none of them a single byte.
        forever: Begin again after the last.
    """
    usual = testing.byte_vocabulary()
    spelled = testing._byte_characters()
    tokens = (*usual, *("".join(spelled[byte] for byte in piece) for piece in pieces))
    width = 4 * -(-len(tokens) // 4)  # halves of pairs: rope turns them
    shape = testing._Shape("llama", 1, width, 2, 1, 8, 512, width // 2, tied=False)
    matrices = {name: np.zeros(size[::-1], np.float32) for name, size in testing._tensors(shape)}
    for name, matrix in matrices.items():
        if "norm" in name:
            matrix += 1
    said = range(len(usual), len(tokens))
    follows = dict.fromkeys(range(len(tokens)), _END)
    follows |= dict(zip((_NEWLINE, *said), (*said, said[0] if forever else _END), strict=True))
    embedding = np.eye(len(tokens), width, dtype=np.float32)
    output = np.zeros_like(embedding)
    for token, following in follows.items():
        output[following, token] = 1
    matrices |= {"token_embd.weight": embedding, "output.weight": output}
    specs = [
        TensorSpec(name, tensor_type("F32"), matrix.shape[::-1])
        for name, matrix in matrices.items()
    ]
    fields = [
        *testing._hyperparameters(shape, "F32"),
        *(
            replace(field, value=_values(field.key, field.value, tokens))
            for field in testing._vocabulary_fields()
        ),
    ]
    write_gguf(path, fields, specs, lambda index: matrices[specs[index].name])
    return path


def _values(name: str, value: object, tokens: Sequence[str]) -> object:
    if name == "tokenizer.ggml.tokens":
        return tuple(tokens)
    if name == "tokenizer.ggml.token_type":
        assert isinstance(value, list)
        return value + [1] * (len(tokens) - len(value))
    return value
