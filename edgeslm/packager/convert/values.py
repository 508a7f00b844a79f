"""Values of config.json, each of the type and in the range it must have.

A config comes from anywhere. What is read through these functions is either usable or an
error that names the key; nothing else of a config reaches arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeslm.errors import InvalidCheckpoint

Config = Mapping[str, Any]

_INT32_MAX = 2**31 - 1
_FLOAT32_MAX = 3.4028234663852886e38


def positive(config: Config, key: str, default: int | None = None) -> int:
    """A positive integer.

    Raises:
        InvalidCheckpoint: it is missing without a default, or something else.
    """
    return _integer(config, key, default, 1, "a positive integer")


def count(config: Config, key: str, default: int | None = None) -> int:
    """An integer that may be 0; errors as in `positive`."""
    return _integer(config, key, default, 0, "an integer from 0 on")


def number(config: Config, key: str, default: float | None = None) -> float:
    """A positive number that a 32-bit float can hold; errors as in `positive`."""
    value: Any = config.get(key)
    if value is None:
        value = default
    if type(value) in (int, float) and 0 < value <= _FLOAT32_MAX:
        return float(value)
    raise wrong(key, "a positive number", value)


def section(config: Config, key: str) -> Config:
    """An object within the config, empty where there is none.

    Raises:
        InvalidCheckpoint: it is something else.
    """
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise wrong(key, "an object", value)
    return value


def layer_types(config: Config) -> tuple[str, ...] | None:
    """What kind of attention each layer has; None where the config doesn't say.

    Raises:
        InvalidCheckpoint: it has not one of the two kinds for every layer.
    """
    value, layers = config.get("layer_types"), positive(config, "num_hidden_layers")
    if value is None:
        return None
    known = ("full_attention", "sliding_attention")
    if not isinstance(value, list) or len(value) != layers or any(k not in known for k in value):
        raise InvalidCheckpoint(
            f"config.json: layer_types do not describe {layers} layers",
            hint="Compare config.json with the original model's.",
        )
    return tuple(value)


def wrong(key: str, wanted: str, value: object) -> InvalidCheckpoint:
    """The error for a value that is not what `key` needs."""
    found = repr(value)
    shown = found if len(found) <= 60 else f"{found[:60]}..."
    return InvalidCheckpoint(
        f"config.json: {key} must be {wanted}, found {shown}",
        hint="Compare config.json with the original model's.",
    )


def _integer(config: Config, key: str, default: int | None, least: int, wanted: str) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if type(value) is not int or not least <= value <= _INT32_MAX:
        raise wrong(key, wanted, value)
    return value
