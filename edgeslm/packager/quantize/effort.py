"""How much to find out about a model before it is quantized."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeslm.errors import InvalidOption

LENGTH = 512
"""Tokens in a sequence of calibration text."""
DEFAULT_SEQUENCES = 16
_MOST_SEQUENCES = 4096


@dataclass(frozen=True)
class Effort:
    """How much to find out before a mix is chosen.

    Attributes:
        calibration: Text to calibrate on; None for what the model itself says.
        sequences: How many sequences of 512 tokens of it.
        quick: No calibration at all: ggml's rounding, and weights by role.
        threads: To compute with.
    """

    calibration: Path | None = None
    sequences: int = DEFAULT_SEQUENCES
    quick: bool = False
    threads: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.sequences <= _MOST_SEQUENCES:
            raise InvalidOption(
                f"{self.sequences * LENGTH} calibration tokens",
                hint=f"{DEFAULT_SEQUENCES * LENGTH} are usual, {_MOST_SEQUENCES * LENGTH} most.",
            )
        if self.quick and self.calibration is not None:
            raise InvalidOption(
                "a quick mix uses no calibration text", hint="Leave out --quick or --calibration."
            )
