"""llama.cpp at its lowest level: logits and token ids of a GGUF file, as exactly as it can."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

_F32 = 0


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, user_data: Any) -> None:
    pass


@contextmanager
def loaded(path: Path, *, vocabulary_only: bool = False) -> Iterator[Any]:
    """A model, or only its vocabulary."""
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = vocabulary_only
    params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert model, f"llama.cpp does not load {path}"
    try:
        yield model
    finally:
        llama_cpp.llama_model_free(model)


def logits(path: Path, tokens: Sequence[int]) -> NDArray[np.float32]:
    """The logits after each token; one thread, F32 cache, plain attention."""
    with loaded(path) as model:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = max(len(tokens), 32)
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = _F32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = llama_cpp.llama_init_from_model(model, params)
        assert context
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        try:
            for position, token in enumerate(tokens):
                batch.token[position] = token
                batch.pos[position] = position
                batch.n_seq_id[position] = 1
                batch.seq_id[position][0] = 0
                batch.logits[position] = 1
            batch.n_tokens = len(tokens)
            assert llama_cpp.llama_decode(context, batch) == 0
            size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
            pointer = llama_cpp.llama_get_logits(context)
            return np.ctypeslib.as_array(pointer, (len(tokens), size)).copy()
        finally:
            llama_cpp.llama_batch_free(batch)
            llama_cpp.llama_free(context)


def relative_difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """The largest absolute difference, in standard deviations of `theirs`."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / theirs.std())


def encode_all(
    model: Any, texts: Sequence[str], *, add_special: bool, parse_special: bool
) -> list[list[int]]:
    """The token ids of each text."""
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    return [_encode(vocabulary, text, add_special, parse_special) for text in texts]


def _encode(vocabulary: Any, text: str, add_special: bool, parse_special: bool) -> list[int]:
    data = text.encode()
    room = len(data) + 16
    ids = (llama_cpp.llama_token * room)()
    count = llama_cpp.llama_tokenize(
        vocabulary, data, len(data), ids, room, add_special, parse_special
    )
    assert count >= 0
    return list(ids[:count])


def decode(model: Any, ids: Sequence[int]) -> bytes:
    """The text of token ids, control tokens left out."""
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    buffer = ctypes.create_string_buffer(256)
    pieces = []
    for token in ids:
        count = llama_cpp.llama_token_to_piece(vocabulary, token, buffer, 256, 0, False)
        pieces.append(buffer.raw[: max(count, 0)])
    return b"".join(pieces)
