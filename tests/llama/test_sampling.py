"""Each sampling option does what its name says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.errors import InvalidOption
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import Sampler, SamplingOptions

PLAIN = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


@pytest.fixture(scope="module")
def context(tiny_model: Path) -> Iterator[Context]:
    with Model(tiny_model) as model, Context(model, ContextOptions(length=256)) as opened:
        opened.prefill(model.tokenize("hello there"))
        yield opened


def _draws(context: Context, count: int, **options: object) -> list[int]:
    """Tokens drawn one after the other from the same logits."""
    sampler = Sampler(context.model, SamplingOptions(**(PLAIN | options)))  # type: ignore[arg-type]
    try:
        return [sampler.sample(context) for _ in range(count)]
    finally:
        sampler.close()


def test_a_bias_forbids_and_forces(context: Context) -> None:
    ranked = context.logits().argsort()[::-1].tolist()
    assert _draws(context, 1, logit_bias=((ranked[0], -100.0),)) == [ranked[1]]
    assert _draws(context, 1, logit_bias=((ranked[-1], 100.0),)) == [ranked[-1]]


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_penalties_turn_away_from_what_was_said(context: Context, name: str) -> None:
    assert len(set(_draws(context, 8))) == 1
    assert len(set(_draws(context, 8, **{name: 100.0}))) == 8


def test_frequency_counts_and_presence_does_not(context: Context) -> None:
    ranked = context.logits().argsort()[::-1]
    gap = float(context.logits()[ranked[0]] - context.logits()[ranked[1]])
    # three times a third and a bit of the gap: then the second is likelier
    drawn = _draws(context, 4, frequency_penalty=gap / 3 * 1.01)
    assert drawn == [ranked[0]] * 3 + [ranked[1]]
    assert set(_draws(context, 8, presence_penalty=gap / 3 * 1.01)) == {ranked[0]}


def test_dry_ends_a_loop(context: Context) -> None:
    assert len(set(_draws(context, 12))) == 1
    assert len(set(_draws(context, 12, dry_multiplier=10.0))) > 1
    kept = _draws(context, 6, dry_multiplier=10.0, dry_allowed_length=50)
    assert len(set(kept)) == 1


def test_xtc_leaves_the_obvious_out(context: Context) -> None:
    best = int(context.logits().argmax())
    heat = {"temperature": 1.0, "seed": 5}
    usual = Counter(_draws(context, 200, **heat))
    without = Counter(_draws(context, 200, **heat, xtc_probability=1.0, xtc_threshold=1e-6))
    assert usual[best] > 0
    assert without[best] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"presence_penalty": float("nan")},
        {"frequency_penalty": 101},
        {"dry_multiplier": -1},
        {"dry_base": 0.5},
        {"dry_allowed_length": -1},
        {"xtc_probability": 1.1},
        {"xtc_threshold": -0.1},
        {"repeat_window": 1 << 30},
        {"logit_bias": ((1, float("inf")),)},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOption):
        SamplingOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("token", [-1, 1 << 20])
def test_a_bias_for_a_token_that_is_not_there(context: Context, token: int) -> None:
    with pytest.raises(InvalidOption, match="logit-bias token"):
        _draws(context, 1, logit_bias=((token, 1.0),))


def test_the_likeliest_token_is_the_one_that_llamacpp_takes(tiny_model: Path) -> None:
    through_llamacpp = {"logit_bias": ((0, 0.0),)}  # it changes nothing, but is a step of its chain
    with Model(tiny_model) as model, Context(model, ContextOptions(length=256)) as opened:
        for number in range(20):
            opened.forget()
            opened.prefill([number + 1, 2 * number + 3])
            assert _draws(opened, 1) == _draws(opened, 1, **through_llamacpp)
