"""From a meter's readings to figures with their labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgeslm.profiling.instrument import Instrument
from edgeslm.profiling.measurement import DepthRun, Energy, TokenEnergy
from edgeslm.profiling.power import ENOUGH_CHANGES, Idle, Stretch, needed_seconds, per_token
from edgeslm.records import UNKNOWN, Figure

_UNKNOWN = TokenEnergy(UNKNOWN, None, UNKNOWN, None, 0.0, None)


def token_energy(
    instrument: Instrument, stretches: Sequence[Stretch], idle: Idle | None
) -> TokenEnergy:
    """Of one kind of run; unknown where the meter gave nothing."""
    meter = instrument.meter
    found = per_token(stretches, instrument.period_seconds, idle)
    if meter is None or found is None:
        return _UNKNOWN
    if found.gross <= 0:
        still = Figure(None, None, f"{meter.source}: it did not move during a run")
        return TokenEnergy(still, None, still, None, found.seconds, enough_samples=False)
    return TokenEnergy(
        gross=Figure(found.gross, meter.provenance, meter.source),
        gross_uncertainty=found.gross_uncertainty,
        net=(
            Figure(None, None, _no_net(instrument))
            if found.net is None
            else Figure(found.net, meter.provenance, f"{meter.source}, less {_watts(idle)} idle")
        ),
        net_uncertainty=found.net_uncertainty,
        seconds=found.seconds,
        enough_samples=found.enough_samples,
    )


def energy(
    depths: Sequence[DepthRun], instrument: Instrument, idle: Idle | None, reasons: tuple[str, ...]
) -> Energy:
    """All of it in one record, with notes on what was not measured and why."""
    meter, first = instrument.meter, depths[0]
    prefill, decode = first.prefill_energy, first.decode_energy
    kinds = [kind for each in depths for kind in (each.prefill_energy, each.decode_energy)]
    enough = [kind.enough_samples for kind in kinds if kind.enough_samples is not None]
    return Energy(
        prefill_joules_per_token=prefill.gross,
        decode_joules_per_token=decode.gross,
        meter=meter.name if meter else None,
        scope=meter.scope.value if meter else None,
        notes=(*reasons, *_notes(instrument, idle, enough)),
        prefill_net_joules_per_token=prefill.net,
        decode_net_joules_per_token=decode.net,
        prefill_uncertainty_joules_per_token=prefill.gross_uncertainty,
        decode_uncertainty_joules_per_token=decode.gross_uncertainty,
        prefill_net_uncertainty_joules_per_token=prefill.net_uncertainty,
        decode_net_uncertainty_joules_per_token=decode.net_uncertainty,
        idle_watts=(
            UNKNOWN
            if meter is None or idle is None
            else Figure(idle.watts, meter.provenance, f"{meter.source}, {idle.seconds:.1f} seconds")
        ),
        idle_uncertainty_watts=None if idle is None else idle.uncertainty_watts,
        seconds=sum(kind.seconds for kind in kinds),
        enough_samples=all(enough) if enough else None,
    )


def _notes(instrument: Instrument, idle: Idle | None, enough: Sequence[bool]) -> Iterator[str]:
    if instrument.failure is not None:
        yield f"the meter died midway: {instrument.failure}"
    if idle is None and instrument.meter is not None:
        yield _no_net(instrument)
    if not all(enough):
        yield (
            f"the meter's reading changes every {instrument.period_seconds:g} s: for "
            f"{ENOUGH_CHANGES} changes a stretch must last "
            f"{needed_seconds(instrument.period_seconds):g} s, and some were shorter"
        )


def _no_net(instrument: Instrument) -> str:
    if instrument.period_seconds == 0:
        return "no idle baseline: arithmetic cannot tell an idle machine from a busy one"
    return "no idle baseline was measured, so nothing is subtracted"


def _watts(idle: Idle | None) -> str:
    return "" if idle is None else f"{idle.watts:.3g} W"
