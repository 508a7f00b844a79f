from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.packager.evaluate import divergence


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


@given(
    rows=st.integers(1, 9),
    vocabulary=st.sampled_from([2, 271, 30_000]),
    scale=st.floats(0.01, 20),
    shift=st.floats(-500, 500),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=60)
def test_every_figure_is_what_the_definition_says(
    rows: int, vocabulary: int, scale: float, shift: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    reference, model = random.normal(shift, scale, (2, rows, vocabulary)).astype(np.float32)
    targets = random.integers(vocabulary, size=rows)
    found = divergence.compare(reference, model, targets)
    log_p, log_q = _log_softmax(reference), _log_softmax(model)
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    np.testing.assert_allclose(found.divergence, expected, rtol=2e-5, atol=2e-5)
    each = np.arange(rows)
    np.testing.assert_allclose(found.surprise, -log_q[each, targets], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        found.reference_surprise, -log_p[each, targets], rtol=1e-5, atol=1e-5
    )
    assert (found.same_top == (reference.argmax(1) == model.argmax(1))).all()
    np.testing.assert_allclose(divergence.surprise(model, targets), found.surprise)


def test_a_model_does_not_differ_from_itself() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (20, 50_000)).astype(np.float32)
    figures = divergence.compare(logits, logits, np.zeros(20, np.int64))
    assert np.abs(figures.divergence).max() < 1e-6
    assert divergence.perplexity_ratio(figures).value == 1
    assert divergence.share(figures.same_top) == divergence.Average(1, 0)


def _figures(values: list[float]) -> divergence.TokenFigures:
    array = np.array(values)
    return divergence.TokenFigures(array, array / 2, array, array > 1)


def test_statistics() -> None:
    summed = divergence.kl_divergence(_figures([0, 1, 2, 7]))
    assert (summed.mean, summed.median, summed.maximum) == (2.5, 1.5, 7)
    assert summed.p99 == pytest.approx(2 + 0.97 * 5)
    assert summed.standard_error == pytest.approx(np.std([0, 1, 2, 7], ddof=1) / 2)
    ratio = divergence.perplexity_ratio(_figures([0, 2, 4]))
    assert ratio.value == pytest.approx(np.e)
    assert ratio.standard_error == pytest.approx(np.e / np.sqrt(3))
    assert divergence.perplexity(np.log([2, 8])).value == pytest.approx(4)


def test_one_answer_says_nothing_about_its_error() -> None:
    assert divergence.share(np.array([True])) == divergence.Average(1, None)
    half = divergence.share(np.array([True, False]))
    assert half == divergence.Average(0.5, pytest.approx(0.5))


def test_joined_figures_keep_their_order() -> None:
    joined = divergence.join([_figures([1, 2]), _figures([3])])
    assert joined.divergence.tolist() == [1, 2, 3]
    assert joined.same_top.tolist() == [False, True, True]
