"""The fakes are real: llama.cpp loads and decodes them."""

from __future__ import annotations

import ctypes

import llama_cpp
import numpy as np
import pytest

from edgeslm.errors import InvalidOption
from edgeslm.gguf.validation import read_model
from edgeslm.testing import byte_vocabulary, tiny_gguf


@llama_cpp.llama_log_callback
def _silent(level, text, user_data):
    pass


def _decode(path):
    """Token ids of a short text and the logits after it."""
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
    model = llama_cpp.llama_model_load_from_file(
        str(path).encode(), llama_cpp.llama_model_default_params()
    )
    assert model
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_threads, options.n_threads_batch = 64, 1, 1
    context = llama_cpp.llama_init_from_model(model, options)
    assert context
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    text = "the ü<|im_end|>".encode()
    ids = (llama_cpp.llama_token * 32)()
    count = llama_cpp.llama_tokenize(vocabulary, text, len(text), ids, 32, False, True)
    assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(ids, count)) == 0
    size = llama_cpp.llama_vocab_n_tokens(vocabulary)
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (size,)).copy()
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return list(ids[:count]), logits


@pytest.mark.parametrize(
    "architecture", ["llama", "qwen2", "qwen3", "gemma3", "deci", "lfm2", "granitehybrid"]
)
@pytest.mark.parametrize("weight_type", ["F32", "F16"])
def test_llama_cpp_decodes_it(tmp_path, architecture, weight_type):
    path = tiny_gguf(tmp_path / "m.gguf", architecture=architecture, weight_type=weight_type)
    assert path.stat().st_size < 150_000
    header = read_model(path)
    assert header.architecture == architecture
    ids, logits = _decode(path)
    pieces = [byte_vocabulary()[number] for number in ids]
    assert pieces == ["t", "he", "Ġ", "Ã", "¼", "<|im_end|>"]
    assert np.isfinite(logits).all()
    assert logits.std() > 0.1


def test_the_seed_decides_the_weights(tmp_path):
    first = tiny_gguf(tmp_path / "a.gguf", seed=1).read_bytes()
    assert tiny_gguf(tmp_path / "b.gguf", seed=1).read_bytes() == first
    assert tiny_gguf(tmp_path / "c.gguf", seed=2).read_bytes() != first


def test_sizes_are_as_asked(tmp_path):
    header = read_model(
        tiny_gguf(tmp_path / "m.gguf", layers=3, width=64, heads=4, kv_heads=2, context_length=99)
    )
    assert header.hyper("block_count") == 3
    assert header.hyper("attention.head_count_kv") == 2
    assert header.hyper("context_length") == 99
    assert header.tensors[0].shape == (64, len(byte_vocabulary()))


def test_unknown_architecture(tmp_path):
    with pytest.raises(InvalidOption, match="no tiny model: rwkv"):
        tiny_gguf(tmp_path / "m.gguf", architecture="rwkv")
