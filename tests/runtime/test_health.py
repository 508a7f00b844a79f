"""A new version is loaded and asked in a child: what it finds, and what becomes of its deaths."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeslm.errors import NativeFailure
from edgeslm.gguf.reader import read_header
from edgeslm.llama.likeliest import make_probe
from edgeslm.llama.model import Model
from edgeslm.records import LikelyTokens, Probe
from edgeslm.runtime.health import Answers, Demands, answer, check_health
from edgeslm.testing import tiny_gguf


@pytest.fixture(scope="module")
def probe(tiny_model: Path) -> Probe:
    with Model(tiny_model) as model:
        made = make_probe(model)
    assert made is not None
    return made


def child(code: str) -> list[str]:
    return [sys.executable, "-c", f"import os, json, signal, sys; {code}"]


def test_a_model_is_healthy_where_it_was_packed(tiny_model: Path, probe: Probe) -> None:
    health = check_health(tiny_model, probe)
    assert (health.healthy, health.problems, health.compared) == (True, (), True)
    found = health.answers
    assert found is not None
    assert found.divergence == pytest.approx(0, abs=1e-6)
    assert found.same == 1
    assert (found.tokens_per_second or 0) > 1
    assert 10e6 < (found.peak_bytes or 0) < 1e9
    assert found.load_seconds > 0


def test_another_model_of_the_same_shape_is_not(probe: Probe, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    tiny_gguf(other, context_length=512, seed=4)
    found = answer(other, probe, 1)
    assert found.divergence is not None
    assert found.divergence > probe.most_divergence


def say(**figures: float) -> list[str]:
    given = {"load_seconds": 1.0, "divergence": 0.0, "same": 1.0, "tokens_per_second": 10.0}
    return child(f"print(json.dumps({given | {'peak_bytes': 50_000_000} | figures!r}))")


@pytest.mark.parametrize(
    ("figures", "demands", "words"),
    [
        ({"divergence": 0.2}, Demands(), "otherwise than where it was packed: 0.200 nats"),
        ({"same": 0.5}, Demands(), "the same at 50% of the steps, 60% are asked for"),
        ({}, Demands(tokens_per_second=11), "too slow: 10.0 tokens/s, 11.0 are asked for"),
        ({}, Demands(memory_bytes=49_000_000), "50.0 MB, 49.0 MB are allowed"),
    ],
)
def test_each_demand_is_held_to(
    tiny_model: Path, probe: Probe, figures: dict[str, float], demands: Demands, words: str
) -> None:
    health = check_health(tiny_model, probe, demands, command=say(**figures))
    assert not health.healthy
    [problem] = health.problems
    assert words in problem
    assert isinstance(health.answers, Answers)
    met = Demands(tokens_per_second=9, memory_bytes=51_000_000)
    assert check_health(tiny_model, probe, met, command=say()).healthy


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGILL)", "SIGILL: the build of llama.cpp is for another"),
        ("os.abort()", "SIGABRT: llama.cpp gave up"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL: memory ran out"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV: native code failed"),
        ("sys.exit('no such thing')", "exit code 1: no such thing"),
        ("print('[1]')", "exit code 0"),
        ("print(json.dumps({'error': 'it hums'}))", "it hums"),
    ],
)
def test_a_child_that_dies_is_a_sentence(
    tiny_model: Path, probe: Probe, code: str, words: str
) -> None:
    health = check_health(tiny_model, probe, command=child(code))
    assert not health.healthy
    assert health.answers is None
    assert words in health.problems[0]


def test_a_child_that_never_answers(
    tiny_model: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeslm.runtime.health._PATIENCE_SECONDS", 0.3)
    health = check_health(tiny_model, probe, command=child("import time; time.sleep(60)"))
    assert "did not answer within" in health.problems[0]


def test_what_llama_cpp_refuses_is_a_sentence(tmp_path: Path, probe: Probe) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(100))
    health = check_health(bad, probe)
    assert not health.healthy
    assert "bad.gguf" in health.problems[0]


def test_a_probe_of_another_model_is_told(tiny_model: Path, probe: Probe) -> None:
    foreign = replace(probe, likeliest=(LikelyTokens((1 << 20,), (-1.0,)),) * 16)
    assert "probe is of another model" in check_health(tiny_model, foreign).problems[0]


def test_without_a_probe_it_is_only_seen_to_say_something(tiny_model: Path) -> None:
    found = answer(tiny_model, None, 1)
    assert (found.divergence, found.same) == (None, None)
    assert (found.tokens_per_second or 0) > 1


def test_without_a_probe_too_it_must_compute_numbers(tmp_path: Path) -> None:
    damaged = tiny_gguf(tmp_path / "damaged.gguf", context_length=512)
    norm = next(each for each in read_header(damaged).tensors if each.name == "output_norm.weight")
    with damaged.open("r+b") as file:
        file.seek(norm.offset)
        file.write(np.float32("nan").tobytes())
    with pytest.raises(NativeFailure, match="computes no valid probabilities"):
        answer(damaged, None, 1)
