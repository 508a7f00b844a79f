from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edgeslm.errors import InvalidOption, MeasurementFailure
from edgeslm.files import sha256
from edgeslm.profiling import profile as module
from edgeslm.profiling.measurement import Measurement
from edgeslm.profiling.meters import FoundMeter
from edgeslm.profiling.meters.base import Scope
from edgeslm.profiling.profile import ProfileOptions, profile
from edgeslm.records import MEASUREMENT_SCHEMA, Provenance, document, from_json, to_json
from edgeslm.runtime import tuned

SHORT = ProfileOptions(
    threads=1,
    prompt_tokens=32,
    generated_tokens=8,
    repeats=3,
    idle_seconds=0.1,
    most_repeats=None,
    warm_up_seconds=0,
)
WATTS = 10.0


class CountingMeter:
    """One joule per reading: as real as a meter gets without an instrument."""

    name = "counting"
    scope = Scope.BOARD
    provenance = Provenance.MEASURED
    source = "a counter"
    period_seconds = 0.0

    def __init__(self) -> None:
        self.readings = 0

    def read_joules(self) -> float:
        self.readings += 1
        return float(self.readings)


class SteadyMeter:
    """Ten watts, whatever happens; its reading changes every `period_seconds`."""

    name = "steady"
    scope = Scope.BOARD
    provenance = Provenance.MEASURED
    source = "a steady supply"

    def __init__(self, period_seconds: float, dies_after: int = 1_000_000) -> None:
        self.period_seconds = period_seconds
        self._left = dies_after

    def read_joules(self) -> float:
        self._left -= 1
        if self._left < 0:
            raise MeasurementFailure("somebody pulled the plug")
        return time.perf_counter() * WATTS


def _use(meter: object, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module, "find_meter", lambda _target, **_: FoundMeter(meter, ("why",)))  # type: ignore[arg-type]


def test_a_profile_holds_what_was_measured(tiny_model: Path) -> None:
    found = profile(tiny_model, SHORT)
    assert found.prefill.tokens == 32
    assert found.decode.tokens == 8
    for speed in (found.prefill, found.decode):
        assert len(speed.tokens_per_second.samples) == 3
        for rate, seconds in zip(
            speed.tokens_per_second.samples, speed.seconds.samples, strict=True
        ):
            assert rate == pytest.approx(speed.tokens / seconds)
    assert found.memory.peak_rss_bytes >= found.memory.before_load_rss_bytes > 10_000_000
    assert found.memory.kv_bytes > 0
    assert found.memory.compute_bytes > 0
    assert found.model.sha256 == sha256(tiny_model)
    assert found.settings.context_length == 256
    if sys.platform == "linux":
        assert found.conditions.other_cores_before is not None


def test_resident_weights_are_pages_of_the_file(tiny_model: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"  # a file that nothing else in this process has mapped
    own.write_bytes(tiny_model.read_bytes())
    resident = profile(own, SHORT).memory.weights_resident_bytes
    assert resident is None or 0 < resident <= own.stat().st_size + 4096


def test_energy_is_what_the_meter_counted_in_the_counted_runs(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module, "find_meter", lambda _target, **_: FoundMeter(CountingMeter(), ("why",))
    )
    energy = profile(tiny_model, SHORT).energy
    # Each counted run lies between two readings: one joule a run.
    assert energy.decode_joules_per_token.value == pytest.approx(3 / (3 * 8))
    assert energy.prefill_joules_per_token.value == pytest.approx(3 / (3 * 32))
    assert energy.decode_joules_per_token.provenance is Provenance.MEASURED
    assert energy.decode_joules_per_token.source == "a counter"
    assert (energy.meter, energy.scope, energy.notes[0]) == ("counting", "board", "why")
    assert energy.decode_net_joules_per_token.value is None
    assert "cannot tell an idle machine" in str(energy.decode_net_joules_per_token.source)


def test_net_energy_of_a_steady_supply_is_nothing(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(SteadyMeter(0.0001), monkeypatch)
    found = profile(tiny_model, replace(SHORT, generated_tokens=64, idle_seconds=0.5))
    energy = found.energy
    pace = 1 / found.decode.tokens_per_second.median
    assert energy.idle_watts.value == pytest.approx(WATTS, rel=0.05)
    assert "steady supply, 0.5 seconds" in str(energy.idle_watts.source)
    assert energy.decode_joules_per_token.value == pytest.approx(WATTS * pace, rel=0.3)
    assert energy.decode_net_joules_per_token.value is not None
    assert abs(energy.decode_net_joules_per_token.value) < 0.3 * WATTS * pace
    assert energy.decode_uncertainty_joules_per_token is not None
    assert energy.decode_net_uncertainty_joules_per_token is not None
    assert energy.enough_samples


def test_a_slow_meter_gets_longer_stretches(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(SteadyMeter(0.02), monkeypatch)
    found = profile(tiny_model, SHORT)
    assert found.decode.seconds.maximum < 0.2
    assert found.depths[0].decode_energy.seconds >= 3 * 0.2
    assert "steady supply, 0.2 seconds" in str(found.energy.idle_watts.source)
    assert found.energy.enough_samples
    pace = 1 / found.decode.tokens_per_second.median
    assert found.energy.decode_joules_per_token.value == pytest.approx(WATTS * pace, rel=1)


def test_a_meter_that_dies_midway_loses_nothing_else(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(SteadyMeter(0.0001, dies_after=16), monkeypatch)
    found = profile(tiny_model, SHORT)
    words = "the meter died midway: somebody pulled the plug"
    assert words in found.taints
    assert words in found.energy.notes
    assert found.tainted
    assert len(found.decode.seconds.samples) == 3


def test_a_meter_that_is_dead_from_the_start(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(SteadyMeter(0.0001, dies_after=0), monkeypatch)
    found = profile(tiny_model, SHORT)
    assert found.energy.decode_joules_per_token.value is None
    assert found.energy.idle_watts.value is None
    assert found.prefill.tokens_per_second.median > 0


def test_without_a_meter_energy_is_unknown_not_zero(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_meter", lambda _target, **_: FoundMeter(None, ("none here",)))
    energy = profile(tiny_model, SHORT).energy
    assert energy.decode_joules_per_token.value is None
    assert energy.meter is None


def test_the_json_has_the_names_that_others_read(tiny_model: Path) -> None:
    data = json.loads(json.dumps(document(MEASUREMENT_SCHEMA, profile(tiny_model, SHORT))))
    assert data["schema"] == "edgeslm.measurement/1"
    assert data["memory"]["peak_rss_bytes"] > 0
    assert data["prefill"]["tokens_per_second"]["median"] > 0
    assert data["decode"]["tokens_per_second"]["median"] > 0
    assert set(data["energy"]["decode_joules_per_token"]) == {"value", "provenance", "source"}


def test_runs_can_start_at_several_depths(tiny_model: Path) -> None:
    deep = replace(SHORT, prompt_tokens=16, depths=(300, 0, 20), repeats=2)
    assert deep.needed_context == 316
    found = profile(tiny_model, deep)
    assert (found.settings.depth, found.settings.depths) == (300, (300, 0, 20))
    assert [each.depth for each in found.depths] == [300, 0, 20]
    assert (found.prefill, found.decode) == (found.depths[0].prefill, found.depths[0].decode)
    assert all(len(each.decode.seconds.samples) == 2 for each in found.depths)
    assert len(found.conditions.during) == 3 * 2 * 2


def test_memory_is_told_apart(tiny_model: Path) -> None:
    used = profile(tiny_model, SHORT).memory
    assert used.peak_rss_bytes >= used.steady_rss_bytes > 10_000_000
    assert used.limit is None
    if used.pss_bytes is not None and used.private_bytes is not None:
        assert 1_000_000 < used.private_bytes <= used.pss_bytes <= 1.1 * used.steady_rss_bytes


def test_a_budget_shortens_the_runs_and_says_so(tiny_model: Path) -> None:
    found = profile(tiny_model, replace(SHORT, generated_tokens=200, budget_seconds=1e-3))
    assert found.settings.generated_tokens < 200
    assert found.settings.repeats == 3
    assert found.decode.tokens == found.settings.generated_tokens
    assert "shortened to keep to 0.001 seconds" in str(found.settings.shortened)
    roomy = profile(tiny_model, replace(SHORT, budget_seconds=600.0))
    assert (roomy.settings.shortened, roomy.decode.tokens) == (None, 8)


def test_what_lasts_is_kept_beside_the_peak(tiny_model: Path) -> None:
    found = profile(tiny_model, replace(SHORT, sustained_seconds=3.0))
    assert found.sustained is not None
    assert found.sustained.seconds == 3.0
    assert found.sustained.sustained.median > 0


def test_what_lasts_is_seen_with_the_same_settings(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuned, "default_threads", lambda: 2)
    found = profile(tiny_model, replace(SHORT, sustained_seconds=3.0))
    assert found.sustained is not None
    assert found.sustained.threads == found.settings.threads == 1


def test_a_measurement_comes_back_from_json(tiny_model: Path) -> None:
    found = profile(tiny_model, replace(SHORT, depths=(0, 8)))
    back = from_json(Measurement, json.loads(json.dumps(to_json(found))))
    assert back == found


@pytest.mark.parametrize(
    "options",
    [
        {"prompt_tokens": 0},
        {"generated_tokens": 0},
        {"repeats": 0},
        {"depths": (-1,)},
        {"depths": ()},
        {"depths": (0, 512, 0)},
        {"context_length": 100},
        {"context_length": 600, "depths": (0, 512)},
        {"idle_seconds": -1.0},
        {"idle_seconds": float("nan")},
        {"budget_seconds": 0.0},
        {"budget_seconds": float("inf")},
        {"sustained_seconds": float("nan")},
    ],
)
def test_runs_that_cannot_be_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOption):
        ProfileOptions(threads=1, **options)  # type: ignore[arg-type]
