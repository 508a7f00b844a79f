"""Calibration with models too small to say anything: that it runs, counts and cleans up."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from edgeslm.errors import InvalidOption, OutputFailure
from edgeslm.profiling import calibrate as module
from edgeslm.profiling.calibrate import CalibrateOptions, Calibration, calibrate
from edgeslm.profiling.calibrated_target import calibrate_to, calibrated_target
from edgeslm.records import Provenance
from edgeslm.targets.detection import detect
from edgeslm.targets.loading import load_target
from edgeslm.targets.writing import write_target


@pytest.fixture(scope="module")
def small() -> Calibration:
    return calibrate(
        CalibrateOptions(
            threads=1,
            types=("Q8_0", "Q4_K"),
            repeats=2,
            run_seconds=0.001,
            weight_bytes=12_000_000,
            depth=256,
        )
    )


def test_every_type_gets_its_rates(small: Calibration) -> None:
    assert [item.type for item in small.types] == ["Q8_0", "Q4_K"]
    for item in small.types:
        assert 0.01 < item.decode_gigabytes_per_second < 1000
        assert 0.1 < item.prefill_gigaflops < 100_000
        assert len(item.decode_seconds.samples) == 2
        gross = item.weight_bytes / item.decode_seconds.median / 1e9
        assert gross <= item.decode_gigabytes_per_second <= 4.01 * gross
    assert small.token_seconds >= 0
    assert small.layer_seconds >= 0


def test_types_are_read_in_full(small: Calibration) -> None:
    """Bits per weight of both types are in the ratio of their models' bytes, or layers differ."""
    for item in small.types:
        assert 6_000_000 < item.weight_bytes < 20_000_000


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "write_synthetic", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        calibrate(CalibrateOptions(threads=1, types=("Q8_0",)))
    assert not list(tmp_path.iterdir())


def _interrupted(path: Path, *_rest: object) -> None:
    path.write_bytes(b"half")
    raise KeyboardInterrupt


def test_the_target_says_what_was_measured_and_how(small: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    write_target(calibrated_target(small, "mine"), path)
    target = load_target(str(path))

    assert target.id == "mine"
    assert target.cores
    assert target.memory.free_bytes
    assert target.defaults.threads == 1
    figure = target.decode_gigabytes_per_second("Q8_0")
    assert figure.value == pytest.approx(small.types[0].decode_gigabytes_per_second, rel=1e-3)
    assert figure.provenance is Provenance.MEASURED
    for word in ("llama-cpp-python", "spread", "1 threads", detect().host.cpu or ""):
        assert word in str(figure.source)
    other = target.decode_gigabytes_per_second("Q5_0")
    assert other.provenance is Provenance.CALIBRATED
    assert not target.match.cpu


def test_a_restless_machine_is_told(small: Calibration) -> None:
    assert not Calibration(1, 0.0, 0.0, 0.01, (), ()).warnings
    assert "overhead" in Calibration(1, 0.0, 0.0, 0.5, (), ()).warnings[0]


@pytest.mark.parametrize("types", [(), ("Q8_0", "Q8_0"), ("Q4_K_M",), ("I8",)])
def test_types_that_cannot_be_measured(types: tuple[str, ...]) -> None:
    with pytest.raises(InvalidOption):
        CalibrateOptions(threads=1, types=types)


def test_where_it_cannot_be_written_is_said_before_measuring(tmp_path: Path) -> None:
    with pytest.raises(OutputFailure):
        calibrate_to(tmp_path / "none" / "mine.toml", threads=1)
    with pytest.raises(InvalidOption, match=r"\.toml"):
        calibrate_to(tmp_path / "mine.txt", threads=1)


def test_the_last_cache_is_the_largest(tmp_path: Path) -> None:
    assert module._last_cache_bytes(tmp_path) == 16_000_000
    for index, size in enumerate(["32K", "1024K", "32M"]):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert module._last_cache_bytes(tmp_path) == 32 * 2**20
