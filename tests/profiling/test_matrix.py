"""Matrix files: which cells they mean, and what is said about mistakes in them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import InvalidOption, UserError
from edgeslm.profiling.bench import keyed
from edgeslm.profiling.matrix import Cell, Matrix, load_matrix, only_hosts, parse_matrix
from edgeslm.profiling.variants import find_variants

PATH = Path("/somewhere/matrix.toml")
TYPES = ("original", "Q4_K_M", "Q8_0", "4.5", "3")
KV_TYPES = ("F16", "Q8_0", "Q4_0")
HOSTS = ("local", "pi4", "pi5")
AXES = ("model", "type", "context", "threads", "kv_type", "host")
NAMES = st.text("abcdefgh", min_size=1, max_size=4)


def some(values: tuple[Any, ...]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=1, unique=True)


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    axes = {
        "types": draw(some(TYPES)),
        "contexts": draw(some(("auto", 1024, 4096))),
        "threads": draw(some(("auto", 1, 4))),
        "kv_types": draw(some(KV_TYPES)),
        "hosts": draw(some(HOSTS)),
    }
    models = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    by_name = {"model": models, **dict(zip(AXES[1:], axes.values(), strict=True))}
    rules = [
        {name: draw(some(tuple(by_name[name]))) for name in draw(some(AXES))}
        for _ in range(draw(st.integers(0, 3)))
    ]
    return {
        "models": {name: f"{name}.gguf" for name in models},
        "axes": axes,
        "hosts": {name: {"address": f"ssh://pi@{name}.local:2222"} for name in HOSTS[1:]},
        "order": {
            "order": draw(st.sampled_from(("listed", "interleaved"))),
            "rounds": draw(st.integers(1, 3)),
        },
        "exclude": rules,
    }


def wanted(content: dict[str, Any]) -> set[tuple[Any, ...]]:
    """All combinations but those that a rule covers, each told in the simplest way."""
    axes = content["axes"]
    values = (list(content["models"]), *axes.values())

    def plain(value: Any) -> Any:
        return None if value == "auto" else value

    return {
        tuple(map(plain, each))
        for each in itertools.product(*values)
        if not any(
            all(value in rule[name] for name, value in zip(AXES, each, strict=True) if name in rule)
            for rule in content["exclude"]
        )
    }


def parts(cell: Cell) -> tuple[Any, ...]:
    return tuple(getattr(cell, name) for name in AXES)


@given(contents())
def test_cells_are_all_combinations_but_the_excluded_in_every_round(content: Any) -> None:
    expected = wanted(content)
    if not expected:
        with pytest.raises(UserError, match="leaves no cell"):
            parse_matrix(PATH, content)
        return
    matrix = parse_matrix(PATH, content)
    for number in range(1, content["order"]["rounds"] + 1):
        cells = [parts(cell) for cell in matrix.cells if cell.round == number]
        assert len(cells) == len(set(cells))
        assert set(cells) == expected
    assert set(matrix.hosts) == {cell.host for cell in matrix.cells}


@given(contents())
def test_reading_twice_gives_the_same_cells_and_keys(content: Any) -> None:
    if not wanted(content):
        return
    first, second = parse_matrix(PATH, content), parse_matrix(PATH, content)
    assert first == second
    keys = [first.key(cell, cell.model, "machine") for cell in first.cells]
    assert keys == [second.key(cell, cell.model, "machine") for cell in second.cells]
    assert len(set(keys)) == len(keys)


def matrix_of(**tables: Any) -> Matrix:
    return parse_matrix(PATH, {"models": {"a": "a.gguf", "b": "b.gguf"}, **tables})


def test_neighbours_differ_in_their_model_and_rounds_alternate() -> None:
    axes = {"types": ["Q4_0", "Q8_0"], "threads": [1, 2]}
    matrix = matrix_of(axes=axes, order={"rounds": 2})
    first = [cell for cell in matrix.cells if cell.round == 1]
    assert all(one.model != other.model for one, other in itertools.pairwise(first))
    second = [replace(cell, round=1) for cell in matrix.cells if cell.round == 2]
    assert second == first[::-1]
    listed = matrix_of(axes=axes, order={"order": "listed"})
    assert [cell.model for cell in listed.cells] == ["a"] * 4 + ["b"] * 4


def test_a_key_changes_with_all_that_changes_the_figures() -> None:
    matrix = matrix_of(axes={"types": ["original", 4.5]})
    plain, mix = matrix.cells[0], matrix.cells[2]
    assert (plain.bits, mix.bits) == (None, 4.5)
    keys = {
        matrix.key(plain, "one", "here"),
        matrix.key(plain, "another", "here"),
        matrix.key(plain, "one", "there"),
        *(
            matrix.key(replace(plain, **change), "one", "here")
            for change in ({"type": "Q8_0"}, {"threads": 4}, {"kv_type": "Q8_0"}, {"round": 2})
        ),
        matrix_of(runs={"repeats": 3}).key(plain, "one", "here"),
        matrix_of(runs={"depths": [0, 64]}).key(plain, "one", "here"),
        matrix_of(runs={"warm_up_seconds": 0}).key(plain, "one", "here"),
        matrix_of(runs={"most_repeats": 9}).key(plain, "one", "here"),
        matrix_of(hosts={"local": {"meter": "rapl"}}).key(plain, "one", "here"),
    }
    assert len(keys) == 12
    quick = matrix_of(quantize={"quick": True})
    assert quick.key(mix, "one", "here") != matrix.key(mix, "one", "here")
    assert quick.key(plain, "one", "here") == matrix.key(plain, "one", "here")
    assert matrix.key(replace(plain, model="renamed"), "one", "here") in keys


def test_a_key_names_the_calibration_by_its_content(tmp_path: Path, tiny_model: Path) -> None:
    def key(folder: str, words: str) -> str:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "words.txt").write_text(words)
        content = {
            "models": {"tiny": str(tiny_model)},
            "axes": {"types": [4.5]},
            "quantize": {"calibration": "words.txt"},
        }
        matrix = parse_matrix(tmp_path / folder / "matrix.toml", content)
        (found,) = keyed(matrix, matrix.cells, find_variants(matrix))
        return found.key

    assert key("here", "some words") == key("there", "some words")
    assert key("elsewhere", "other words") != key("nowhere", "some words")


def test_everything_a_file_may_say(tmp_path: Path) -> None:
    path = tmp_path / "matrix.toml"
    path.write_text(
        """
        schema = "edgeslm.matrix/1"
        [models]
        small = "folder/small.gguf"
        [axes]
        types = ["original", "q4_k", 4.50]
        contexts = ["auto", 2048]
        threads = [4]
        kv_types = ["q8_0"]
        hosts = ["local", "pi5"]
        [runs]
        prompt_tokens = 128
        generated_tokens = 32
        depths = [0, 512]
        repeats = 3
        most_repeats = 9
        warm_up_seconds = 1.5
        idle_seconds = 0
        budget_seconds = 60.5
        sustained_seconds = 30
        memory_limit = "512M"
        [order]
        order = "listed"
        rounds = 2
        cool_down_seconds = 5
        timeout_seconds = 100
        [quantize]
        calibration = "text.txt"
        [hosts.pi5]
        address = "pi5"
        edgeslm = "~/venv/bin/edgeslm"
        folder = "/data/models"
        target = "rpi5"
        meter = "none"
        ssh_config = "ssh.conf"
        [[exclude]]
        type = [4.5, "original"]
        host = "pi5"
        """
    )
    matrix = load_matrix(path)
    assert matrix.models == {"small": tmp_path / "folder" / "small.gguf"}
    assert {cell.type for cell in matrix.cells if cell.host == "pi5"} == {"Q4_K_M"}
    assert {cell.type for cell in matrix.cells} == {"original", "Q4_K_M", "4.5"}
    assert {cell.context for cell in matrix.cells} == {None, 2048}
    assert matrix.runs.memory_limit == 512_000_000
    assert matrix.runs.depths == (0, 512)
    options = matrix.options(matrix.cells[0])
    assert (options.repeats, options.most_repeats, options.warm_up_seconds) == (3, 9, 1.5)
    assert matrix.quantizing.calibration == tmp_path / "text.txt"
    assert matrix.hosts["pi5"].ssh_config == tmp_path / "ssh.conf"
    assert matrix.hosts["pi5"].meter == "none"
    assert matrix.hosts["pi5"].edgeslm == "~/venv/bin/edgeslm"
    assert {cell.host for cell in only_hosts(matrix, ["pi5"])} == {"pi5"}
    with pytest.raises(InvalidOption, match="no host 'pi4'") as caught:
        only_hosts(matrix, ["pi4"])
    assert caught.value.hint == "Did you mean pi5?"


@pytest.mark.parametrize(
    ("content", "words", "hint"),
    [
        ({"axes": {"typs": ["Q8_0"]}}, "axes.typs: no such key", "Did you mean types?"),
        ({"axis": {}}, "axis: no such key", "Did you mean axes?"),
        ({"runs": {"repeat": 3}}, "runs.repeat: no such key", "Did you mean repeats?"),
        ({"axes": {"types": ["Q4_K_N"]}}, "axes.types", "Q4_K_M"),
        ({"axes": {"types": "Q8_0"}}, "axes.types: must be a list", None),
        ({"axes": {"types": []}}, "axes.types: is an empty list", None),
        ({"axes": {"types": [4.5, "4.50"]}}, "twice", None),
        ({"axes": {"types": [True]}}, "axes.types: not a type", None),
        ({"axes": {"types": [99]}}, "not a width", None),
        ({"axes": {"types": ["copy"]}}, "COPY changes nothing", "original"),
        ({"axes": {"threads": [0]}}, "axes.threads", None),
        ({"axes": {"contexts": [1.5]}}, "axes.contexts", None),
        ({"axes": {"contexts": [64]}}, "context of 64 tokens is too short", "512"),
        ({"axes": {"kv_types": ["Q3_K"]}}, "axes.kv_types", "Q8_0"),
        ({"axes": {"hosts": ["pi"]}}, "axes.hosts: unknown: 'pi'", "local"),
        ({"axes": {"threads": list(range(1, 60000))}}, "cells; at most", None),
        ({"hosts": {"pi": {}}}, "hosts.pi.address: is missing", None),
        ({"hosts": {"pi": {"adress": "x"}}}, "hosts.pi.address: is missing", None),
        ({"hosts": {"pi": {"address": "-oProxyCommand=x"}}}, "no address for ssh", None),
        ({"hosts": {"pi": {"address": "a b"}}}, "no address for ssh", None),
        ({"hosts": {"pi": {"address": "ssh://-x"}}}, "no address for ssh", None),
        ({"hosts": {"local": {"address": "pi"}}}, "hosts.local.address: no such key", "meter"),
        ({"exclude": [{"types": "Q8_0"}]}, "exclude[0].types: no such key", "type"),
        ({"exclude": [{"type": "Q8_0"}]}, "is not on that axis", "original"),
        ({"exclude": [{}]}, "exclude[0]: is empty", None),
        ({"exclude": {"type": "original"}}, "[[exclude]]", None),
        ({"exclude": [{"type": "original"}]}, "leaves no cell", None),
        ({"runs": {"depths": [-1]}}, "runs.depths", None),
        ({"runs": {"idle_seconds": -1}}, "runs.idle_seconds", None),
        ({"runs": {"idle_seconds": float("nan")}}, "runs.idle_seconds", None),
        ({"runs": {"idle_seconds": 5000}}, "idle baseline", None),
        ({"runs": {"sustained_seconds": 1}}, "sustained", None),
        ({"runs": {"warm_up_seconds": 5000}}, "to warm up", None),
        ({"runs": {"most_repeats": 0}}, "runs.most_repeats", None),
        ({"runs": {"memory_limit": "much"}}, "runs.memory_limit: not a size", None),
        ({"runs": {"repeats": True}}, "runs.repeats", None),
        ({"order": {"order": "random"}}, "order.order", "interleaved"),
        ({"order": {"rounds": 1000}}, "order.rounds", None),
        ({"order": {"timeout_seconds": 0}}, "order.timeout_seconds", None),
        ({"quantize": {"quick": "yes"}}, "quantize.quick: must be true or false", None),
        ({"quantize": {"quick": True, "calibration": "t"}}, "uses no calibration", None),
        ({"models": {}}, "models: names no model", None),
        ({"models": {"a": 3}}, "models.a: must be a text", None),
        ({"models": "a.gguf"}, "models: must be a table", None),
        ({"schema": "edgeslm.matrix/2"}, "this version reads", None),
    ],
)
def test_mistakes_are_named_with_a_hint(
    content: dict[str, Any], words: str, hint: str | None
) -> None:
    with pytest.raises(UserError) as caught:
        matrix_of(**content)
    assert words in caught.value.message
    assert caught.value.message.startswith(f"{PATH}: ")
    assert caught.value.hint
    assert hint is None or hint in caught.value.hint


@pytest.mark.parametrize("text", ["models = [", "\x00", "a = " + "[" * 100_000])
def test_what_is_no_toml(text: str, tmp_path: Path) -> None:
    path = tmp_path / "matrix.toml"
    path.write_text(text)
    with pytest.raises(UserError, match="not a TOML file"):
        load_matrix(path)
