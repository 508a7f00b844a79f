"""Short constructors for the metadata types that converted models use."""

from __future__ import annotations

from collections.abc import Sequence

from edgeslm.gguf.types import Field, ValueType


def text(key: str, value: str) -> Field:
    """A string."""
    return Field(key, ValueType.STRING, value)


def whole(key: str, value: int) -> Field:
    """A count or an id, 32 bits without sign."""
    return Field(key, ValueType.UINT32, value)


def real(key: str, value: float) -> Field:
    """A 32-bit float."""
    return Field(key, ValueType.FLOAT32, value)


def flag(key: str, value: bool) -> Field:
    """A truth value."""
    return Field(key, ValueType.BOOL, value)


def texts(key: str, values: Sequence[str]) -> Field:
    """A list of strings."""
    return Field(key, ValueType.ARRAY, values, ValueType.STRING)


def integers(key: str, values: Sequence[int]) -> Field:
    """A list of 32-bit integers with sign, llama.cpp's type for token types."""
    return Field(key, ValueType.ARRAY, values, ValueType.INT32)


def reals(key: str, values: Sequence[float]) -> Field:
    """A list of 32-bit floats."""
    return Field(key, ValueType.ARRAY, values, ValueType.FLOAT32)


def flags(key: str, values: Sequence[bool]) -> Field:
    """A list of truth values."""
    return Field(key, ValueType.ARRAY, values, ValueType.BOOL)
