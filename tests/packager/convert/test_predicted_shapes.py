"""What is said of a checkpoint from its configuration alone is what its conversion gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoints
import made_tokenizers
import pytest

from edgeslm.estimate.shapes import header_of_config
from edgeslm.gguf.reader import read_header
from edgeslm.packager.convert.convert import convert


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen3", {"tie_word_embeddings": True}),
        ("gemma3", {}),
    ],
)
def test_the_tensors_are_those_of_the_converted_checkpoint(
    tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    model = checkpoints.build(family, **changes)
    folder = tmp_path / "checkpoint"
    tokenizer = made_tokenizers.byte_level("smollm", size=checkpoints.VOCABULARY - 1)
    checkpoints.save(model, folder, lambda to: made_tokenizers.write(tokenizer, to))
    convert(folder, tmp_path / "model.gguf", type="F16")
    written = read_header(tmp_path / "model.gguf")

    expected = header_of_config(folder).header

    assert expected.architecture == written.architecture
    shapes = {tensor.name: (tensor.shape, tensor.type.name) for tensor in written.tensors}
    assert {item.name: (item.shape, item.type.name) for item in expected.tensors} == shapes
    for name in ("block_count", "embedding_length", "attention.head_count_kv"):
        assert expected.hyper(name) == written.hyper(name)
