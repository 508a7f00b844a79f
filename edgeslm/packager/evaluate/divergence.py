"""How two models' predictions differ, token by token, and what that comes to.

With P the reference's probabilities and Q the model's, the KL divergence of one prediction is
sum P * (log P - log Q), in nats: how much likelier, on average, the reference finds what it
expects than the model does. It is zero only where both say the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SLAB = 1 << 17
"""Numbers worked on at once: half a megabyte, so that intermediate results stay in the cache."""


@dataclass(frozen=True)
class Average:
    """A mean and how far it may be off, None where nothing is known about that.

    The standard error takes the predictions for independent. Neighbours are not quite, so it
    is a little too small.
    """

    value: float
    standard_error: float | None


@dataclass(frozen=True)
class KLDivergence:
    """KL divergence of the model's predictions from the reference's, in nats per token."""

    mean: float
    standard_error: float
    median: float
    p99: float
    maximum: float


@dataclass(frozen=True)
class TokenFigures:
    """One number per prediction, in nats.

    Attributes:
        surprise: -log Q of the token that truly came.
        reference_surprise: -log P of it.
        divergence: KL divergence of Q from P.
        same_top: Whether both find the same token likeliest.
    """

    surprise: NDArray[np.float64]
    reference_surprise: NDArray[np.float64]
    divergence: NDArray[np.float64]
    same_top: NDArray[np.bool_]


def compare(
    reference: NDArray[np.float32], logits: NDArray[np.float32], targets: NDArray[np.int64]
) -> TokenFigures:
    """What two models say about the same tokens.

    Args:
        reference: [rows, vocabulary] logits of the reference.
        logits: [rows, vocabulary] logits of the model.
        targets: [rows] the tokens that truly came.
    """
    slab = max(1, _SLAB // logits.shape[1])
    return join(
        _compare(reference[at : at + slab], logits[at : at + slab], targets[at : at + slab])
        for at in range(0, len(targets), slab)
    )


def surprise(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """-log of the probability of each target, in nats; shapes as for `compare`."""
    slab = max(1, _SLAB // logits.shape[1])
    parts = []
    for at in range(0, len(targets), slab):
        shifted, _, log_sum = _exponentials(logits[at : at + slab])
        parts.append(log_sum - _picked(shifted, targets[at : at + slab]))
    return np.concatenate(parts)


def join(parts: Iterable[TokenFigures]) -> TokenFigures:
    """Figures of consecutive predictions as one."""
    taken = list(parts)
    return TokenFigures(
        surprise=np.concatenate([part.surprise for part in taken]),
        reference_surprise=np.concatenate([part.reference_surprise for part in taken]),
        divergence=np.concatenate([part.divergence for part in taken]),
        same_top=np.concatenate([part.same_top for part in taken]),
    )


def perplexity(surprises: NDArray[np.float64]) -> Average:
    """The exponential of the mean surprise, with the standard error of that."""
    value = float(np.exp(surprises.mean()))
    return Average(value, value * standard_error(surprises))


def perplexity_ratio(figures: TokenFigures) -> Average:
    """The model's perplexity over the reference's; both saw the same tokens, so errors cancel."""
    return perplexity(figures.surprise - figures.reference_surprise)


def kl_divergence(figures: TokenFigures) -> KLDivergence:
    """The distribution of the divergence over all predictions."""
    values = figures.divergence
    median, p99 = np.percentile(values, [50, 99])
    return KLDivergence(
        mean=float(values.mean()),
        standard_error=standard_error(values),
        median=float(median),
        p99=float(p99),
        maximum=float(values.max()),
    )


def share(hits: NDArray[np.bool_]) -> Average:
    """How often something holds, from 0 to 1."""
    values = hits.astype(np.float64)
    return Average(float(values.mean()), standard_error(values) if len(values) > 1 else None)


def standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean of two or more values."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _compare(
    reference: NDArray[np.float32], logits: NDArray[np.float32], targets: NDArray[np.int64]
) -> TokenFigures:
    p_shifted, p, p_log_sum = _exponentials(reference)
    q_shifted, _, q_log_sum = _exponentials(logits)
    # sum P (log P - log Q), with log P = shifted - log_sum, and P = p / sum of p
    weighted = (p * (p_shifted - q_shifted)).sum(axis=1) / p.sum(axis=1)
    return TokenFigures(
        surprise=q_log_sum - _picked(q_shifted, targets),
        reference_surprise=p_log_sum - _picked(p_shifted, targets),
        divergence=weighted.astype(np.float64) - p_log_sum + q_log_sum,
        same_top=reference.argmax(axis=1) == logits.argmax(axis=1),
    )


def _exponentials(
    logits: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Logits minus the largest of their row, exp of that, and the log of the sum of those."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    return shifted, powers, np.log(powers.sum(axis=1).astype(np.float64))


def _picked(shifted: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.take_along_axis(shifted, targets[:, None], axis=1)[:, 0].astype(np.float64)
