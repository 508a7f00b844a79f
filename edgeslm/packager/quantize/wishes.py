"""What a user wants of a quantized file, in terms of a user; `limits` makes limits of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wishes:
    """What the user asked for; None where nothing was said."""

    bits: float | None = None
    size_bytes: int | None = None
    ram_bytes: int | None = None
    min_tokens_per_second: float | None = None
    max_joules_per_token: float | None = None
    context_length: int | None = None
    kv_type: str | None = None
