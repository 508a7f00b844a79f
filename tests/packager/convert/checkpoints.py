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
from safetensors.numpy import load_file, save_file

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
    """Norms near their neutral value, everything else with a deviation of 0.1.

    Gemma's norms are neutral at 0. Its embedding is larger here, as it is in real models,
    so that ggml's GELU, which is looked up in half precision, stays a small part of it all.
    """
    gemma = "Gemma3" in type(model).__name__
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter) * 0.1
            if gemma and name.endswith("embed_tokens.weight"):
                noise *= 5
            neutral = name.endswith("norm.weight") and not gemma
            parameter.copy_(noise + 1 if neutral else noise)
    model.tie_weights()


class HalfGelu(torch.nn.Module):
    """GELU as ggml computes it: argument and result in half precision."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        rounded = values.half().float()
        result = torch.nn.functional.gelu(rounded, approximate="tanh").half().float()
        return torch.where(values.abs() < 10, result, values.clamp(min=0))


def save(
    model: Any, directory: Path, write_tokenizer: Callable[[Path], object], **options: Any
) -> Path:
    """Save model and tokenizer as a checkpoint directory."""
    model.save_pretrained(directory, **options)
    write_tokenizer(directory)
    return directory


def edit_config(directory: Path, **changes: Any) -> None:
    """Change keys of config.json; None removes one."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def nest_text_model(directory: Path, prefix: str) -> None:
    """Turn a Gemma 3 text checkpoint into one that also has an image part."""
    path = directory / "model.safetensors"
    tensors = {prefix + name.removeprefix("model."): data for name, data in load_file(path).items()}
    image = {"vision_tower.x.weight": np.zeros((2, 2), np.float32)}
    save_file({**tensors, **image}, path)
    text = json.loads((directory / "config.json").read_text())
    whole = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {key: value for key, value in text.items() if key != "architectures"},
    }
    (directory / "config.json").write_text(json.dumps(whole))


def reference_logits(model: Any) -> NDArray[np.float32]:
    """What transformers computes in float32."""
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0].float().numpy()
