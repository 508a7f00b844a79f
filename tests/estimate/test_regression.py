"""Known factors are found again from noisy times; what nobody measured stays uncertain."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from edgeslm.estimate.regression import (
    Observation,
    Prior,
    Term,
    from_plain,
    most_probable,
    to_plain,
)

BANDWIDTH, CYCLES = 5e9, 2e-10


def priors(name: str) -> Prior:
    return {
        "bandwidth": Prior(math.log(8e9), 1.0),
        "cycles": Prior(math.log(1e-10), 1.0),
        "other": Prior(math.log(3.0), 0.5),
    }[name]


def terms(read: float, weights: float) -> tuple[Term, ...]:
    return (Term(read, (("bandwidth", -1),)), Term(weights, (("cycles", 1),)))


def observations(noise: float, strays: int = 0) -> list[Observation]:
    random = np.random.default_rng(3)
    found = []
    for index in range(60):
        read, weights = random.uniform(1e8, 1e9), random.uniform(1e7, 1e9)
        seconds = read / BANDWIDTH + weights * CYCLES
        factor = math.exp(random.normal(0, noise)) * (5 if index < strays else 1)
        found.append(Observation(terms(read, weights), seconds * factor, max(noise, 0.01)))
    return found


def test_exact_times_give_the_factors() -> None:
    posterior = most_probable(observations(0.0), priors)

    factors = dict(zip(posterior.names, np.exp(posterior.mean), strict=True))
    assert factors["bandwidth"] == pytest.approx(BANDWIDTH, rel=1e-3)
    assert factors["cycles"] == pytest.approx(CYCLES, rel=1e-3)


def test_the_uncertainty_is_that_of_repeated_experiments() -> None:
    posterior = most_probable(observations(0.1), priors)
    predicted = posterior.predict(terms(5e8, 5e8))

    truth = 5e8 / BANDWIDTH + 5e8 * CYCLES
    assert abs(math.log(predicted.seconds / truth)) < 3 * predicted.deviation
    assert 0.1 / math.sqrt(60) < predicted.deviation < 0.03


def test_a_few_rows_that_stray_change_little() -> None:
    posterior = most_probable(observations(0.02, strays=4), priors)

    truth = 5e8 / BANDWIDTH + 5e8 * CYCLES
    assert posterior.predict(terms(5e8, 5e8)).seconds == pytest.approx(truth, rel=0.05)


def test_a_factor_that_nobody_measured_keeps_its_prior() -> None:
    posterior = most_probable(observations(0.02), priors)

    predicted = posterior.predict((Term(2.0, (("other", 1),)),))

    assert predicted.seconds == pytest.approx(6.0)
    assert predicted.deviation == pytest.approx(0.5)


def test_without_any_row_the_priors_speak() -> None:
    predicted = most_probable([], priors).predict(terms(8e9, 0.0))

    assert predicted.seconds == pytest.approx(1.0)
    assert predicted.deviation == pytest.approx(1.0)


def test_a_fit_survives_a_file() -> None:
    posterior = most_probable(observations(0.1), priors)

    again = from_plain(json.loads(json.dumps(to_plain(posterior))), priors)

    before, after = posterior.predict(terms(1e8, 1e9)), again.predict(terms(1e8, 1e9))
    assert after.seconds == pytest.approx(before.seconds, rel=1e-4)
    assert after.deviation == pytest.approx(before.deviation, rel=1e-2)
