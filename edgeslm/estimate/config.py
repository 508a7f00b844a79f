"""A checkpoint's config.json: what it says, and what it leaves to its family."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgeslm.errors import InvalidCheckpoint, reading

_MOST = 2**24
"""Beyond any real width, vocabulary or count."""
_MOST_BYTES = 8_000_000

GEMMA3_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "tie_word_embeddings": True,
    }
)
"""What transformers takes (`Gemma3TextConfig`) where a configuration is silent."""


def read_config(path: Path) -> Mapping[str, Any]:
    """What a config.json says of the language model.

    Models that also see images keep it in `text_config`, which comes before what is outside of it.

    Raises:
        NotFound: there is no such file.
        InvalidCheckpoint: it is no configuration.
    """
    with reading(path):
        if path.stat().st_size > _MOST_BYTES:
            raise InvalidCheckpoint(f"{path} is too large for a configuration")
        try:
            config = json.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise InvalidCheckpoint(
                f"{path} is no JSON: {str(error)[:200]}", hint="Download it again."
            ) from error
    if not isinstance(config, dict):
        raise InvalidCheckpoint(f"{path} is no configuration of a model")
    inner = config.get("text_config")
    return laid_over(config, inner) if isinstance(inner, dict) else config


def laid_over(config: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with what is `said`; a null says nothing."""
    return {**config, **{key: value for key, value in said.items() if value is not None}}


class Numbers:
    """The numbers of a configuration, each checked when it is asked for."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self._path, self._config = path, config

    def count(self, *names: str, default: int | None = None, most: int = _MOST) -> int:
        """The first of `names` that is there.

        Raises:
            InvalidCheckpoint: it is no number from 1 to `most`, or there is none and no default.
        """
        for name in names:
            value = self._config.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
                raise self._wrong(name, f"no number of 1 to {most}")
            return value
        if default is None:
            raise InvalidCheckpoint(f"{self._path} lacks {names[0]}", hint="Download it again.")
        return default

    def factor(self, name: str) -> float:
        """A positive factor; 1 where there is none.

        Raises:
            InvalidCheckpoint: it is no such number.
        """
        value = self._config.get(name)
        if value is None:
            return 1.0
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._wrong(name, "no number")
        if not (0 < value <= _MOST and math.isfinite(value)):
            raise self._wrong(name, f"not above 0 and up to {_MOST}")
        return float(value)

    def _wrong(self, name: str, what: str) -> InvalidCheckpoint:
        return InvalidCheckpoint(f"{self._path}: {name} is {what}", hint="Download it again.")
