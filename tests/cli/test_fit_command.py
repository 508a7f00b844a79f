"""`edgeslm fit` as people and programs use it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.targets.loading import list_targets
from edgeslm.testing import tiny_gguf

Edgeslm = Callable[..., subprocess.CompletedProcess[str]]

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


def test_json_has_every_target_and_its_intervals(edgeslm: Edgeslm, config: Path) -> None:
    result = edgeslm("fit", config, "--bits", "4.5", "--json")

    assert result.returncode == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["schema"] == "edgeslm.fit/1"
    assert content["bits_per_weight"] == pytest.approx(4.5, abs=0.05)
    assert {each["id"] for each in content["targets"]} == {each.id for each in list_targets()}
    for each in content["targets"]:
        assert each["fits"] in (True, False, None)
        assert each["peak_memory_bytes"] > 60e6
        for name in ("decode_tokens_per_second", "prefill_tokens_per_second"):
            assert set(each[name]) == {"value", "low", "high"}
    assert {each["id"] for each in content["targets"] if not each["decode_joules_per_token"]}


def test_the_table_ranks_boards(edgeslm: Edgeslm, config: Path) -> None:
    result = edgeslm(
        "fit", config, "--type", "Q4_K_M", "--target", "rpi4", "--target", "rpi5", "--battery", "10"
    )

    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].endswith("Estimated:") and "as Q4_K_M" in lines[0]
    assert [line.split()[0] for line in lines[3:5]] == ["rpi5-8gb", "rpi4-4gb"]
    assert "h of writing on the battery" in result.stdout


def test_one_target_tells_what_it_rests_on(edgeslm: Edgeslm, config: Path) -> None:
    result = edgeslm("fit", config, "--type", "q8_0", "--target", "rpi4")

    assert "rests on: 8" in result.stdout
    assert "of sensura-san/llm-bench" in result.stdout


def test_types_are_ranked_for_a_target(edgeslm: Edgeslm, config: Path) -> None:
    result = edgeslm("fit", config, "--types", "--target", "rpi-zero-2w", "--json")

    types = json.loads(result.stdout)["types"]
    speeds = [each["decode_tokens_per_second"]["value"] for each in types if each["fits"]]
    assert speeds == sorted(speeds, reverse=True)
    assert {"Q4_0", "Q8_0", "F16"} <= {each["type"] for each in types}
    assert edgeslm("fit", config, "--types", "--target", "rpi5").returncode == 0


def test_a_gguf_file_and_several_models(edgeslm: Edgeslm, config: Path, tmp_path: Path) -> None:
    model = tiny_gguf(tmp_path / "model.gguf")

    result = edgeslm("fit", model, config, "--target", "rpi5", "--json")

    models = json.loads(result.stdout)["models"]
    assert [each["model"] for each in models] == [str(model), str(config)]
    assert models[1]["type"] == "F16"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--bits", "4", "--type", "Q4_0"), "exclude each other"),
        (("--bits", "20"), "out of reach"),
        (("--type", "Q9"), "no mix of types"),
        (("--target", "rpi9"), "rpi9"),
        (("--types",), "one model on one board"),
        (("--kv-type", "Q9"), "not a type for the KV cache"),
        (("--context", "0"), "at least one token"),
        (("--threads", "0"), "at least one thread"),
        (("--battery", "inf"), "watt hours"),
        (("--battery", "nan"), "watt hours"),
    ],
)
def test_mistakes_are_told(
    edgeslm: Edgeslm, config: Path, arguments: tuple[str, ...], says: str
) -> None:
    result = edgeslm("fit", config, *arguments)

    assert result.returncode not in (0, 1)
    assert says in result.stderr
    assert "Traceback" not in result.stderr
