"""The table of families, and the arithmetic of their positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from edgeslm.errors import Unsupported
from edgeslm.packager.convert.families import FAMILIES, family_for, table
from edgeslm.packager.convert.families.llama import Llama, interleaved
from edgeslm.packager.convert.rope import llama3_factors, read_rope


def test_each_architecture_has_one_family() -> None:
    with pytest.raises(ValueError, match="LlamaForCausalLM"):
        table([Llama(), Llama()])


def test_unknown_architectures_are_refused_with_a_list() -> None:
    with pytest.raises(Unsupported) as raised:
        family_for("MambaForCausalLM")
    assert all(name in str(raised.value.hint) for name in FAMILIES)


def test_halves_of_each_head_are_interleaved() -> None:
    rows = np.arange(12)
    assert interleaved(rows, 2).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    matrix = np.stack([rows, rows + 100], axis=1)
    assert interleaved(matrix, 2)[:, 1].tolist() == (interleaved(rows, 2) + 100).tolist()


@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_llama3_factors_are_those_of_transformers(head_dim: int) -> None:
    values = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(head_dim=head_dim, rope_parameters=values, max_position_embeddings=131072)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500_000.0 ** -(np.arange(0, head_dim, 2) / head_dim)
    factors = llama3_factors(read_rope({"rope_parameters": values}), head_dim, 131072)
    np.testing.assert_allclose(plain / factors, scaled.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "kind", "theta"),
    [
        ({}, "default", 10_000.0),
        ({"rope_theta": 5e5, "rope_scaling": None}, "default", 5e5),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "linear"}}, "linear", 5e5),
        ({"rope_scaling": {"rope_type": "yarn", "type": "old"}}, "yarn", 10_000.0),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 7.0}}, "yarn", 7.0),
        ({"rope_parameters": {"full_attention": {"rope_theta": 7.0}}}, "default", 7.0),
    ],
)
def test_both_generations_of_rope_settings(config: dict, kind: str, theta: float) -> None:
    rope = read_rope(config)
    assert (rope.kind, rope.theta) == (kind, theta)
