"""Models to time: of any size, all matrices of one tensor type, with nothing learnt.

What a matrix product costs does not depend on the numbers, as long as they are numbers: blocks
are encoded from random weights once, for some rows, and repeated from there on. The vocabulary
has the 256 bytes and little more, so that the head, which is the embedding too, weighs little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeslm.gguf.types import Field, TensorType, ValueType, tensor_type
from edgeslm.gguf.writer import TensorSpec, write_gguf
from edgeslm.llama.rows import NEED_IMPORTANCE, encode_rows

_SEED = 0
_SAMPLE_ELEMENTS = 1 << 16
_TOKENS = 288
"""The bytes, three special tokens, and what makes it a multiple of 32: kernels that interleave
rows want that."""
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_CONTEXT_LENGTH = 8192


@dataclass(frozen=True)
class Shape:
    """Sizes of a llama: widths in elements, `heads` a multiple of `kv_heads`."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_width: int

    @property
    def matrices(self) -> tuple[tuple[str, tuple[int, int]], ...]:
        """The matrices of one layer, in ggml's order of dimensions."""
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        return (
            ("attn_q", (self.width, queries)),
            ("attn_k", (self.width, keys)),
            ("attn_v", (self.width, keys)),
            ("attn_output", (queries, self.width)),
            ("ffn_gate", (self.width, self.feed_forward)),
            ("ffn_up", (self.width, self.feed_forward)),
            ("ffn_down", (self.feed_forward, self.width)),
        )

    @property
    def layer_weights(self) -> int:
        """Weights in the matrices of one layer."""
        return sum(width * rows for _, (width, rows) in self.matrices)

    @property
    def read_weights(self) -> int:
        """Weights in all matrices that a generated token reads."""
        return self.layers * self.layer_weights + self.width * _TOKENS


def write_synthetic(
    path: Path,
    shape: Shape,
    kind: TensorType,
    *,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write a model of that shape whose matrices are of type `kind`.

    Raises:
        OutputFailure: the file cannot be written.
        ValueError: the type does not fit the widths.
    """
    tensors = _tensors(shape, kind)
    blocks = {
        spec.shape[0]: _sample(kind, spec.shape[0]) for spec in tensors if len(spec.shape) > 1
    }
    write_gguf(
        path,
        _fields(shape),
        tensors,
        lambda index: _data(tensors[index], blocks),
        advance=advance,
    )


def _tensors(shape: Shape, kind: TensorType) -> list[TensorSpec]:
    plain = tensor_type("F32")
    tensors = [
        TensorSpec("token_embd.weight", kind, (shape.width, _TOKENS)),
        TensorSpec("output_norm.weight", plain, (shape.width,)),
    ]
    for layer in range(shape.layers):
        tensors += [
            TensorSpec(f"blk.{layer}.{name}.weight", plain, (shape.width,))
            for name in ("attn_norm", "ffn_norm")
        ]
        tensors += [
            TensorSpec(f"blk.{layer}.{name}.weight", kind, size) for name, size in shape.matrices
        ]
    return tensors


def _sample(kind: TensorType, width: int) -> NDArray[np.uint8]:
    """[rows, bytes of a row] of random weights in blocks of `kind`."""
    rows = max(_SAMPLE_ELEMENTS // width, 4)
    numbers = np.random.default_rng(_SEED).standard_normal((rows, width), np.float32)
    importance = np.ones(width, np.float32) if kind.name in NEED_IMPORTANCE else None
    return encode_rows(kind, numbers * np.float32(width**-0.5), importance)


def _data(spec: TensorSpec, blocks: dict[int, NDArray[np.uint8]]) -> NDArray[Any]:
    if len(spec.shape) == 1:
        return np.ones(spec.shape, np.float32)
    sample = blocks[spec.shape[0]]
    return np.resize(sample, (spec.shape[1], sample.shape[1]))


def _fields(shape: Shape) -> list[Field]:
    integers = {
        "context_length": _CONTEXT_LENGTH,
        "embedding_length": shape.width,
        "block_count": shape.layers,
        "feed_forward_length": shape.feed_forward,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_width,
        "attention.value_length": shape.head_width,
        "rope.dimension_count": shape.head_width,
    }
    return [
        Field("general.architecture", ValueType.STRING, "llama"),
        *(Field(f"llama.{name}", ValueType.UINT32, value) for name, value in integers.items()),
        Field("llama.attention.layer_norm_rms_epsilon", ValueType.FLOAT32, 1e-5),
        *_vocabulary(),
    ]


def _vocabulary() -> list[Field]:
    special = ["<unk>", "<s>", "</s>"]
    tokens = special + [f"<0x{byte:02X}>" for byte in range(256)]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * 256
    missing = _TOKENS - len(tokens)
    tokens += [f"t{index}" for index in range(missing)]
    kinds += [_NORMAL] * missing
    array = ValueType.ARRAY
    return [
        Field("tokenizer.ggml.model", ValueType.STRING, "llama"),
        Field("tokenizer.ggml.tokens", array, tokens, ValueType.STRING),
        Field("tokenizer.ggml.scores", array, [0.0] * _TOKENS, ValueType.FLOAT32),
        Field("tokenizer.ggml.token_type", array, kinds, ValueType.INT32),
    ]
