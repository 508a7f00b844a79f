"""Converted models give the logits that transformers gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoints
import made_tokenizers
import oracle
import pytest

from edgeslm.packager.convert import convert

TOLERANCE = 1e-4
"""In standard deviations of the logits; what is seen is around 5e-6."""
GEMMA_TOLERANCE = 3e-4
"""Where values lie next to a step of ggml's half-precision GELU, the two may fall apart."""
REQUIRED = 1e-3
"""What must hold without allowing for that GELU."""

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA_WINDOW = {
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}
GEMMA_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 500_000.0, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 5_000.0},
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-head-24": ("llama", {"head_dim": 24}),
    "llama-linear": ("llama", {"rope_parameters": LINEAR}),
    "llama-llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama-yarn": ("llama", {"rope_parameters": YARN}),
    "llama-yarn-factor": ("llama", {"rope_parameters": YARN | {"attention_factor": 1.5}}),
    "llama-one-kv-head": ("llama", {"num_key_value_heads": 1, "rms_norm_eps": 1e-2}),
    "mistral": ("mistral", {"head_dim": 40}),
    "qwen2": ("qwen2", {}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen3": ("qwen3", {}),
    "qwen3-tied": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3-linear": ("qwen3", {"rope_parameters": LINEAR}),
    "gemma3": ("gemma3", {}),
    "gemma3-untied": ("gemma3", {"tie_word_embeddings": False}),
    "gemma3-window": ("gemma3", GEMMA_WINDOW),
    "gemma3-irregular": (
        "gemma3",
        {"sliding_window": 8, "layer_types": ["full_attention"] + ["sliding_attention"] * 2},
    ),
    "gemma3-rope": ("gemma3", GEMMA_WINDOW | {"rope_parameters": GEMMA_ROPE}),
    "gemma3-soft-cap": ("gemma3", {"final_logit_softcapping": 5.0}),
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """One with as many tokens as the models have rows."""
    return made_tokenizers.byte_level("smollm", size=checkpoints.VOCABULARY - 1)


def difference(model: Any, directory: Path, tokenizer: Any, **options: Any) -> float:
    """Between transformers and the converted file."""
    checkpoints.save(model, directory, lambda to: made_tokenizers.write(tokenizer, to), **options)
    return converted_difference(model, directory)


def converted_difference(model: Any, directory: Path) -> float:
    output = directory / "model.gguf"
    convert(directory, output, type="F32")
    ours = oracle.logits(output, checkpoints.TOKENS)
    return oracle.relative_difference(ours, checkpoints.reference_logits(model))


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_those_of_transformers(name: str, tmp_path: Path, tokenizer: Any) -> None:
    family, changes = MODELS[name]
    model = checkpoints.build(family, **changes)
    if family == "gemma3":
        for layer in model.model.layers:
            layer.mlp.act_fn = checkpoints.HalfGelu()
    measured = difference(model, tmp_path, tokenizer)
    assert measured < (GEMMA_TOLERANCE if family == "gemma3" else TOLERANCE)


@pytest.mark.parametrize("changes", [{}, GEMMA_WINDOW], ids=["full", "window"])
def test_gemma_logits_with_the_original_gelu(
    changes: dict[str, Any], tmp_path: Path, tokenizer: Any
) -> None:
    model = checkpoints.build("gemma3", **changes)
    assert difference(model, tmp_path, tokenizer) < REQUIRED


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_shards_are_read_together(family: str, tmp_path: Path, tokenizer: Any) -> None:
    measured = difference(checkpoints.build(family), tmp_path, tokenizer, max_shard_size="60KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert measured < REQUIRED


OLDER_CONFIGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama-llama3": (
        "llama",
        {"rope_parameters": LLAMA3 | {"rope_theta": 30_000.0}},
        {
            "rope_theta": 30_000.0,
            "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"},
        },
    ),
    "llama-linear": (
        "llama",
        {"rope_parameters": LINEAR},
        {"rope_theta": 10_000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    ),
    "qwen2-plain": (
        "qwen2",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {"rope_theta": 1e6, "rope_scaling": None},
    ),
    "gemma3": (
        "gemma3",
        GEMMA_WINDOW | {"rope_parameters": GEMMA_ROPE},
        {
            "rope_theta": 500_000.0,
            "rope_local_base_freq": 5_000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "layer_types": None,
            "sliding_window_pattern": 3,
        },
    ),
}


@pytest.mark.parametrize("name", OLDER_CONFIGS)
def test_configs_of_transformers_4_mean_the_same(name: str, tmp_path: Path, tokenizer: Any) -> None:
    family, changes, older = OLDER_CONFIGS[name]
    model = checkpoints.build(family, **changes)
    checkpoints.save(model, tmp_path, lambda to: made_tokenizers.write(tokenizer, to))
    checkpoints.edit_config(
        tmp_path, rope_parameters=None, dtype=None, torch_dtype="float32", **older
    )
    assert converted_difference(model, tmp_path) < REQUIRED


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_text_part_of_a_gemma_with_images(prefix: str, tmp_path: Path, tokenizer: Any) -> None:
    model = checkpoints.build("gemma3", **GEMMA_WINDOW)
    checkpoints.save(model, tmp_path, lambda to: made_tokenizers.write(tokenizer, to))
    checkpoints.nest_text_model(tmp_path, prefix)
    assert converted_difference(model, tmp_path) < REQUIRED
