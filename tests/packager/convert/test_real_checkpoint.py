"""A real chat model, rebuilt as a checkpoint, converts to the same model again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from mixed_strings import mixed_strings
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from edgeslm.packager.convert import convert

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[3] / "scripts" / "make_checkpoint"
TEXT = (
    "The capital of France is Paris. Once upon a time, in a small workshop at the edge of the "
    "city, there lived a machine called Seven; it had 3 arms, 12 brushes and no idea what "
    "colour was for. Every morning the old woman who owned the shop came in and lit the stove."
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face directory in float32."""
    source = os.environ.get("EDGESLM_SMOLLM2_GGUF")
    if source is None:
        pytest.skip("EDGESLM_SMOLLM2_GGUF does not name the SmolLM2 GGUF file")
    directory = tmp_path_factory.mktemp("smollm2")
    subprocess.run([sys.executable, str(SCRIPT), source, str(directory)], check=True)
    return directory


@pytest.fixture(scope="module")
def converted(checkpoint: Path) -> Path:
    result = convert(checkpoint, checkpoint / "model.gguf", type="F32")
    assert (result.architecture, result.parameters) == ("llama", 134_515_008)
    return result.path


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Any:
    return Tokenizer.from_file(str(checkpoint / "tokenizer.json"))


def test_logits(checkpoint: Path, converted: Path, tokenizer: Any) -> None:
    tokens = tokenizer.encode(TEXT).ids[:64]
    assert len(tokens) == 64
    model = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager").eval()
    with torch.no_grad():
        theirs = model(torch.tensor([tokens])).logits[0].numpy()
    assert oracle.relative_difference(oracle.logits(converted, tokens), theirs) < 1e-4


@pytest.mark.parametrize("parse_special", [True, False])
def test_token_ids(converted: Path, tokenizer: Any, parse_special: bool) -> None:
    texts = mixed_strings(1000, ("<|im_start|>", "<|im_end|>"), seed=5)
    tokenizer.encode_special_tokens = not parse_special
    theirs = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    with oracle.loaded(converted, vocabulary_only=True) as model:
        ours = oracle.encode_all(model, texts, add_special=True, parse_special=parse_special)
    assert ours == theirs
