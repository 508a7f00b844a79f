"""The last step of a model, done again in numpy: from a hidden state to logits.

A row of logits is a matrix of the model times a hidden state of some hundred or thousand
numbers. Keeping the hidden state instead of the logits makes a reference's results 85 times
smaller for SmolLM2 and 400 times for Gemma 3 270M.

llama.cpp rounds the hidden state to 8 bits before it multiplies it with quantized weights, and
to 16 before it does with 16-bit weights. Left out, that alone moves SmolLM2's predictions by a
KL divergence of 0.00085, a third of what Q8_0 costs; done alike, the logits agree to five
digits. Some families do more after the multiplication (soft caps, scales), so whoever uses this
compares it with real logits first: `agrees`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeslm.gguf.reader import Header, TensorInfo
from edgeslm.gguf.types import TensorType, tensor_type
from edgeslm.llama.rows import decode_rows, encode_rows
from edgeslm.packager.evaluate.divergence import compare

_SAME_DIVERGENCE = 1e-6
"""Mean KL divergence up to which logits count as the same; Q8_0 of a small model has 0.0025."""
_SLAB_TOKENS = 4096
_SUPERBLOCK = 256


class OutputHead:
    """The output matrix of a model file.

    Args:
        header: A model that llama.cpp loads.
    """

    def __init__(self, header: Header) -> None:
        tensor = _output_tensor(header)
        self._kind = tensor.type
        self.width, self.vocabulary_size = tensor.shape
        shape = (self.vocabulary_size, tensor.bytes // self.vocabulary_size)
        self._raw = np.memmap(header.path, np.uint8, "r", tensor.offset, shape)

    def logits(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """[rows, vocabulary] from [rows, hidden size].

        The matrix is decoded anew each time, some thousand tokens of the vocabulary at once:
        as floats it may be larger than the model. So give many rows.
        """
        rounded = _as_ggml_rounds(hidden, self._kind)
        result = np.empty((len(hidden), self.vocabulary_size), np.float32)
        for start in range(0, self.vocabulary_size, _SLAB_TOKENS):
            stop = start + _SLAB_TOKENS
            slab = decode_rows(self._kind, self._raw[start:stop], self.width)
            np.matmul(rounded, slab.T, out=result[:, start:stop])
        return result

    def agrees(self, hidden: NDArray[np.float32], logits: NDArray[np.float32]) -> bool:
        """Whether these hidden states give these logits here."""
        if hidden.shape[1] != self.width or logits.shape[1] != self.vocabulary_size:
            return False
        return _divergence(logits, self.logits(hidden)) < _SAME_DIVERGENCE


def _output_tensor(header: Header) -> TensorInfo:
    """The output matrix; where there is none, the embedding serves as both."""
    tensors = {tensor.name: tensor for tensor in header.tensors}
    return tensors.get("output.weight") or tensors["token_embd.weight"]


def _as_ggml_rounds(hidden: NDArray[np.float32], kind: TensorType) -> NDArray[np.float32]:
    """`hidden` as ggml's CPU code sees it when it multiplies it with weights of `kind`.

    Its table `type_traits_cpu` in ggml-cpu.c has the type that each type of weights needs.
    """
    if kind.name == "F32":
        return hidden
    if kind.block_elements == _SUPERBLOCK:
        return _rounded_to_q8_k(hidden)
    partner = kind if kind.block_elements == 1 else tensor_type("Q8_0")
    return decode_rows(partner, encode_rows(partner, hidden), hidden.shape[1])


def _rounded_to_q8_k(hidden: NDArray[np.float32]) -> NDArray[np.float32]:
    """As Q8_K, which has no decoder: 8 bits for each of 256 numbers, and a scale."""
    blocks = hidden.reshape(len(hidden), -1, _SUPERBLOCK)
    scale = np.abs(blocks).max(axis=2, keepdims=True) / np.float32(127)
    codes = np.rint(np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale > 0))
    rounded: NDArray[np.float32] = (codes * scale).reshape(hidden.shape)
    return rounded


def _divergence(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Mean KL divergence between the predictions of two arrays of logits."""
    figures = compare(first, second, np.zeros(len(first), np.int64))
    return float(figures.divergence.mean())
