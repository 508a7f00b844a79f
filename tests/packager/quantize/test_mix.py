"""The calibrated way, whole: from a budget to a file that runs, resumed, replayed."""

import shutil
import string

import numpy as np
import pytest

from edgeslm.errors import InvalidOption, InvalidRecipe, OutputFailure
from edgeslm.files import cache_folder
from edgeslm.gguf.reader import read_header
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.packager.evaluate import text
from edgeslm.packager.quantize import Effort, Wishes, mix, quantize, write
from edgeslm.packager.quantize.recipe import load_recipe
from edgeslm.targets.loading import load_target
from edgeslm.testing import tiny_gguf

RECIPE = 'schema = "edgeslm.recipe/1"\nname = "x"\n'


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    return tiny_gguf(
        path, layers=3, width=64, heads=2, feed_forward=256, weight_type="F16", context_length=128
    )


@pytest.fixture(scope="module")
def effort(tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text(letters(0, 6000))
    return Effort(calibration=text, sequences=24)


def letters(seed, count):
    """Text of all the characters a tiny model has tokens for, so that a little of it is enough."""
    return "".join(np.random.default_rng(seed).choice([*string.printable], count))


def logits(path, text):
    with Model(path) as loaded, Context(loaded, ContextOptions(length=128)) as context:
        context.prefill(loaded.tokenize(text))
        return context.logits().copy()


def divergence(reference, path):
    total = []
    for seed in range(12):
        p, q = (
            logits(file, letters(seed + 1, 60)).astype(np.float64) for file in (reference, path)
        )
        p, q = (x - np.log(np.exp(x - x.max()).sum()) - x.max() for x in (p, q))
        total.append((np.exp(p) * (p - q)).sum())
    return float(np.mean(total))


@pytest.mark.parametrize("size", [150_000, 180_000, 230_000])
def test_a_size_is_met_to_a_hair(model, effort, tmp_path, size):
    result = quantize(model, tmp_path / "out.gguf", wishes=Wishes(size_bytes=size), effort=effort)
    assert 0.99 * size <= result.file_bytes <= size
    assert result.predicted_kld > 0
    assert read_header(result.path).get("general.quantization_version") == 2


def test_more_bits_lose_less_and_are_expected_to(model, effort, tmp_path):
    found = []
    for bits in (4.0, 5.0, 6.5):
        result = quantize(model, tmp_path / f"{bits}", wishes=Wishes(bits=bits), effort=effort)
        found.append((result.predicted_kld, divergence(model, result.path)))
    assert found == sorted(found, reverse=True)
    assert [real for _, real in found] == sorted((real for _, real in found), reverse=True)
    for predicted, real in found:
        assert predicted / 4 < real < predicted * 4


def test_calibration_beats_no_calibration(model, effort, tmp_path):
    wishes = Wishes(bits=4.6)
    ours = quantize(model, tmp_path / "ours.gguf", wishes=wishes, effort=effort).path
    quick = quantize(model, tmp_path / "quick.gguf", wishes=wishes, effort=Effort(quick=True)).path
    assert divergence(model, ours) < divergence(model, quick)


def test_a_recipe_gives_the_same_bytes(model, effort, tmp_path):
    recipe = tmp_path / "mix.toml"
    first = quantize(
        model,
        tmp_path / "first.gguf",
        wishes=Wishes(bits=4.8),
        effort=effort,
        keep_recipe=recipe,
    )
    loaded = load_recipe(recipe)
    assert loaded.made_for.predicted_kld == pytest.approx(first.predicted_kld)
    assert loaded.replay.encoder == "error-feedback"
    again = quantize(model, tmp_path / "again.gguf", recipe=recipe, effort=effort)
    assert again.path.read_bytes() == first.path.read_bytes()


def test_other_threads_give_the_same_bytes(model, effort, tmp_path):
    one = quantize(model, tmp_path / "one.gguf", wishes=Wishes(bits=5), effort=effort).path
    more = Effort(calibration=effort.calibration, sequences=24, threads=3)
    shutil.rmtree(cache_folder("quantize"))
    three = quantize(model, tmp_path / "three.gguf", wishes=Wishes(bits=5), effort=more).path
    assert one.read_bytes() == three.read_bytes()


class _Killed(Exception):
    pass


@pytest.mark.parametrize("moment", [1, 7, 20])
def test_an_interrupted_encoding_goes_on(model, effort, tmp_path, monkeypatch, moment):
    whole = quantize(model, tmp_path / "whole.gguf", wishes=Wishes(bits=5.5), effort=effort)
    encoded = []
    encode_as = write.encode_as

    def dying(*args, **kwargs):
        encoded.append(1)
        if len(encoded) > moment:
            raise _Killed
        return encode_as(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(write, "encode_as", dying)
        with pytest.raises(_Killed):
            quantize(model, tmp_path / "part.gguf", wishes=Wishes(bits=5.5), effort=effort)
        assert not (tmp_path / "part.gguf").exists()
        calls = []
        patch.setattr(
            write, "encode_as", lambda *args, **kw: calls.append(1) or encode_as(*args, **kw)
        )
        result = quantize(model, tmp_path / "part.gguf", wishes=Wishes(bits=5.5), effort=effort)
    assert len(calls) + moment == 22
    assert result.path.read_bytes() == whole.path.read_bytes()


@pytest.fixture
def nothing_long(monkeypatch):
    """Fails whoever begins to calibrate."""
    monkeypatch.setattr(mix, "session", None)


def test_the_source_is_never_overwritten(model, effort, tmp_path, nothing_long):
    source = shutil.copy(model, tmp_path / "source.gguf")
    with pytest.raises(InvalidOption, match="the source itself"):
        quantize(source, source, wishes=Wishes(bits=5), effort=effort)
    assert source.read_bytes() == model.read_bytes()


@pytest.mark.parametrize("where", ["output", "recipe"])
def test_a_place_that_cannot_be_written_is_known_first(
    model, effort, tmp_path, nothing_long, where
):
    places = {"output": tmp_path / "a.gguf", "recipe": tmp_path / "a.toml"}
    places[where] = tmp_path / "no" / "such"
    with pytest.raises(OutputFailure, match="no folder"):
        quantize(
            model,
            places["output"],
            wishes=Wishes(bits=5),
            effort=effort,
            keep_recipe=places["recipe"],
        )
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_for_another_model_is_known_first(model, effort, tmp_path, nothing_long):
    path = tmp_path / "mix.toml"
    path.write_text(f'{RECIPE}[[rule]]\ntensors = "blk.*.ffn_up.weight"\ntype = "Q4_0"\n')
    with pytest.raises(InvalidRecipe, match="no rule is for"):
        quantize(model, tmp_path / "out.gguf", recipe=path, effort=effort)


def test_a_quick_recipe_is_replayed_quickly(model, tmp_path):
    recipe = tmp_path / "mix.toml"
    quick = Effort(quick=True)
    first = quantize(
        model, tmp_path / "a.gguf", wishes=Wishes(bits=5), effort=quick, keep_recipe=recipe
    )
    again = quantize(model, tmp_path / "b.gguf", recipe=recipe)
    assert again.path.read_bytes() == first.path.read_bytes()


def test_a_recipe_from_another_text_is_said_to_give_other_bytes(model, effort, tmp_path):
    recipe = tmp_path / "mix.toml"
    wishes = Wishes(bits=5)
    quantize(model, tmp_path / "a.gguf", wishes=wishes, effort=effort, keep_recipe=recipe)
    fewer = Effort(calibration=effort.calibration, sequences=4)
    again = quantize(model, tmp_path / "b.gguf", recipe=recipe, effort=fewer)
    assert any("another calibration text" in warning for warning in again.warnings)


def test_a_type_takes_no_calibration(model, effort, tmp_path):
    for options in ({"effort": effort}, {"effort": Effort(quick=True)}, {"keep_recipe": tmp_path}):
        with pytest.raises(InvalidOption, match="a type is"):
            quantize(model, tmp_path / "a.gguf", file_type="Q4_0", **options)


def test_two_float_types_can_be_mixed_quickly(model, tmp_path):
    recipe = tmp_path / "mix.toml"
    recipe.write_text(
        f'{RECIPE}[[rule]]\ntensors = "blk.*.ffn_up.weight"\ntype = "BF16"\n'
        '[[rule]]\ntensors = "**"\ntype = "F16"\n'
    )
    result = quantize(model, tmp_path / "a.gguf", recipe=recipe, effort=Effort(quick=True))
    assert result.types["BF16"] == 3


def test_experts_are_weighed_by_their_role(model, effort, tmp_path, monkeypatch):
    """Their inputs are not watched: each expert sees other tokens."""
    from edgeslm.errors import Unsupported
    from edgeslm.packager.quantize import judge

    def unknown(_):
        raise Unsupported("no gradients for the family other")

    watched = judge._form_file

    def forget(folder, name):
        return watched(folder, name) if "ffn_up" not in name else folder / "never"

    monkeypatch.setattr(judge, "shape_of", unknown)
    monkeypatch.setattr(judge, "_watch", lambda *_: None)
    monkeypatch.setattr(judge, "_form_file", forget)
    result = quantize(model, tmp_path / "a.gguf", wishes=Wishes(bits=5), effort=effort)
    assert result.predicted_kld > 0


def test_what_the_model_says_is_drawn_once(model, tmp_path, monkeypatch):
    effort = Effort(sequences=2)
    first = quantize(model, tmp_path / "a.gguf", wishes=Wishes(bits=5), effort=effort)
    monkeypatch.setattr(text, "sample", None)
    again = quantize(model, tmp_path / "b.gguf", wishes=Wishes(bits=5), effort=effort)
    assert again.path.read_bytes() == first.path.read_bytes()


def test_without_a_text_the_model_reads_what_it_says(model, tmp_path):
    result = quantize(
        model, tmp_path / "out.gguf", wishes=Wishes(bits=5), effort=Effort(sequences=2)
    )
    assert result.predicted_kld > 0


def test_a_family_without_gradients_is_weighed_by_its_inputs(model, effort, tmp_path, monkeypatch):
    from edgeslm.errors import Unsupported
    from edgeslm.packager.quantize import judge

    def unknown(_):
        raise Unsupported("no gradients for the family other")

    monkeypatch.setattr(judge, "shape_of", unknown)
    other = Effort(calibration=effort.calibration, sequences=24)
    result = quantize(model, tmp_path / "out.gguf", wishes=Wishes(bits=4.6), effort=other)
    assert any("no gradients" in warning for warning in result.warnings)
    quick = quantize(model, tmp_path / "q.gguf", wishes=Wishes(bits=4.6), effort=Effort(quick=True))
    assert divergence(model, result.path) < divergence(model, quick.path)


def test_a_speed_is_met_by_the_prediction(model, effort, tmp_path):
    from edgeslm.estimate.prediction import predict

    target = load_target("rpi4-4gb")
    fastest = predict(read_header(model), target, context_length=128).decode_tokens_per_second
    wishes = Wishes(min_tokens_per_second=1.2 * fastest.value, context_length=128)
    result = quantize(model, tmp_path / "out.gguf", wishes=wishes, target=target, effort=effort)
    reached = predict(read_header(result.path), target, context_length=128)
    assert reached.decode_tokens_per_second.value >= wishes.min_tokens_per_second


def test_an_explanation_is_there_when_asked_for(model, effort, tmp_path):
    asked = {"wishes": Wishes(bits=5), "effort": effort}
    result = quantize(model, tmp_path / "out.gguf", explain=True, **asked)
    assert result.explanation.total.loss == pytest.approx(result.predicted_kld)
    assert result.explanation.marginal > 0
    assert quantize(model, tmp_path / "out.gguf", **asked).explanation is None


def test_a_text_that_is_too_short(model, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("too short")
    with pytest.raises(InvalidOption, match="calibration text"):
        quantize(
            model,
            tmp_path / "out.gguf",
            wishes=Wishes(bits=5),
            effort=Effort(calibration=short),
        )


@pytest.mark.parametrize("given", [{"sequences": 0}, {"sequences": 10**6}])
def test_efforts_out_of_range(given):
    with pytest.raises(InvalidOption):
        Effort(**given)


def test_sizes_that_nothing_reaches_are_refused_before_anything_long(model, tmp_path, monkeypatch):
    monkeypatch.setattr(mix, "session", None)
    with pytest.raises(InvalidOption, match="too small"):
        quantize(model, tmp_path / "out.gguf", wishes=Wishes(bits=1.2))
