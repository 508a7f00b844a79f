"""Tiny random checkpoints of real architectures, as transformers saves them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

VOCABULARY = 320
TOKENS = tuple(int(token) for token in np.random.default_rng(7).integers(0, VOCABULARY, 64))
"""The 64 tokens all logits are compared on."""

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "dtype": "float32",
}

FAMILIES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {"head_dim": 24}),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {"head_dim": 24, "query_pre_attn_scalar": 24, "sliding_window": 512},
    ),
}


def build(family: str, *, seed: int = 0, **changes: Any) -> Any:
    """A random model; larger than usual weights, so that mistakes show in the logits."""
    config_name, model_name, own = FAMILIES[family]
    config = getattr(transformers, config_name)(**{**_COMMON, **own, **changes})
    torch.manual_seed(seed)
    model = getattr(transformers, model_name)._from_config(config, attn_implementation="eager")
    randomize(model)
    return model.float().eval()


def randomize(model: Any) -> None:
    """Norms near their neutral value, everything else with a deviation of 0.1."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter) * 0.1
            neutral = name.endswith("norm.weight") and not is_gemma(model)
            parameter.copy_(noise + 1 if neutral else noise)
    model.tie_weights()


def is_gemma(model: Any) -> bool:
    return "Gemma3" in type(model).__name__


def save(model: Any, directory: Path, write_tokenizer: Callable[[Path], object], **options: Any) -> Path:
    """Save model and tokenizer as a checkpoint directory."""
    model.save_pretrained(directory, **options)
    write_tokenizer(directory)
    return directory


def edit_config(directory: Path, **changes: Any) -> None:
    """Change keys of config.json; None removes one."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def reference_logits(model: Any) -> NDArray[np.float32]:
    """What transformers computes in float32."""
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0].float().numpy()
