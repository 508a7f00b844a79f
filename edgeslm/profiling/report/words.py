"""Figures as words, the same in every form of a report."""

from __future__ import annotations

from edgeslm.profiling.comparison import Comparison, Verdict
from edgeslm.profiling.measurement import Speed
from edgeslm.profiling.report.content import Difference, Entry
from edgeslm.profiling.report.measures import Measure, decode_energy
from edgeslm.profiling.results import Result
from edgeslm.records import Provenance
from edgeslm.units import format_bytes, significant

UNKNOWN = "–"


def speed_text(speed: Speed | None) -> str:
    """The median."""
    return UNKNOWN if speed is None else significant(speed.tokens_per_second.median)


def range_text(speed: Speed | None) -> str:
    """From the slowest to the fastest run."""
    if speed is None:
        return ""
    figures = speed.tokens_per_second
    return f"{significant(figures.minimum)} to {significant(figures.maximum)}"


def energy_text(result: Result) -> str:
    """Gross joules per written token."""
    figure = decode_energy(result)
    return UNKNOWN if figure is None or figure.value is None else significant(figure.value)


def energy_note(result: Result) -> str:
    """Its uncertainty, what is left without idle power, and a label unless it was measured."""
    energy = result.depths[0].decode_energy if result.depths else None
    if energy is None or energy.gross.value is None:
        return ""
    parts = []
    if energy.gross_uncertainty:
        parts.append(f"± {significant(energy.gross_uncertainty, 2)}")
    if energy.net.value is not None:
        parts.append(f"{significant(energy.net.value)} net")
    if energy.gross.provenance is not Provenance.MEASURED:
        parts.append((energy.gross.provenance or Provenance.ESTIMATED).value)
    return ", ".join(parts)


def bytes_text(count: int | None) -> str:
    """Bytes, or that nobody knows."""
    return UNKNOWN if count is None else format_bytes(count)


def measure_text(measure: Measure, result: Result) -> str:
    """A measure of a result, without the unit where a table's head has it."""
    value = measure.value(result)
    if value is None:
        return UNKNOWN
    return measure.text(value).removesuffix(f" {measure.unit}" if measure.unit else "")


def bits_text(result: Result) -> str:
    """True bits per weight."""
    bits = result.model.bits_per_weight
    return "" if bits is None else f"{bits:.2f} bits"


def change_text(found: Comparison) -> str:
    """The ratio as a change: +12%, -3.4%, 2.1 times."""
    return _change(found.ratio)


def interval_text(found: Comparison) -> str:
    """Its interval in the same terms."""
    if found.low is None or found.high is None:
        return UNKNOWN
    if found.high >= 2:
        return f"{significant(found.low, 2)} to {significant(found.high, 2)} times"
    return f"{_change(found.low)} to {_change(found.high)}"


def verdict_text(found: Difference) -> str:
    """What the runs say, and what they cannot."""
    compared = found.comparison
    words = {
        Verdict.HIGHER: "faster",
        Verdict.LOWER: "slower",
        Verdict.NO_DIFFERENCE: "no difference seen",
        Verdict.TOO_FEW: "too few runs to tell",
    }[compared.verdict]
    if compared.verdict in (Verdict.HIGHER, Verdict.LOWER) and compared.is_small:
        words += ", by less than a second measurement may differ"
    return words if found.alike else f"{words}; runs of other lengths"


def taint_text(entry: Entry) -> str:
    """What spoilt an entry, if anything did."""
    return "; ".join(entry.result.taints)


def _change(ratio: float) -> str:
    if ratio >= 2:
        return f"{significant(ratio, 2)} times"
    change = 100 * (ratio - 1)
    return f"{change:+.1f}%" if abs(change) < 10 else f"{change:+.0f}%"
