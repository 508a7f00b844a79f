from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.records import (
    UNKNOWN,
    Figure,
    Provenance,
    Statistic,
    document,
    from_json,
    to_json,
)


@dataclass(frozen=True)
class _Inner:
    path: Path
    figure: Figure


@dataclass(frozen=True)
class _Outer:
    inner: _Inner
    items: tuple[int, ...]


def test_records_become_plain_json() -> None:
    value = _Outer(_Inner(Path("a/b"), Figure(1.5, Provenance.ESTIMATED, "a guess")), (1, 2))
    assert json.loads(json.dumps(document("test/1", value))) == {
        "schema": "test/1",
        "inner": {
            "path": "a/b",
            "figure": {"value": 1.5, "provenance": "estimated", "source": "a guess"},
        },
        "items": [1, 2],
    }


def test_what_is_unknown_is_null_not_zero() -> None:
    assert to_json(UNKNOWN) == {"value": None, "provenance": None, "source": None}


def test_spread_is_a_fraction_of_the_median() -> None:
    statistic = Statistic.of([9.0, 10.0, 12.0])
    assert statistic.median == 10.0
    assert statistic.spread == 0.3


@given(st.lists(st.floats(min_value=0.1, max_value=1e6), min_size=1))
def test_the_median_lies_between_the_extremes(samples: list[float]) -> None:
    statistic = Statistic.of(samples)
    assert statistic.minimum <= statistic.median <= statistic.maximum
    assert statistic.samples == tuple(samples)


@dataclass(frozen=True)
class _Several:
    inner: _Inner | None
    pair: tuple[float, float]
    names: tuple[str, ...]
    certain: bool


@pytest.mark.parametrize(
    "value",
    [
        _Several(None, (1.0, 2.0), (), certain=True),
        _Several(_Inner(Path("a"), UNKNOWN), (1.5, 2.5), ("a", "b"), certain=False),
        _Several(
            _Inner(Path("a"), Figure(2.0, Provenance.MEASURED, "it")), (0.0, 0.0), ("",), True
        ),
    ],
)
def test_records_come_back_from_json(value: _Several) -> None:
    assert from_json(_Several, json.loads(json.dumps(document("test/1", value)))) == value


@pytest.mark.parametrize(
    "changes",
    [
        {"inner": 3},
        {"inner": {"path": "a"}},
        {"pair": [1.0]},
        {"pair": ["a", "b"]},
        {"names": "ab"},
        {"names": [1]},
        {"certain": 1},
    ],
)
def test_what_is_no_such_record_is_refused(changes: dict[str, object]) -> None:
    value = to_json(_Several(None, (1.0, 2.0), (), certain=True))
    with pytest.raises(ValueError, match=r"no _Several|expected|argument|bool|str"):
        from_json(_Several, value | changes)
    with pytest.raises(ValueError, match=r"no _Several|expected|argument|bool|str"):
        from_json(_Several, None)


@dataclass(frozen=True)
class _Longer:
    old: int
    new: float | None = None


def test_what_older_documents_lack_is_its_default() -> None:
    assert from_json(_Longer, {"old": 1}) == _Longer(1)
    with pytest.raises(ValueError, match="no _Longer"):
        from_json(_Longer, {"new": 1.0})
