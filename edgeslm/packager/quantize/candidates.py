"""What an allocation chooses from, and within which limits. Pure values."""

from __future__ import annotations

from dataclasses import dataclass

from edgeslm.gguf.types import TensorType

_ROUNDING = 1e-9
"""Sums of seconds in another order differ in their last digits; this much over is not over."""


@dataclass(frozen=True)
class Candidate:
    """A type a tensor could get: what it takes, and how much it harms (0 for nothing).

    `seconds` is what reading this tensor in this type costs for each generated token; 0 where
    nobody asked for a speed, and for a tensor that is not read.
    """

    type: TensorType
    bytes: int
    score: float
    seconds: float = 0.0


@dataclass(frozen=True)
class Options:
    """Everything one tensor could become; never empty."""

    tensor: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Limits:
    """The most that all tensors together may take: bytes, seconds per token, or both."""

    bytes: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.bytes is None and self.seconds is None:
            raise ValueError("an allocation needs a limit")

    def hold(self, count: int, seconds: float) -> bool:
        """Whether so many bytes and seconds keep the limits."""
        return (self.bytes is None or count <= self.bytes) and not self._too_slow(seconds)

    def _too_slow(self, seconds: float) -> bool:
        return self.seconds is not None and seconds > self.seconds + abs(self.seconds) * _ROUNDING

    @property
    def unit_bytes(self) -> int:
        """What one share of the limit on bytes is; 1 where there is none."""
        return max(self.bytes or 0, 1)

    @property
    def unit_seconds(self) -> float:
        """What one share of the limit on seconds is; 1 where there is none."""
        return self.seconds if self.seconds is not None and self.seconds > 0 else 1.0

    def excess(self, count: int, seconds: float) -> float:
        """How far the limits are exceeded, in shares of them; 0 where they hold."""
        total = 0.0
        if self.bytes is not None:
            total += max(count - self.bytes, 0) / self.unit_bytes
        if self.seconds is not None and self._too_slow(seconds):
            total += (seconds - self.seconds) / self.unit_seconds
        return total
