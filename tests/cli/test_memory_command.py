"""The memory plan as a table and as JSON, and what run and serve do about it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.estimate.memory import SERVER_BYTES, plan_memory
from edgeslm.gguf.reader import read_header
from edgeslm.testing import tiny_gguf

Edgeslm = Callable[..., subprocess.CompletedProcess[str]]
RUN = ("--raw", "-p", "in the", "-n", 2, "--temperature", 0, "--threads", 1)


def _needed(model: Path, **settings: object) -> int:
    header = read_header(model)
    return plan_memory(header, **{"context_length": 2048, **settings}).needed_bytes  # type: ignore[arg-type]


def test_the_plan_is_shown(edgeslm: Edgeslm, tiny_model: Path) -> None:
    shown = edgeslm("inspect", tiny_model, "--memory", "--context", 1024, "--kv-type", "q8_0")

    assert shown.returncode == 0, shown.stderr
    assert "1024 tokens in Q8_0" in shown.stdout
    assert "it fits" in shown.stdout
    assert "memory (estimated)" in shown.stdout


def test_the_plan_is_json(edgeslm: Edgeslm, tiny_model: Path) -> None:
    told = edgeslm("inspect", tiny_model, "--memory", "--slots", 3, "--ubatch", 64, "--json")

    memory = json.loads(told.stdout)["memory"]
    assert memory["provenance"] == "estimated"
    assert memory["settings"] == {
        "context": 2048,
        "kv_type": "F16",
        "ubatch": 64,
        "slots": 3,
        "rows": 1,
    }
    planned = plan_memory(read_header(tiny_model), context_length=3 * 2048, ubatch=64, sequences=3)
    assert memory["plan"]["kv_bytes"] == planned.kv_bytes
    assert memory["plan"]["needed_bytes"] == planned.needed_bytes + SERVER_BYTES
    assert memory["fits"] is True
    assert memory["fitting"]["steps"] == []


def test_a_board_has_defaults_and_free_memory(edgeslm: Edgeslm, tiny_model: Path) -> None:
    told = edgeslm("inspect", tiny_model, "--memory", "--target", "rpi-zero-2w", "--json")

    memory = json.loads(told.stdout)["memory"]
    assert memory["free_bytes"] < 512e6
    assert "Zero 2" in memory["free"]


def test_what_would_fit_on_a_board_is_said(edgeslm: Edgeslm, tiny_model: Path) -> None:
    asked = ("inspect", tiny_model, "--memory", "--target", "rpi-zero-2w", "--context", 4_000_000)

    shown, told = edgeslm(*asked), edgeslm(*asked, "--json")

    assert shown.returncode == 0
    assert "does not fit" in shown.stdout
    assert "to fit: It fits with --context" in shown.stdout
    memory = json.loads(told.stdout)["memory"]
    assert memory["fits"] is False
    assert memory["fitting"] is None
    assert "--context" in memory["hint"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--context", 512), "not asked for"),
        (("--memory", "--slots", 0), "at least 1"),
        (("--memory", "--kv-type", "Q9"), "Q9"),
    ],
)
def test_mistakes_are_named(
    edgeslm: Edgeslm, tiny_model: Path, arguments: tuple[object, ...], words: str
) -> None:
    done = edgeslm("inspect", tiny_model, *arguments)

    assert done.returncode == 2
    assert words in done.stderr


def test_run_says_nothing_where_all_fits(edgeslm: Edgeslm, tiny_model: Path) -> None:
    done = edgeslm("run", tiny_model, *RUN)

    assert done.returncode == 0, done.stderr
    assert "memory:" not in done.stderr


def test_run_says_what_it_changed(edgeslm: Edgeslm, tmp_path: Path) -> None:
    tiny_model = tiny_gguf(tmp_path / "m.gguf", width=64, context_length=4096)
    room = _needed(tiny_model, ubatch=32, kv_type="Q8_0", context_length=1024)

    done = edgeslm("run", tiny_model, *RUN, "--ram", room)

    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("memory: ")]
    assert "may be used: what --ram allows" in lines[0]
    assert [line.split(":")[1] for line in lines[1:]] == [
        " ubatch 512 -> 32",
        " KV cache F16 -> Q8_0",
        " context 2048 -> 1024",
    ]


def test_what_was_asked_for_is_not_changed(edgeslm: Edgeslm, tiny_model: Path) -> None:
    room = _needed(tiny_model, ubatch=32, kv_type="Q8_0", context_length=1024)

    done = edgeslm("run", tiny_model, *RUN, "--ram", room, "--context", 2048)

    assert done.returncode == 1
    assert done.stdout == ""
    assert f"{tiny_model}: " in done.stderr
    assert "--context 2048" in done.stderr
    assert "hint: It fits with --context 1024." in done.stderr


def test_a_model_that_does_not_fit_is_not_loaded(edgeslm: Edgeslm, tiny_model: Path) -> None:
    for verb, arguments in (("run", RUN), ("chat", ()), ("serve", ("--port", 0))):
        done = edgeslm(verb, tiny_model, *arguments, "--ram", "30M")

        assert done.returncode == 1, verb
        assert "of memory are needed" in done.stderr
        assert "hint: Free " in done.stderr


def test_a_context_that_is_none_is_refused_as_such(edgeslm: Edgeslm, tiny_model: Path) -> None:
    done = edgeslm("run", tiny_model, *RUN, "--context", 2**40)

    assert done.returncode == 2
    assert "at most" in done.stderr
