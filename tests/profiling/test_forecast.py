"""What cells are expected to take, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeslm.errors import NotFound
from edgeslm.profiling.forecast import UNKNOWN_FORECAST, Forecast, forecasts
from edgeslm.profiling.matrix import parse_matrix
from edgeslm.profiling.variants import find_variants
from edgeslm.testing import tiny_gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sizes of a real one: what takes no time can hardly be compared."""
    sizes: dict[str, Any] = {"layers": 4, "width": 512, "heads": 8, "kv_heads": 4}
    return tiny_gguf(
        tmp_path_factory.mktemp("model") / "m.gguf", feed_forward=1536, weight_type="F16", **sizes
    )


def forecast(model: Path, target: str | None = "rpi4-4gb", **tables: Any) -> list[Forecast]:
    host = {"address": "pi"} | ({} if target is None else {"target": target})
    axes = {"hosts": ["pi"]} | tables.pop("axes", {})
    content = {"models": {"m": model.name}, "hosts": {"pi": host}, "axes": axes, **tables}
    matrix = parse_matrix(model.parent / "matrix.toml", content)
    return list(forecasts(find_variants(matrix), matrix.cells))


def test_smaller_types_are_faster_and_need_less(model: Path) -> None:
    original, small, mixed = forecast(model, axes={"types": ["original", "Q4_0", 5.5]})
    assert original.target == "rpi4-4gb"
    assert original.fits is True
    for each in (small, mixed):
        assert (each.memory_bytes or 0) < (original.memory_bytes or 0)
        assert (each.decode or 0) > (original.decode or 0)
        assert (each.seconds or 0) < (original.seconds or 0)


def test_longer_runs_take_longer(model: Path) -> None:
    def seconds(**runs: Any) -> float:
        (found,) = forecast(model, runs={"repeats": 3, **runs})
        assert found.seconds is not None
        return found.seconds

    usual = seconds()
    assert seconds(repeats=30) > 4 * usual - 3 * (10 + 20)
    assert seconds(warm_up_seconds=0) == pytest.approx(usual - 20)
    assert seconds(depths=[0, 512]) > usual
    assert seconds(sustained_seconds=100) == pytest.approx(usual + 100)
    assert seconds(idle_seconds=50) == pytest.approx(usual + 45)
    assert seconds(budget_seconds=1, repeats=1000) == pytest.approx(3 + 5 + 20 + 1)


def test_a_memory_limit_takes_two_profiles_that_keep_to_a_budget(model: Path) -> None:
    def seconds(**runs: Any) -> float:
        (found,) = forecast(model, runs={"idle_seconds": 5, "warm_up_seconds": 0, **runs})
        assert found.seconds is not None
        return found.seconds

    few = {"repeats": 3, "memory_limit": "512M", "sustained_seconds": 100}
    once = seconds(repeats=3)
    assert once < 60
    assert seconds(**few) == pytest.approx((once - 5) + (once + 100))
    assert seconds(**few | {"repeats": 100_000}) == pytest.approx((once - 5) + (3 + 5 + 60 + 100))
    assert seconds(**few | {"depths": [0, 512]}) == pytest.approx(
        (once - 5) + seconds(repeats=3, depths=[0, 512], sustained_seconds=100)
    )
    assert seconds(**few | {"budget_seconds": 1}) == pytest.approx((3 + 1) + (3 + 5 + 1 + 100))


def test_contexts_take_memory(model: Path) -> None:
    short, long = forecast(model, axes={"contexts": ["auto", 8192]})
    assert (long.memory_bytes or 0) > (short.memory_bytes or 0) + 10_000_000


def test_what_nothing_is_known_of_is_unknown(model: Path) -> None:
    assert forecast(model, None) == [UNKNOWN_FORECAST]


def test_no_such_board(model: Path) -> None:
    with pytest.raises(NotFound, match="rpi99"):
        forecast(model, "rpi99")
