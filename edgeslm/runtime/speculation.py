"""Whether to guess tokens ahead, and how many: as far as steps so far show that it saves time.

A step that computes some tokens more costs more: where arithmetic is the limit almost as much as a
step for each, where memory is the limit hardly anything. Where several answers go on, a pass over
the weights computes equally many tokens of each, so a draft for one of them is a pass more
(`passes`). It saves a step for each token that was guessed right. `plan` weighs the two, and
`Ledger` keeps what can be lost within bounds.
Pure: times and tokens come in, numbers go out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

SIZES = (2, 4, 8, 16)
"""Tokens that a step with drafts computes: the kernels take rows by fours."""
MOST_ROWS = SIZES[-1]
"""Rows of logits that make the longest drafts possible."""

_PRIOR_COSTS = ((1, 1.0), (2, 1.85), (4, 2.9), (8, 4.9), (16, 9.0), (512, 290.0))
"""Duration of a step by its tokens, in steps of one token; SmolLM2 Q4_1 on two threads of an EPYC,
measured. Of what runs on boards, few models gain less from computing tokens together."""
_SAMPLES = 9
_SWITCH = 0.1
"""Of a step: what it costs when the next one has another number of tokens; measured too."""
_WORTH = 1.05
"""Times faster that a draft must promise to be."""
_SLOWEST = 0.8
"""Of its speed, that an answer keeps while the drafts of others lengthen the steps."""
_ALLOWANCE = 0.01
"""Of all time, that may be lost."""
_LOAN = 1.5
"""Steps that may be lost before anything was gained."""
_MOST_SAVED = 32.0
"""Steps' worth of gains that may be lost again."""


def passes(lengths: Mapping[int, int]) -> list[int]:
    """How many tokens each pass over the weights computes, as llama.cpp cuts a step up.

    Equally many of each sequence, as long as their numbers follow each other
    (`llama_batch_allocr::split_equal`, llama-batch.cpp).

    Args:
        lengths: Tokens of each sequence, by its number.
    """
    left = {sequence: lengths[sequence] for sequence in sorted(lengths) if lengths[sequence]}
    sizes = []
    while left:
        first = next(iter(left))
        run = [sequence for number, sequence in enumerate(left) if sequence == first + number]
        part = min(left[sequence] for sequence in run)
        sizes.append(part * len(run))
        left = {
            sequence: rest
            for sequence, length in left.items()
            if (rest := length - part * (sequence in run))
        }
    return sizes


class StepCosts:
    """How long a pass takes by the number of tokens it computes, from those that were measured."""

    def __init__(self) -> None:
        self._samples: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}

    def learn(self, sizes: Sequence[int], seconds: float) -> None:
        """A step of passes of such sizes took so long."""
        cost = self.seconds if self.known else _prior_cost
        expected = [cost(size) for size in sizes]
        for size, part in zip(sizes, expected, strict=True):
            self.add(size, seconds * (part / sum(expected)))

    def add(self, tokens: int, seconds: float) -> None:
        """A pass of so many tokens took so long."""
        samples = self._samples.setdefault(tokens, deque(maxlen=_SAMPLES))
        samples.append(seconds)
        self._medians[tokens] = median(samples)

    @property
    def known(self) -> bool:
        """Whether anything was measured."""
        return bool(self._medians)

    def step(self, lengths: Mapping[int, int]) -> float:
        """How long a step takes, by the number of tokens of each sequence."""
        return sum(map(self.seconds, passes(lengths)))

    def seconds(self, tokens: int) -> float:
        """How long a pass of so many tokens takes; between and beyond what is known, by guess."""
        known = self._medians
        if tokens in known:
            return known[tokens]
        lower = max((size for size in known if size < tokens), default=None)
        upper = min((size for size in known if size > tokens), default=None)
        if lower is None or upper is None:
            near = upper if lower is None else lower
            if near is None:
                return 0.0
            return known[near] * _prior_cost(tokens) / _prior_cost(near)
        part = (_prior_cost(tokens) - _prior_cost(lower)) / (
            _prior_cost(upper) - _prior_cost(lower)
        )
        return known[lower] + part * (known[upper] - known[lower])


def _prior_cost(tokens: int) -> float:
    below = (0, 0.0)
    for size, cost in _PRIOR_COSTS:
        if tokens <= size:
            part = (tokens - below[0]) / (size - below[0])
            return below[1] + part * (cost - below[1])
        below = (size, cost)
    return below[1] * tokens / below[0]


@dataclass
class Rate:
    """How often a kind of guess is right; what is long past counts less.

    Attributes:
        prior: What is assumed before anything was seen.
        weight: How many guesses that assumption counts for.
        memory: Guesses after which one counts for a third.
    """

    prior: float
    weight: float = 4.0
    memory: float = 48.0
    _right: float = 0.0
    _seen: float = 0.0

    def add(self, right: bool) -> None:
        """One more guess."""
        kept = 1 - 1 / self.memory
        self._right = self._right * kept + right
        self._seen = self._seen * kept + 1

    def fade(self) -> None:
        """Nothing was guessed: what was seen becomes less certain."""
        kept = 1 - 1 / self.memory
        self._right *= kept
        self._seen *= kept

    @property
    def value(self) -> float:
        """A probability, above 0 and below 1."""
        return (self.prior * self.weight + self._right) / (self.weight + self._seen)


def match_rates() -> list[Rate]:
    """Of what a look-up guesses, by the length of its match: 2, 4, 8, 16 tokens or more.

    The priors are what SmolLM2 showed when it copied, extracted and wrote freely.
    """
    return [Rate(prior) for prior in (0.53, 0.77, 0.85, 0.95)]


def chances(rates: Sequence[Rate], length: int, count: int) -> list[float]:
    """How likely each of `count` tokens after a match is right, if those before it are.

    Args:
        rates: As of `match_rates`.
        length: Of the match; it grows by each token that is right.
        count: How many.
    """
    values = [rate.value for rate in rates]
    return [values[match_rank(length + index)] for index in range(count)]


def match_rank(length: int) -> int:
    """The place in `match_rates` of a match of so many tokens."""
    return 3 if length >= 16 else 2 if length >= 8 else 1 if length >= 4 else 0


@dataclass(frozen=True)
class Prospect:
    """What could be drafted for one answer.

    Attributes:
        chances: How likely each token is right if those before it are; as many as may be drafted.
        seconds: What it takes to draft so many tokens.
    """

    chances: Sequence[float] = ()
    seconds: Callable[[int], float] | None = None

    def expected(self, count: int) -> float:
        """Tokens that a step gives with a draft of `count`: 1 without."""
        total = alive = 1.0
        for chance in self.chances[:count]:
            alive *= chance
            total += alive
        return total

    def drafting(self, count: int) -> float:
        """Seconds that it takes to draft `count` tokens."""
        return self.seconds(count) if count and self.seconds is not None else 0.0


def plan(
    prospects: Sequence[Prospect],
    costs: StepCosts,
    *,
    credit: float,
    most: int,
    sequences: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """How many tokens to draft for each answer of a step.

    All that have something to offer get equal parts. Of the sizes that promise more tokens a
    second, the best is taken, if no answer becomes much slower by it.

    Args:
        prospects: One for each answer that the step takes on.
        costs: How long steps take.
        credit: Seconds that the step may at most be longer.
        most: Tokens, and rows of logits, that the step may have.
        sequences: Where the answers grow; None for one beside the other.
    """
    answers = len(prospects)
    numbers = range(answers) if sequences is None else sequences
    plain = costs.step(dict.fromkeys(numbers, 1))
    best = (0,) * answers
    best_speed = _WORTH * answers / plain if plain else 0.0
    for size in SIZES if plain else ():
        counts = parts(prospects, size)
        if size > most or not any(counts):
            continue
        lengths = {number: 1 + count for number, count in zip(numbers, counts, strict=True)}
        seconds = costs.step(lengths) + _SWITCH * plain
        seconds += sum(map(Prospect.drafting, prospects, counts))
        expected = list(map(Prospect.expected, prospects, counts))
        fair = min(expected) * plain >= _SLOWEST * seconds
        if fair and seconds - plain <= credit and sum(expected) / seconds > best_speed:
            best, best_speed = counts, sum(expected) / seconds
    return best


def parts(prospects: Sequence[Prospect], size: int) -> tuple[int, ...]:
    """How many tokens each answer may draft in a step of `size` tokens."""
    offering = sum(bool(prospect.chances) for prospect in prospects)
    part = max(0, size - len(prospects)) // max(1, offering)
    return tuple(min(part, len(prospect.chances)) for prospect in prospects)


class Ledger:
    """What drafts saved and what they cost, in seconds; may they be tried?

    All that drafts lose is at most 1% of the time, a step and a half, and what one draft lost more
    than its cost was guessed to be.
    """

    def __init__(self) -> None:
        self._balance = 0.0
        self._lent = False

    @property
    def credit(self) -> float:
        """Seconds that may be lost now."""
        return self._balance

    def step(self, plain: float, *, spent: float = 0.0, saved: float = 0.0) -> None:
        """A step was done.

        Args:
            plain: Seconds that it takes without drafts.
            spent: Seconds that it took longer.
            saved: Seconds of later steps that are not needed.
        """
        if not self._lent:
            self._lent = True
            self._balance += _LOAN * plain
        self._balance += _ALLOWANCE * plain + saved - spent
        self._balance = min(self._balance, _MOST_SAVED * plain)

    def prefilled(self, seconds: float) -> None:
        """So long nothing was drafted."""
        self._balance += _ALLOWANCE * seconds
