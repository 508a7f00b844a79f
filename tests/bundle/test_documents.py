"""JSON as bundles hold it."""

from __future__ import annotations

import pytest

from edgeslm.bundle.documents import canonical, parse
from edgeslm.errors import InvalidBundle


@pytest.mark.parametrize("value", [1, None, "ü", [], {"a": [{"b": 1.5}]}, {"": {}}])
def test_there_and_back(value: object) -> None:
    assert parse(canonical(value), "it") == value


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[1e999]",
        '{"a": "\\ud800"}',
        "1" * 5000,
        "[" * 70 + "]" * 70,
        '{"a":' * 70 + "1" + "}" * 70,
        "[" * 100_000,
        '{"a": 1, "a": 1}',
        "{",
    ],
)
def test_what_no_bundle_holds(text: str) -> None:
    with pytest.raises(InvalidBundle, match="it: not JSON"):
        parse(text.encode(), "it")
