"""How much errors in each matrix harm the model's answers, from gradients.

The harm is the KL divergence between the model's next-token distributions before and after. Near
zero it is half of E[<dW, M>^2], where M = sum over a sequence's tokens of g x^T is the gradient
by the matrix: x is what it is multiplied with, g the gradient by the product of the
log-probabilities of tokens drawn from the model itself (so that the squares average to the Fisher
information). The form is taken as a product of one of columns and one of rows, so that the harm is
tr(dW H dW^T G) / 2, with

    H = E[|g|^2 x x^T] / E[|g|^2]      (columns)
    G = r E[g g^T]                     (rows)

H weighs each token by how much its error matters: a first token with a huge activation and no
influence does not drown the rest. Both are sums over tokens, of which there are enough to know
them well; that tokens of one sequence share their fate, since attention lets the error at one
meet that at another, is in the number r = E[|M|^2] / (tokens * E[|g|^2 |x|^2]) alone. (Forms
made of whole M, one per sequence, fit the calibration text and little else.)

llama.cpp also rounds activations to 8 bits, in blocks of 32 or 256 depending on the weight's type;
`noise` is what that costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeslm.packager.quantize.decoder import INPUTS, Block, Passed, Shape, norm, norm_back
from edgeslm.packager.quantize.equalize import Moments
from edgeslm.packager.quantize.threads import in_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeslm.packager.quantize.weights import Weights

    Array = NDArray[Any]

NOISE_BLOCKS = (32, 256)
_LOGIT_ROWS = 64
_BAND = 1024
"""Rows of a form that are added to at a time."""
EMBEDDING, HEAD, HEAD_NORM = "token_embd.weight", "output.weight", "output_norm.weight"


@dataclass(frozen=True)
class Sensitivity:
    """What one matrix's errors cost.

    Attributes:
        inputs: H, [n, n].
        outputs: G, [rows, rows]; None where rows do not interact.
        rows: [rows] weight of each row, in place of G.
        noise: Nats lost to rounding the input to 8 bits in blocks of so many.
    """

    inputs: Array
    outputs: Array | None
    rows: Array | None
    noise: Mapping[int, float]


class Tally:
    """Sums over tokens for one matrix: of forms if `full`, else of moments."""

    def __init__(self, *, full: bool) -> None:
        self._full = full
        self._tokens = 0
        self._weight = 0.0
        self._apart = 0.0
        self._together = 0.0
        self._sums: dict[str, Array] = {}
        self._noise: dict[int, float] = {}

    def add(self, x: Array, g: Array, back: Array) -> None:
        """Count the tokens of one sequence.

        Args:
            x: [tokens, n] what the matrix was multiplied with.
            g: [tokens, rows] gradient by the product.
            back: [tokens, n] gradient by `x` through this matrix.
        """
        self._tokens += len(x)
        if not self._full:
            self._sum("x", np.square(x).sum(0))
            self._sum("z", np.square(back).sum(0))
            return
        weight = np.square(g).sum(1, keepdims=True)
        self._weight += float(weight.sum())
        self._apart += float((weight[:, 0] * np.square(x).sum(1)).sum())
        self._together += float(_product_square(g, x))
        self._sum_product("H", x, x * weight)
        self._sum_product("G", g, g)
        for size in NOISE_BLOCKS:
            if x.shape[1] % size == 0:
                cost = 0.5 * float((rounding_noise(x, size) * np.square(back)).sum())
                self._noise[size] = self._noise.get(size, 0.0) + cost

    def _sum(self, name: str, value: Array) -> None:
        if name in self._sums:
            self._sums[name] += value
        else:
            self._sums[name] = value

    def _sum_product(self, name: str, left: Array, right: Array) -> None:
        """Add the upper half of left^T right, which is symmetric, a band of rows at a time."""
        n = left.shape[1]
        sums = self._sums.setdefault(name, np.zeros((n, n), np.float32))
        for first in range(0, n, _BAND):
            sums[first : first + _BAND, first:] += (
                left[:, first : first + _BAND].T @ right[:, first:]
            )

    def _whole(self, name: str, factor: float) -> Array:
        """A sum of products, both halves, times a number; it is taken away from here."""
        sums = self._sums.pop(name)
        sums *= np.float32(factor)
        n = len(sums)
        for first in range(0, n, _BAND):
            last = min(first + _BAND, n)
            corner = np.triu(sums[first:last, first:last])
            sums[first:last, first:last] = corner + np.triu(corner, 1).T
            sums[last:, first:last] = sums[first:last, last:].T
        return sums

    def moments(self) -> Moments:
        """Mean squares by channel."""
        return Moments(self._sums["x"] / self._tokens, self._sums["z"] / self._tokens)

    def result(self) -> Sensitivity:
        """The forms, per token; to be asked for once."""
        shared = self._together / max(self._apart, 1e-30)
        return Sensitivity(
            inputs=self._whole("H", 1 / max(self._weight, 1e-30)),
            outputs=self._whole("G", shared / self._tokens),
            rows=None,
            noise={size: cost / self._tokens for size, cost in self._noise.items()},
        )


def _product_square(left: Array, right: Array) -> float:
    """The sum of squares in left^T right: of a trace of products where that is less work."""
    tokens = len(left)
    if tokens < min(left.shape[1], right.shape[1]):
        return float(((left @ left.T) * (right @ right.T)).sum(dtype=np.float64))
    return float(np.square(left.T @ right).sum(dtype=np.float64))


def rounding_noise(x: Array, size: int) -> Array:
    """[tokens, n] variance of rounding to 8 bits with one scale per `size` columns."""
    tokens, n = x.shape
    step = np.abs(x.reshape(tokens, n // size, size)).max(2) / 127
    variance: Array = np.repeat(np.square(step) / 12, size, 1)
    return variance


@dataclass(frozen=True)
class Top:
    """Where the backward pass begins, and what it says of embedding and head.

    Attributes:
        gradients: For each sequence [tokens, width], by the last block's output.
        probabilities: [vocabulary] mean probability of each token.
        spread: [vocabulary] mean of p (1 - p).
        hidden: [width, width] mean outer product of what the head is multiplied with, tokens
            weighted by how unsure the model is.
        noise: As in `Sensitivity`.
    """

    gradients: list[Array]
    probabilities: Array
    spread: Array
    hidden: Array
    noise: Mapping[int, float]


def embed(weights: Weights, shape: Shape, tokens: Sequence[int]) -> Array:
    """[tokens, width] what the first block is given."""
    tensor = weights.find(EMBEDDING)
    assert tensor is not None  # noqa: S101  every model has one
    scale = np.float32(shape.width**0.5 if shape.gemma else 1)
    given: Array = weights.read(tensor, np.asarray(tokens, np.int64)) * scale
    return given


def top(
    weights: Weights,
    shape: Shape,
    last: Sequence[Array],
    seed: int,
    pool: ThreadPoolExecutor,
    threads: int,
) -> Top:
    """Draw a token at each place, and take the gradient of its log-probability.

    Args:
        weights: The model.
        shape: Its shape.
        last: For each sequence [tokens, width], the last block's output.
        seed: For the draws.
        pool: Where sequences are computed.
        threads: How many at a time.
    """
    head = weights.matrix(HEAD if weights.find(HEAD) else EMBEDDING)
    gain = weights.vector(HEAD_NORM)

    def one(numbered: tuple[int, Array]) -> _Draws:
        return _draw(head, gain, shape.epsilon, numbered[1], (seed, numbered[0]))

    probabilities = np.zeros(len(head), np.float64)
    squares = np.zeros(len(head), np.float64)
    hidden = np.zeros((shape.width,) * 2, np.float32)
    noise = dict.fromkeys((size for size in NOISE_BLOCKS if shape.width % size == 0), 0.0)
    gradients = []
    for drawn in in_order(one, enumerate(last), pool, threads):
        probabilities += drawn.probabilities
        squares += drawn.squares
        hidden += drawn.hidden
        for size in noise:
            noise[size] += drawn.noise[size]
        gradients.append(drawn.gradient)
    tokens = sum(map(len, last))
    spread = (probabilities - squares) / tokens
    return Top(
        gradients=gradients,
        probabilities=(probabilities / tokens).astype(np.float32),
        spread=spread.astype(np.float32),
        hidden=hidden / np.float32(max(spread.sum() * tokens, 1e-30)),
        noise={size: cost / tokens for size, cost in noise.items()},
    )


@dataclass(frozen=True)
class _Draws:
    """The sums of `Top` over one sequence."""

    gradient: Array
    probabilities: Array
    squares: Array
    hidden: Array
    noise: Mapping[int, float]


def _draw(head: Array, gain: Array, epsilon: float, x: Array, seed: tuple[int, int]) -> _Draws:
    y, inverse = norm(x, gain, epsilon)
    rng = np.random.default_rng(seed)
    probabilities = np.zeros(len(head), np.float64)
    squares = np.zeros(len(head), np.float64)
    hidden = np.zeros((y.shape[1],) * 2, np.float32)
    by = np.empty_like(y)
    for first in range(0, len(y), _LOGIT_ROWS):
        part = slice(first, first + _LOGIT_ROWS)
        p = _softmax(y[part] @ head.T)
        probabilities += p.sum(0)
        square = np.square(p)
        squares += square.sum(0)
        hidden += y[part].T @ (y[part] * (1 - square.sum(1, keepdims=True)))
        p[np.arange(len(p)), _drawn(p, rng)] -= 1
        by[part] = -(p @ head)
    noise = {
        size: 0.5 * float((rounding_noise(y, size) * np.square(by)).sum())
        for size in NOISE_BLOCKS
        if y.shape[1] % size == 0
    }
    return _Draws(norm_back(by, x, inverse, gain), probabilities, squares, hidden, noise)


def _softmax(logits: Array) -> Array:
    logits -= logits.max(1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(1, keepdims=True)
    return logits


def _drawn(p: Array, rng: np.random.Generator) -> NDArray[np.intp]:
    """One token for each row of probabilities."""
    reached = np.cumsum(p, 1)
    points = rng.random((len(p), 1), np.float32) * reached[:, -1:]
    drawn: NDArray[np.intp] = np.minimum((reached < points).sum(1), p.shape[1] - 1)
    return drawn


def head_sensitivities(
    weights: Weights, result: Top, by_embedding: Array
) -> dict[str, Sensitivity]:
    """Of the token embedding, and of the head where that is a matrix of its own.

    An error in a row of the head matters as often as its token is likely; one in a row of the
    embedding as often as it is read. Where both are one matrix the forms are added, a row's
    weight being its token's probability in either.

    Args:
        weights: The model.
        result: What `top` gave.
        by_embedding: [width, width] mean outer product of the gradient by the embedding.
    """
    likely = result.probabilities
    if weights.find(HEAD):
        return {
            HEAD: Sensitivity(result.hidden, None, result.spread, result.noise),
            EMBEDDING: Sensitivity(by_embedding, None, likely, {}),
        }
    ratio = float(result.spread.sum() / likely.sum())
    both = np.float32(ratio) * result.hidden + by_embedding
    return {EMBEDDING: Sensitivity(both, None, likely, result.noise)}


def block_pass(
    block: Block,
    given: Sequence[Array],
    gradients: Sequence[Array],
    pool: ThreadPoolExecutor,
    threads: int,
    *,
    full: bool,
) -> tuple[list[Array], dict[str, Tally]]:
    """Take all sequences back through one block.

    Args:
        block: The block.
        given: For each sequence [tokens, width], the block's input.
        gradients: The same, gradients by its output.
        pool: Where sequences are computed.
        threads: How many at a time.
        full: Sum up forms too, and not only moments.

    Returns:
        The gradients by the block's input, and the sums for each of its matrices.
    """

    def one(pair: tuple[Array, Array]) -> Passed:
        return block.backward(*pair)

    back: list[Array] = []
    tallies = {name: Tally(full=full) for name in INPUTS}
    for passed in in_order(one, zip(given, gradients, strict=True), pool, threads):
        back.append(passed.gradient)

        # each sum grows in the order of the sequences, so it is the same for any `threads`
        def add(name: str, passed: Passed = passed) -> None:
            tallies[name].add(passed.inputs[name], passed.outputs[name], passed.back[name])

        list(pool.map(add, tallies))
    return back, tallies
