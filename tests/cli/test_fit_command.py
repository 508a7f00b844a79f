"""`edgeslm fit` as people and programs use it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.cli.fit import fit
from edgeslm.gguf.reader import read_header
from edgeslm.gguf.types import Field, ValueType
from edgeslm.gguf.writer import TensorSpec, write_gguf
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
        assert each["fits"] is (None if each["memory_free_bytes"] is None else True)
        assert 0 < each["peak_memory_bytes"] - content["weights_bytes"] < 300e6
        for name in ("decode_tokens_per_second", "prefill_tokens_per_second"):
            assert each[name]["low"] < each[name]["value"] < each[name]["high"]
    without = {each["id"] for each in content["targets"] if not each["decode_joules_per_token"]}
    assert without == {each.id for each in list_targets() if each.power.load_watts.value is None}


def test_the_table_ranks_boards(edgeslm: Edgeslm, config: Path) -> None:
    result = edgeslm(
        "fit", config, "--type", "Q4_K_M", "--target", "rpi4", "--target", "rpi5", "--battery", "10"
    )

    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].endswith("Estimated:") and "as Q4_K_M" in lines[0]
    assert [line.split()[0] for line in lines[3:5]] == ["rpi5-8gb", "rpi4-4gb"]
    assert "h at rest on the battery" in result.stdout


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


def test_boards_are_named_once_with_their_sizes(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["rpi5-4gb", "rpi5-8gb", "rpi5", "rpi5-4gb", "rpi-zero-2w"]
    names += ["orange-pi-5", "orange-pi-5-4gb"]

    fit([config], target=names, file_type="Q4_0", battery=6.0)

    lines = capsys.readouterr().out.splitlines()
    boards = [line.partition("  ")[0] for line in lines[3:6]]
    assert boards == ["orange-pi-5, 4gb", "rpi5 4gb, 8gb", "rpi-zero-2w"]
    assert lines[5].endswith(" / -")
    assert "-: no room in the context planned there" in lines[7]
    assert sum("h of writing, " in line for line in lines) == 2
    (zero,) = (line for line in lines if line.startswith("rpi-zero-2w: "))
    assert zero == "rpi-zero-2w: 10.0 h at rest on the battery"


def test_what_is_assumed_and_noted_is_told_with_types_too(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(json.dumps(CONFIG | {"architectures": ["NewForCausalLM"]}))

    fit([config], target=["rpi4"], types=True, threads=9)

    error = capsys.readouterr().err
    assert "NewForCausalLM is taken for a plain decoder" in error
    assert "rpi4-4gb has 4 cores" in error


def test_sizes_of_a_board_share_a_note(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit([config], target=["rpi4-4gb", "rpi4-8gb"], file_type="Q4_0", threads=9)

    (warning,) = (line for line in capsys.readouterr().err.splitlines() if "4 cores" in line)
    assert "rpi4 4gb, 8gb has 4 cores" in warning


def test_a_file_cannot_say_what_was_assumed_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_gguf(tmp_path / "model.gguf")
    header = read_header(model)
    fields = [
        Field(key, header.metadata_types[key][0], value, header.metadata_types[key][1])
        for key, value in header.metadata.items()
    ]
    fields = [field for field in fields if field.key != "general.file_type"]
    fields += [
        Field("edgeslm.assumed", ValueType.UINT32, 7),
        Field("general.file_type", ValueType.UINT32, 1024 + 2),
    ]
    written = tmp_path / "written.gguf"
    tensors = [TensorSpec(each.name, each.type, each.shape) for each in header.tensors]
    write_gguf(written, fields, tensors, lambda index: bytes(header.tensors[index].bytes))

    fit([written], target=["rpi5"], json=True)

    content = json.loads(capsys.readouterr().out)
    assert content["assumed"] is None
    assert content["type"] == "Q4_0"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--bits", "4", "--type", "Q4_0"), "exclude each other"),
        (("--bits", "20"), "out of reach"),
        (("--type", "Q9"), "no mix of types"),
        (("--target", "rpi9"), "rpi9"),
        (("--types",), "one model on one board"),
        (("--types", "--target", "rpi5", "--bits", "4"), "--types compares all types"),
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
