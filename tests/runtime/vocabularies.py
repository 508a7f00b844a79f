"""Tiny models that speak with the vocabularies and chat templates of well-known ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeslm.gguf.reader import read_header
from edgeslm.gguf.types import Field, ValueType, tensor_type
from edgeslm.gguf.writer import TensorSpec, write_gguf
from edgeslm.packager.convert.checkpoint import open_checkpoint
from edgeslm.packager.convert.special import chat_templates
from edgeslm.packager.convert.tokenizer import read_vocabulary

_WIDTH, _HIDDEN = 32, 32
_TEMPLATE = "tokenizer.chat_template"


def from_tokenizer(folder: Path, path: Path, template: str | None = None) -> Path:
    """A model with the vocabulary in `folder`, converted as `edgeslm convert` does it."""
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    checkpoint = open_checkpoint(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = [*tokenizer["model"]["vocab"].values(), *(t["id"] for t in tokenizer["added_tokens"])]
    fields = read_vocabulary(checkpoint, max(ids) + 1).fields()
    return write_model(path, [*fields, *chat_templates(checkpoint)], template)


def from_gguf(vocabulary: Path, path: Path, template: str) -> Path:
    """A model with the vocabulary of another GGUF file."""
    fields = read_header(vocabulary).fields()
    return write_model(path, [f for f in fields if f.key.startswith("tokenizer.")], template)


def write_model(path: Path, vocabulary: Iterable[Field], template: str | None) -> Path:
    """A llama of one layer, all zeros, with that vocabulary."""
    fields = [each for each in vocabulary if template is None or each.key != _TEMPLATE]
    if template is not None:
        fields.append(Field(_TEMPLATE, ValueType.STRING, template))
    tokens = next(each.value for each in fields if each.key == "tokenizer.ggml.tokens")
    tensors = [
        TensorSpec(name, tensor_type("F16" if len(shape) > 1 else "F32"), shape)
        for name, shape in _shapes(len(tokens))
    ]

    def zeros(index: int) -> NDArray[np.float16]:
        kind = np.float16 if len(tensors[index].shape) > 1 else np.float32
        return np.zeros(tensors[index].shape[::-1], kind)  # type: ignore[return-value]

    write_gguf(path, [*_hyperparameters(), *fields], tensors, zeros)
    return path


def _hyperparameters() -> Sequence[Field]:
    whole = {
        "context_length": 4096,
        "embedding_length": _WIDTH,
        "block_count": 1,
        "feed_forward_length": _HIDDEN,
        "attention.head_count": 1,
        "rope.dimension_count": _WIDTH,
    }
    return [
        Field("general.architecture", ValueType.STRING, "llama"),
        Field("llama.attention.layer_norm_rms_epsilon", ValueType.FLOAT32, 1e-5),
        *(Field(f"llama.{key}", ValueType.UINT32, value) for key, value in whole.items()),
    ]


def _shapes(tokens: int) -> list[tuple[str, tuple[int, ...]]]:
    square = (_WIDTH, _WIDTH)
    block = {f"attn_{name}.weight": square for name in ("q", "k", "v", "output")}
    block |= {f"ffn_{name}.weight": (_WIDTH, _HIDDEN) for name in ("gate", "up")}
    block |= {"ffn_down.weight": (_HIDDEN, _WIDTH)}
    block |= {f"{name}_norm.weight": (_WIDTH,) for name in ("attn", "ffn")}
    return [
        ("token_embd.weight", (_WIDTH, tokens)),
        ("output_norm.weight", (_WIDTH,)),
        *((f"blk.0.{name}", shape) for name, shape in block.items()),
    ]
