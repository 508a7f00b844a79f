"""Recipes: the same after saving and loading, and every slip of a hand gets its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeslm.errors import InvalidRecipe, NotFound, Unsupported
from edgeslm.gguf.reader import read_header
from edgeslm.gguf.types import tensor_type
from edgeslm.llama.quantizer import QuantizeOptions, quantizable_tensors, quantize_file
from edgeslm.packager.quantize.recipe import (
    MadeFor,
    Recipe,
    Replay,
    Rule,
    compress,
    load_recipe,
    recipe_text,
    save_recipe,
)
from edgeslm.packager.quantize.types import runnable_types
from edgeslm.testing import tiny_gguf

GOOD = """\
schema = "edgeslm.recipe/1"
name = "mine"

[made_for]
model = "Tiny"
size_bytes = 90000000

[replay]
encoder = "error-feedback"
damping = 0.1
seed = 7

[[rule]]
tensors = "token_embd.weight"
type = "q5_1"

[[rule]]
tensors = "blk.{0..1}.*.weight"
type = "Q4_0"
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Widths that are multiples of 256 and others that are not."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    return tiny_gguf(path, width=96, feed_forward=256, heads=3)


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_a_recipe_is_read(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path, GOOD)) == Recipe(
        "mine",
        (
            Rule("token_embd.weight", tensor_type("Q5_1")),
            Rule("blk.{0..1}.*.weight", tensor_type("Q4_0")),
        ),
        MadeFor(model="Tiny", size_bytes=90_000_000),
        Replay("error-feedback", damping=0.1, seed=7),
    )


TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20)
HASH = st.none() | st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
NUMBER = st.none() | st.floats(0, allow_infinity=False)
COUNT = st.none() | st.integers(0, 2**62)
PATTERN = st.sampled_from(["**", "output.weight", r"blk.{0..3,7}.\*\\", 'a"b', "é\n"])
RECIPES = st.builds(
    Recipe,
    TEXT,
    st.lists(
        st.builds(Rule, PATTERN, st.sampled_from(runnable_types((256,)))), min_size=1, max_size=4
    ).map(tuple),
    st.builds(MadeFor, st.none() | TEXT, HASH, COUNT, NUMBER, NUMBER, NUMBER, HASH),
    st.builds(Replay, st.sampled_from(["ggml", "error-feedback"]), NUMBER, COUNT, COUNT),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(RECIPES)
def test_any_recipe_survives(tmp_path: Path, recipe: Recipe) -> None:
    save_recipe(tmp_path / "r.toml", recipe)
    assert load_recipe(tmp_path / "r.toml") == recipe


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("recipe/1", "recipe/9", ":1: schema is 'edgeslm.recipe/9'"),
        ('name = "mine"', "", "name must be a text"),
        ('name = "mine"', "name = 3", ":2: name must be a text"),
        ('model = "Tiny"', "modle = 3", ":5: made_for.modle is not a known key"),
        ("90000000", '"90M"', ":6: made_for.size_bytes must be a whole number"),
        ("90000000", "-1", ":6: made_for.size_bytes must not be negative"),
        ("0.1", "inf", ":10: replay.damping must not be negative"),
        ("error-feedback", "gptq", ":9: replay.encoder must be one of ggml, error-feedback"),
        ('"token_embd.weight"', "3", ":14: rule 1: tensors must be a text"),
        ('type = "Q4_0"', "", ":17: rule 2: type must be a text"),
        ("Q4_0", "Q4_Z", ":19: rule 2: type is 'Q4_Z', which is no tensor type"),
        ("{0..1}", "{0..1", ":18: rule 2: tensors has a { that belongs to nothing"),
        ('type = "Q4_0"', 'tipe = "Q4_0"', ":19: rule 2: tipe is not a known key"),
        ("[replay]", "[reply]", "reply is not a known key"),
        ("[[rule]]", "[[rules]]", "rules is not a known key"),
        ('type = "Q4_0"', 'type = "Q4_0', "at line 19"),
        ('model = "Tiny"', 'source_sha256 = "abc"', ":5: made_for.source_sha256 must be 64"),
    ],
)
def test_slips_get_their_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    with pytest.raises(InvalidRecipe) as caught:
        load_recipe(written(tmp_path, GOOD.replace(old, new)))
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("rules", ["rule = []", "rule = 3", "rule = [3]", ""])
def test_a_recipe_without_rules(tmp_path: Path, rules: str) -> None:
    text = GOOD[: GOOD.index("[made_for]")] + rules
    with pytest.raises(InvalidRecipe, match="rule"):
        load_recipe(written(tmp_path, text))


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "large").write_bytes(b"#" * 2_000_000)
    with pytest.raises(InvalidRecipe, match="bytes"):
        load_recipe(tmp_path / "large")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRecipe, match="TOML"):
        load_recipe(tmp_path / "binary")


def test_types_for_a_model_are_those_it_was_compressed_from(model: Path, tmp_path: Path) -> None:
    header, names = read_header(model), quantizable_tensors(model)
    chosen = {
        tensor.name: runnable_types(tensor.shape)[index % 8]
        for index, tensor in enumerate(header.tensors)
        if tensor.name in names
    }
    recipe = Recipe("mine", compress(chosen))
    assert recipe.types_for(header) == recipe.types_for(header, names) == chosen
    output = tmp_path / "out.gguf"
    quantize_file(model, output, QuantizeOptions("Q8_0", 1, overrides=tuple(chosen.items())))
    assert recipe_text(recipe).count("[[rule]]") == len(recipe.rules)


def test_a_tensor_without_a_rule(model: Path) -> None:
    recipe = Recipe("mine", (Rule("blk.**", tensor_type("Q8_0")),))
    with pytest.raises(InvalidRecipe, match=r"no rule is for tensor token_embd\.weight"):
        recipe.types_for(read_header(model))
    assert "token_embd.weight" not in recipe.types_for(read_header(model), ["blk.0.attn_q.weight"])


def test_a_type_that_does_not_fit(model: Path) -> None:
    recipe = Recipe("mine", (Rule("**", tensor_type("Q6_K")),))
    with pytest.raises(InvalidRecipe) as caught:
        recipe.types_for(read_header(model))
    assert "token_embd.weight" in caught.value.message
    assert "no multiple of 256" in caught.value.message
    assert "Q5_1" in (caught.value.hint or "")


def test_a_type_that_no_weight_has(model: Path) -> None:
    recipe = Recipe("mine", (Rule("**", tensor_type("Q8_1")),))
    with pytest.raises(Unsupported, match="Q8_1"):
        recipe.types_for(read_header(model))


def test_the_recipe_on_the_page_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "quantize.md").read_text()
    (text,) = re.findall(r"^```toml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    types = load_recipe(written(tmp_path, text)).types_for(
        read_header(tiny_gguf(tmp_path / "m.gguf"))
    )
    assert types["token_embd.weight"].name == "Q5_1"
    assert types["blk.1.attn_v.weight"].name == "Q8_0"
    assert types["blk.1.attn_k.weight"].name == "IQ4_NL"
    assert types["blk.1.ffn_up.weight"].name == "Q5_0"
