"""A measurement as a table for people; what spoils it stands above the figures and below."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeslm.cli import output
from edgeslm.units import format_bytes, format_seconds, significant

if TYPE_CHECKING:
    from edgeslm.profiling.measurement import (
        Conditions,
        DepthRun,
        Measurement,
        MemoryUse,
        Speed,
        TokenEnergy,
    )
    from edgeslm.profiling.sustained import Sustained

_Row = tuple[str, str]


def print_measurement(measurement: Measurement) -> None:
    """All of it."""
    settings = measurement.settings
    threads = f"{settings.threads}"
    if settings.prefill_threads != settings.threads:
        threads += f" ({settings.prefill_threads} in prefill)"
    print(
        f"Measured on this machine: {measurement.host.cpu or 'unknown CPU'}, "
        f"{threads} threads, KV {settings.kv_type}, {settings.repeats} runs each"
    )
    _print_taints(measurement)
    if settings.shortened is not None:
        print(f"runs: {settings.shortened}")
    rows = [*_memory(measurement.memory, settings.context_length)]
    for each in measurement.depths:
        rows += _depth(each, several=len(measurement.depths) > 1)
    if measurement.energy.idle_watts.value is not None:
        rows.append(("idle", output.figure_text(measurement.energy.idle_watts, "W")))
    rows += _conditions(measurement.conditions)
    if measurement.sustained is not None:
        rows += _sustained(measurement.sustained)
    output.print_table(rows)
    for note in measurement.energy.notes:
        print(f"energy: {output.one_line(note)}")
    if measurement.memory.limit is not None:
        limit = measurement.memory.limit
        print(f"With {format_bytes(limit.limit_bytes)}: {limit.summary}")


def _print_taints(measurement: Measurement) -> None:
    if measurement.tainted:
        print("TAINTED: these figures are not what the machine can do")
    for taint in measurement.taints:
        print(f"  - {output.one_line(taint)}")


def _memory(memory: MemoryUse, context_length: int) -> Iterator[_Row]:
    yield "peak RAM", format_bytes(memory.peak_rss_bytes)
    yield "  after the runs", format_bytes(memory.steady_rss_bytes)
    yield (
        "  of it",
        f"private {_bytes_or_unknown(memory.private_bytes)}, "
        f"proportional {_bytes_or_unknown(memory.pss_bytes)}",
    )
    yield "  weights resident", _bytes_or_unknown(memory.weights_resident_bytes)
    yield "  weights copied", format_bytes(memory.weights_copied_bytes)
    yield "  KV cache", f"{format_bytes(memory.kv_bytes)} for {context_length} tokens"
    yield "  compute", format_bytes(memory.compute_bytes)
    yield "  Python, before loading", format_bytes(memory.before_load_rss_bytes)
    yield "  major page faults", f"{memory.major_faults}"
    if memory.limit is not None:
        yield from _limit(memory)


def _limit(memory: MemoryUse) -> Iterator[_Row]:
    limit = memory.limit
    if limit is None:
        return
    yield "limited to", f"{format_bytes(limit.limit_bytes)} ({limit.group})"
    yield "  peak of the group", _bytes_or_unknown(limit.peak_bytes)
    yield (
        "  the kernel counted",
        f"limit hits {_count(limit.limit_hits)}, killed {_count(limit.oom_kills)}, "
        f"page faults {_count(limit.page_faults)}, major {_count(limit.major_faults)}, "
        f"read again {_count(limit.refaults)} pages",
    )
    if limit.copied:
        yield "  measured", "a copy of the file: other processes hold the original in memory"


def _depth(each: DepthRun, *, several: bool) -> Iterator[_Row]:
    after = f" at {each.depth}" if several or each.depth else ""
    for name, speed, energy in (
        ("prefill", each.prefill, each.prefill_energy),
        ("decode", each.decode, each.decode_energy),
    ):
        yield f"{name}{after}", _speed(speed)
        yield f"energy, {name}{after}", _energy(energy)


def _speed(speed: Speed) -> str:
    figures = speed.tokens_per_second
    low, high = speed.quartiles
    return (
        f"{significant(figures.median)} tokens/s "
        f"({significant(figures.minimum)} to {significant(figures.maximum)}, half of them "
        f"{significant(low)} to {significant(high)}; {speed.tokens} tokens)"
    )


def _energy(energy: TokenEnergy) -> str:
    gross = output.figure_text(energy.gross, "J/token")
    if energy.gross.value is None:
        return gross
    if energy.gross_uncertainty:
        gross += f" ± {significant(energy.gross_uncertainty, 2)}"
    if energy.net.value is None:
        return gross
    net = output.figure_text(energy.net, "J/token")
    if energy.net_uncertainty:
        net += f" ± {significant(energy.net_uncertainty, 2)}"
    return f"{gross}; without idle power {net}"


def _conditions(conditions: Conditions) -> Iterator[_Row]:
    before, after = conditions.before, conditions.after
    if before.celsius is not None and after.celsius is not None:
        yield "temperature", f"{before.celsius:.0f} °C before, {after.celsius:.0f} °C after"
    clocks = [each.megahertz for each in conditions.during if each.megahertz is not None]
    if clocks:
        yield "clock", f"{min(clocks):.0f} to {max(clocks):.0f} MHz during the runs"
    if conditions.other_cores is not None:
        yield "other programs", f"{conditions.other_cores:.2f} cores during the runs"


def _sustained(found: Sustained) -> Iterator[_Row]:
    yield (
        "sustained",
        f"{significant(found.sustained.median)} tokens/s, the last third of "
        f"{format_seconds(found.seconds)}; {found.sustained.median / found.peak:.0%} of the peak",
    )


def _bytes_or_unknown(count: int | None) -> str:
    return "unknown" if count is None else format_bytes(count)


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value}"
