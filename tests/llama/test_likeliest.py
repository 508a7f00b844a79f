"""What a model says next, as figures that another machine can be held to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeslm.errors import NativeFailure
from edgeslm.gguf.reader import read_header
from edgeslm.llama.likeliest import answers, divergence, make_probe, probing_context
from edgeslm.llama.model import Model, ModelOptions
from edgeslm.records import LikelyTokens, Probe, from_json, to_json
from edgeslm.testing import tiny_gguf


@pytest.fixture(scope="module")
def probe(tiny_model: Path) -> Probe:
    with Model(tiny_model) as model:
        made = make_probe(model)
    assert made is not None
    return made


def ask(path: Path, probe: Probe) -> list[tuple[int, float]]:
    options = ModelOptions(trusted=True)
    with Model(path, options) as model, probing_context(model, threads=1) as context:
        return list(answers(context, probe))


def test_a_model_agrees_with_itself(tiny_model: Path, probe: Probe) -> None:
    found = ask(tiny_model, probe)
    assert [token for token, _ in found] == list(probe.continuation)
    assert all(abs(each) < 1e-6 for _, each in found)


def test_it_is_the_same_each_time_and_through_json(tiny_model: Path, probe: Probe) -> None:
    with Model(tiny_model) as model:
        assert make_probe(model) == probe
    assert from_json(Probe, json.loads(json.dumps(to_json(probe)))) == probe
    assert len(probe.continuation) == len(probe.likeliest) == 16
    for each in probe.likeliest:
        assert list(each.log_probabilities) == sorted(each.log_probabilities, reverse=True)


def test_another_model_differs(probe: Probe, tmp_path: Path) -> None:
    other = tiny_gguf(tmp_path / "other.gguf", context_length=512, seed=3)
    found = ask(other, probe)
    assert np.mean([each for _, each in found]) > 0.2
    assert [token for token, _ in found] != list(probe.continuation)


def test_what_is_no_number_is_told(probe: Probe, tmp_path: Path) -> None:
    damaged = tiny_gguf(tmp_path / "damaged.gguf", context_length=512)
    norm = next(each for each in read_header(damaged).tensors if each.name == "output_norm.weight")
    with damaged.open("r+b") as file:
        file.seek(norm.offset)
        file.write(np.float32("nan").tobytes())

    said = r"damaged\.gguf: computes no valid probabilities"
    options = ModelOptions(trusted=True)
    with Model(damaged, options) as model, pytest.raises(NativeFailure, match=said):
        make_probe(model)
    with pytest.raises(NativeFailure, match=said):
        ask(damaged, probe)


def test_divergence_is_that_of_the_listed_tokens_and_the_rest() -> None:
    there = np.log([0.5, 0.25, 0.125, 0.125])
    here = np.log([0.25, 0.5, 0.2, 0.05])
    listed = LikelyTokens((0, 1), tuple(there[:2]))
    expected = 0.5 * np.log(2) + 0.25 * np.log(0.5) + 0.25 * np.log(0.25 / 0.25)
    assert divergence(listed, here) == pytest.approx(expected)
    assert divergence(listed, there) == pytest.approx(0)
    everything = replace(listed, tokens=(0, 1, 2, 3), log_probabilities=tuple(there))
    full = float((np.exp(there) * (there - here)).sum())
    assert divergence(everything, here) == pytest.approx(full, abs=1e-6)
