"""Models without meaning that llama.cpp truly runs, in every type a quantizer may choose."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgeslm.gguf.types import tensor_type
from edgeslm.gguf.validation import read_model
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model, ModelOptions
from edgeslm.profiling.calibrate import TYPES
from edgeslm.profiling.synthetic import Shape, write_synthetic

SMALL = Shape(layers=1, width=256, feed_forward=512, heads=4, kv_heads=2, head_width=64)


@pytest.mark.parametrize("name", TYPES)
def test_every_type_runs_and_gives_numbers(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.gguf"
    write_synthetic(path, SMALL, tensor_type(name))

    options = ContextOptions(length=256, batch=8, ubatch=8)
    with Model(path, ModelOptions(trusted=True)) as model, Context(model, options) as context:
        context.prefill([3, 4, 5])
        context.step(6, 3)
        logits = context.logits()
        assert np.isfinite(logits).all()
        assert logits.std() > 0


def test_weights_are_counted_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shape = dataclasses.replace(SMALL, layers=3)
    write_synthetic(path, shape, tensor_type("Q4_K"))

    matrices = [item for item in read_model(path).tensors if len(item.shape) > 1]
    assert {item.type.name for item in matrices} == {"Q4_K"}
    assert sum(item.elements for item in matrices) == shape.read_weights


def test_a_type_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no multiple"):
        write_synthetic(
            tmp_path / "m.gguf", dataclasses.replace(SMALL, width=96), tensor_type("Q4_K")
        )
    assert not list(tmp_path.iterdir())
