"""What results are compared by: its name, its unit, which way is better, who has it; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from edgeslm.profiling.measurement import Energy
from edgeslm.profiling.meters.estimated import EstimatedMeter
from edgeslm.profiling.results import Quality, Result
from edgeslm.records import Figure, Provenance
from edgeslm.units import format_bytes, significant


@dataclass(frozen=True)
class Measure:
    """One thing a result has a number for.

    Attributes:
        name: As an axis says it.
        unit: Of the number; empty for a bare one.
        best: What the best one is called: "Fastest at writing".
        higher_is_better: Else lower is.
        value: Of a result; None where it was not measured.
        divisor: What an axis divides by, so that its ticks are short.
        axis_unit: What that leaves.
    """

    name: str
    unit: str
    best: str
    higher_is_better: bool
    value: Callable[[Result], float | None]
    divisor: float = 1.0
    axis_unit: str = ""

    @property
    def axis(self) -> str:
        """The name with the unit of the axis."""
        unit = self.axis_unit or self.unit
        return f"{self.name}, {unit}" if unit else self.name

    def text(self, value: float) -> str:
        """A value with its unit: 98.2 tokens/s, 210 MB."""
        if self.unit == "bytes":
            return format_bytes(value)
        if self.unit == "%":
            return f"{value:.1f}%"
        return f"{significant(value)} {self.unit}".rstrip()

    def is_better(self, one: float, other: float) -> bool:
        """Whether `one` is better than `other`, by however little."""
        return one > other if self.higher_is_better else one < other


def _decode(result: Result) -> float | None:
    speed = result.depths[0].decode if result.depths else None
    return None if speed is None else speed.tokens_per_second.median


def _prefill(result: Result) -> float | None:
    speed = result.depths[0].prefill if result.depths else None
    return None if speed is None else speed.tokens_per_second.median


def _peak(result: Result) -> float | None:
    return None if result.memory is None else float(result.memory.peak_rss_bytes)


def _energy(result: Result) -> float | None:
    figure = decode_energy(result)
    return None if figure is None else figure.value


def _quality(take: Callable[[Quality], float | None]) -> Callable[[Result], float | None]:
    return lambda result: None if result.quality is None else take(result.quality)


DECODE = Measure("writing", "tokens/s", "Fastest at writing", True, _decode)
PREFILL = Measure("reading", "tokens/s", "Fastest at reading", True, _prefill)
MEMORY = Measure("peak RAM", "bytes", "Least memory", False, _peak, 1e6, "MB")
ENERGY = Measure("energy per token", "J", "Least energy", False, _energy)
DIVERGENCE = Measure(
    "KL divergence", "nats", "Nearest to its original", False, _quality(lambda q: q.kl_divergence)
)
PERPLEXITY = Measure("perplexity", "", "Lowest perplexity", False, _quality(lambda q: q.perplexity))
ACCURACY = Measure(
    "questions answered right",
    "%",
    "Most answers right",
    True,
    _quality(lambda q: None if q.accuracy is None else 100 * q.accuracy),
)


def deciding(results: Sequence[Result]) -> tuple[Result, ...]:
    """Those among which the best are looked for: what nothing spoilt, if that leaves two."""
    clean = tuple(each for each in results if not each.tainted)
    return clean if len(clean) > 1 else tuple(results)


def quality_measure(results: Sequence[Result]) -> Measure:
    """The measure of quality that most results have, the most telling one of equals."""
    return max((DIVERGENCE, PERPLEXITY, ACCURACY), key=lambda each: len(_values(each, results)))


def energy_is_comparable(results: Iterable[Result]) -> bool:
    """Whether the energies were read in one way from one kind of meter that covers one thing.

    An estimate is watts times seconds: it repeats the speed, and tells no two models apart.
    """
    known = [each for each in results if _energy(each) is not None]
    ways = {_way_of_reading(each) for each in known}
    return len(ways) == 1 and all(has_meter(each.energy) for each in known)


def _way_of_reading(result: Result) -> tuple[str | None, str | None, Provenance | None]:
    energy, figure = result.energy, decode_energy(result)
    meter, scope = (None, None) if energy is None else (energy.meter, energy.scope)
    return meter, scope, None if figure is None else figure.provenance


def has_meter(energy: Energy | None) -> bool:
    """Whether an instrument was read; published watts are none."""
    return energy is not None and energy.meter not in (None, EstimatedMeter.name)


def quality_is_comparable(results: Iterable[Result]) -> bool:
    """Whether all were compared with the same original, on as many tokens."""
    cards = {(q.reference, q.tokens) for each in results if (q := each.quality) is not None}
    return len(cards) <= 1


def decode_energy(result: Result) -> Figure | None:
    """Gross joules per written token at the first depth; None where nothing is said."""
    energy = result.depths[0].decode_energy if result.depths else None
    return None if energy is None else energy.gross


def front(results: Sequence[Result], one: Measure, other: Measure) -> frozenset[int]:
    """The places of results that no other one beats in one respect and equals in the other."""
    points = [
        (index, a, b)
        for index, result in enumerate(results)
        if (a := one.value(result)) is not None and (b := other.value(result)) is not None
    ]
    return frozenset(
        index
        for index, a, b in points
        if not any(
            not one.is_better(a, c)
            and not other.is_better(b, d)
            and (one.is_better(c, a) or other.is_better(d, b))
            for _, c, d in points
        )
    )


def _values(measure: Measure, results: Iterable[Result]) -> list[float]:
    return [value for each in results if (value := measure.value(each)) is not None]
