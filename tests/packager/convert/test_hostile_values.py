"""One wrong value at a time in the JSON files of a checkpoint: an error of ours or a model."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints
import made_tokenizers
import pytest

from edgeslm.errors import EdgeslmError
from edgeslm.gguf.validation import read_model
from edgeslm.packager.convert import convert

WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 5, 10**400, 2.5, float("nan"), float("inf"), "", "x",
    [], [1], ["x"], {}, {"x": 1},
)  # fmt: skip
SAMPLED = 3
"""Entries looked into of each list and table, the last among them."""

MORE_SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 128},
        "rope_theta": 5e5, "rope_parameters": None, "sliding_window": 64, "hidden_act": "silu",
        "partial_rotary_factor": 1.0,
    },
    "qwen2": {
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "mscale": 1.0,
                            "mscale_all_dim": 1.0, "beta_fast": 32.0, "beta_slow": 1.0,
                            "original_max_position_embeddings": 128, "truncate": True},
        "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 3,
        "layer_types": None,
    },
    "gemma3": {"final_logit_softcapping": 30.0, "sliding_window_pattern": 6},
}  # fmt: skip


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a value lies in a document; of long lists and tables only some entries."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    for key in keys if len(keys) < 40 else [*keys[: SAMPLED - 1], keys[-1]]:
        yield (*at, key)
        if isinstance(value[key], (dict, list)):
            yield from paths(value[key], (*at, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> str:
    """The document as JSON with one value replaced."""
    document = copy.deepcopy(document)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(document)


def checkpoint(family: str, directory: Path) -> Path:
    tokenizer = (
        made_tokenizers.sentencepiece_like(prefix=True, size=600)
        if family == "gemma3"
        else made_tokenizers.byte_level("llama-bpe" if family == "llama" else "qwen2", size=300)
    )
    size = tokenizer.get_vocab_size()
    last = {"content": tokenizer.id_to_token(size - 1), "special": True}
    settings = {
        "bos_token": "<s>" if family == "gemma3" else "<|begin|>",
        "chat_template": [{"name": "default", "template": "x"}],
        "added_tokens_decoder": {str(size - 1): last},
    }
    model = checkpoints.build(
        family, vocab_size=size, num_hidden_layers=1, hidden_size=8, intermediate_size=8,
        num_attention_heads=2, num_key_value_heads=1, head_dim=4, query_pre_attn_scalar=4,
    )  # fmt: skip
    checkpoints.save(model, directory, lambda to: made_tokenizers.write(tokenizer, to, **settings))
    checkpoints.edit_config(directory, **MORE_SETTINGS[family])
    return directory


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("family", MORE_SETTINGS)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_one_wrong_value(family: str, name: str, tmp_path: Path) -> None:
    directory, output = checkpoint(family, tmp_path / "model"), tmp_path / "out.gguf"
    convert(directory, output)
    file = directory / name
    original = json.loads(file.read_text())
    places = list(paths(original))
    cases = [(place, value) for place in places for value in WRONG]
    for place, value in random.Random(0).sample(cases, min(len(cases), 250)):
        output.unlink(missing_ok=True)
        file.write_text(changed(original, place, value))
        try:
            convert(directory, output)
        except EdgeslmError as error:
            assert "\n" not in error.message, (place, value)
            assert not output.exists()
        except Exception as error:
            raise AssertionError(f"{name}: {place} = {value!r}") from error
        else:
            read_model(output)
