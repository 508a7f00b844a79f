"""Fitting sums of products to measured times, with what is known beforehand, and how sure that is.

A time is a sum of terms, each a known coefficient times powers of unknown positive factors: bytes
over a bandwidth, operations times cycles over a clock. Each factor has a prior in its logarithm.
The most probable factors are found by Gauss-Newton steps on the logarithms of the times, with
Huber's weights against rows that stray; the curvature there gives the uncertainty of other sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STEPS = 30
_CLOSE = 1e-6
_STRAYS = 2.0
"""Residuals of more standard deviations than that count with less weight."""


class Prior(NamedTuple):
    """What is known of the logarithm of a factor before anything is measured."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Term:
    """`coefficient` times each named factor to its power."""

    coefficient: float
    powers: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Observation:
    """A time in seconds, of which terms it is the sum, and its relative error."""

    terms: tuple[Term, ...]
    seconds: float
    deviation: float


class Predicted(NamedTuple):
    """A time, and the standard deviation of its logarithm."""

    seconds: float
    deviation: float


@dataclass(frozen=True)
class Posterior:
    """What is known of the factors after the measurements.

    Attributes:
        names: The factors.
        mean: Logarithms, [factors].
        covariance: Of the logarithms, [factors, factors].
        priors: Of factors that no measurement was about.
    """

    names: tuple[str, ...]
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    priors: Callable[[str], Prior]

    def predict(
        self, terms: Sequence[Term], priors: Callable[[str], Prior] | None = None
    ) -> Predicted:
        """The sum of `terms`, and how uncertain the factors leave it.

        Args:
            terms: What is summed.
            priors: Of factors that no measurement was about, where more is known of them by now.
        """
        priors = priors or self.priors
        index = {name: place for place, name in enumerate(self.names)}
        slopes = np.zeros(len(self.names))
        others: dict[str, float] = {}
        values = []
        for term in terms:
            exponent = 0.0
            for name, power in term.powers:
                place = index.get(name)
                known = priors(name).mean if place is None else float(self.mean[place])
                exponent += power * known
            values.append(term.coefficient * math.exp(exponent))
        total = sum(values)
        for term, value in zip(terms, values, strict=True):
            for name, power in term.powers:
                slope = power * value / total
                if name in index:
                    slopes[index[name]] += slope
                else:
                    others[name] = others.get(name, 0.0) + slope
        variance = float(slopes @ self.covariance @ slopes)
        variance += sum((slope * priors(name).deviation) ** 2 for name, slope in others.items())
        return Predicted(total, math.sqrt(max(variance, 0.0)))


def most_probable(observations: Sequence[Observation], priors: Callable[[str], Prior]) -> Posterior:
    """The factors that explain `observations` best, given `priors`."""
    names = sorted({name for row in observations for term in row.terms for name, _ in term.powers})
    before = [priors(name) for name in names]
    expected = np.array([prior.mean for prior in before])
    precision = np.array([prior.deviation**-2 for prior in before])
    table = _table(observations, names)
    measured = np.log([row.seconds for row in observations]) if observations else np.zeros(0)
    deviations = np.array([row.deviation for row in observations])
    mean = expected.copy()
    normal = np.diag(precision)
    for _ in range(_STEPS):
        logarithms, slopes = _evaluate(table, mean)
        residuals = (measured - logarithms) / deviations
        weights = np.minimum(1.0, _STRAYS / np.maximum(np.abs(residuals), 1e-12)) / deviations**2
        weighted = slopes * weights[:, None]
        normal = slopes.T @ weighted + np.diag(precision)
        gradient = weighted.T @ (measured - logarithms) + precision * (expected - mean)
        step = np.linalg.solve(normal, gradient)
        mean += np.clip(step, -1.0, 1.0)
        if np.max(np.abs(step), initial=0.0) < _CLOSE:
            break
    return Posterior(tuple(names), mean, np.linalg.inv(normal), priors)


class _Table(NamedTuple):
    """All terms of all observations, one after the other."""

    rows: NDArray[np.intp]
    logarithms: NDArray[np.float64]
    powers: NDArray[np.float64]
    observations: int


def _table(observations: Sequence[Observation], names: Sequence[str]) -> _Table:
    index = {name: place for place, name in enumerate(names)}
    terms = [
        (row, term)
        for row, observation in enumerate(observations)
        for term in observation.terms
        if term.coefficient > 0
    ]
    powers = np.zeros((len(terms), len(names)))
    for place, (_, term) in enumerate(terms):
        for name, power in term.powers:
            powers[place, index[name]] += power
    return _Table(
        np.array([row for row, _ in terms], dtype=np.intp),
        np.log([term.coefficient for _, term in terms]) if terms else np.zeros(0),
        powers,
        len(observations),
    )


def _evaluate(table: _Table, mean: NDArray[np.float64]) -> tuple[Any, Any]:
    """Logarithms of the sums, [rows], and their slopes, [rows, factors]."""
    values = np.exp(table.logarithms + table.powers @ mean)
    totals = np.zeros(table.observations)
    np.add.at(totals, table.rows, values)
    slopes = np.zeros((table.observations, len(mean)))
    np.add.at(slopes, table.rows, table.powers * (values / totals[table.rows])[:, None])
    return np.log(totals), slopes


def to_plain(posterior: Posterior) -> dict[str, Any]:
    """A posterior as JSON; half of the symmetric covariance."""
    size = len(posterior.names)
    return {
        "names": list(posterior.names),
        "mean": [float(f"{value:.6g}") for value in posterior.mean],
        "covariance": [
            float(f"{posterior.covariance[row, column]:.4g}")
            for row in range(size)
            for column in range(row + 1)
        ],
    }


def from_plain(plain: Mapping[str, Any], priors: Callable[[str], Prior]) -> Posterior:
    """What `to_plain` wrote."""
    size = len(plain["names"])
    covariance = np.zeros((size, size))
    covariance[np.tril_indices(size)] = plain["covariance"]
    covariance += np.tril(covariance, -1).T
    return Posterior(tuple(plain["names"]), np.array(plain["mean"]), covariance, priors)
