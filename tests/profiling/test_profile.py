from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeslm.errors import InvalidOption
from edgeslm.files import sha256
from edgeslm.profiling import profile as module
from edgeslm.profiling.meters import FoundMeter
from edgeslm.profiling.meters.base import Scope
from edgeslm.profiling.profile import ProfileOptions, profile
from edgeslm.records import MEASUREMENT_SCHEMA, Provenance, document

SHORT = ProfileOptions(threads=1, prompt_tokens=32, generated_tokens=8, repeats=3)


class CountingMeter:
    """One joule per reading: as real as a meter gets without an instrument."""

    name = "counting"
    scope = Scope.BOARD
    provenance = Provenance.MEASURED
    source = "a counter"

    def __init__(self) -> None:
        self.readings = 0

    def read_joules(self) -> float:
        self.readings += 1
        return float(self.readings)


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


def test_resident_weights_are_pages_of_the_file(tiny_model: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"  # a file that nothing else in this process has mapped
    own.write_bytes(tiny_model.read_bytes())
    resident = profile(own, SHORT).memory.weights_resident_bytes
    assert resident is None or 0 < resident <= own.stat().st_size + 4096


def test_energy_is_what_the_meter_counted_in_the_counted_runs(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_meter", lambda _target: FoundMeter(CountingMeter(), ("why",)))
    energy = profile(tiny_model, SHORT).energy
    # Each counted run lies between two readings: one joule a run.
    assert energy.decode_joules_per_token.value == pytest.approx(3 / (3 * 8))
    assert energy.prefill_joules_per_token.value == pytest.approx(3 / (3 * 32))
    assert energy.decode_joules_per_token.provenance is Provenance.MEASURED
    assert energy.decode_joules_per_token.source == "a counter"
    assert (energy.meter, energy.scope, energy.notes) == ("counting", "board", ("why",))


def test_without_a_meter_energy_is_unknown_not_zero(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_meter", lambda _target: FoundMeter(None, ("none here",)))
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


def test_decode_can_start_deep_in_the_context(tiny_model: Path) -> None:
    deep = ProfileOptions(threads=1, prompt_tokens=8, generated_tokens=8, depth=300, repeats=1)
    assert deep.needed_context == 308
    assert profile(tiny_model, deep).settings.depth == 300


@pytest.mark.parametrize(
    "options",
    [
        {"prompt_tokens": 0},
        {"generated_tokens": 0},
        {"repeats": 0},
        {"depth": -1},
        {"context_length": 100},
    ],
)
def test_runs_that_cannot_be_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InvalidOption):
        ProfileOptions(threads=1, **options)  # type: ignore[arg-type]
