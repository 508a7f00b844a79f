from __future__ import annotations

import pytest

from edgeslm.cli.settings import NAMES, changed, listed
from edgeslm.errors import InvalidOption, NotFound
from edgeslm.runtime.generation import GenerationOptions


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_can_be_changed_and_is_listed(name: str) -> None:
    value = "3" if name in ("top-k", "seed", "tokens") else "0.5"
    options = changed(GenerationOptions(), name, value)
    assert options != GenerationOptions()
    assert f"{name:<17} {value}" in listed(options)


def test_some_can_be_none() -> None:
    options = changed(changed(GenerationOptions(5), "seed", "7"), "n", "none")
    assert (options.sampling.seed, options.max_tokens) == (7, None)
    assert changed(options, "seed", "random").sampling.seed is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", "hot"), ("temperature", "-1"), ("top-k", "1.5"), ("top-p", "nan"), ("n", "0")],
)
def test_values_that_make_no_sense(name: str, value: str) -> None:
    with pytest.raises(InvalidOption):
        changed(GenerationOptions(), name, value)


def test_unknown_settings() -> None:
    with pytest.raises(NotFound, match="no setting heat"):
        changed(GenerationOptions(), "heat", "1")
