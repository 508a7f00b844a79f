"""The record of one profile run: what ran, where, and what it took."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeslm.records import Figure, Statistic


@dataclass(frozen=True)
class ProfiledModel:
    """The model that was measured."""

    path: Path
    sha256: str
    architecture: str | None
    name: str | None
    file_bytes: int
    parameters: int
    bits_per_weight: float | None


@dataclass(frozen=True)
class Settings:
    """How it was measured.

    Attributes:
        threads: For decode.
        prompt_tokens: Tokens per prefill run.
        generated_tokens: Tokens per decode run.
        depth: Tokens already in the KV cache when a decode run starts.
        repeats: Runs of each kind, after one that is not counted.
    """

    context_length: int
    kv_type: str
    threads: int
    prefill_threads: int
    batch: int
    ubatch: int
    prompt_tokens: int
    generated_tokens: int
    depth: int
    repeats: int


@dataclass(frozen=True)
class Host:
    """The machine that ran it."""

    target: str | None
    target_reasons: tuple[str, ...]
    cpu: str | None
    cores: int
    memory_bytes: int
    system: str
    python: str
    llama_cpp_python: str
    features: tuple[str, ...]


@dataclass(frozen=True)
class Speed:
    """Repeated runs of prefill or decode."""

    tokens: int
    tokens_per_second: Statistic
    seconds: Statistic


@dataclass(frozen=True)
class MemoryUse:
    """Resident memory of the process, in bytes; None where this system does not tell.

    Attributes:
        peak_rss_bytes: Most that was resident at once.
        before_load_rss_bytes: Resident before the model was opened: Python and its libraries.
        weights_resident_bytes: Pages of the model file that were resident at the end.
        weights_copied_bytes: Weights that llama.cpp copied, for example to interleave them.
        kv_bytes: Allocated for the KV cache, as llama.cpp states it.
        compute_bytes: Allocated for compute and logits, as llama.cpp states it.
    """

    peak_rss_bytes: int
    before_load_rss_bytes: int
    weights_resident_bytes: int | None
    weights_copied_bytes: int
    kv_bytes: int
    compute_bytes: int


@dataclass(frozen=True)
class Energy:
    """Energy per token, gross: what the meter's scope drew, idle power included.

    Attributes:
        meter: What was read, None where the figures are estimated or unknown.
        scope: What the meter covers: "board", "package".
        notes: Which meters were looked for and why they were not used.
    """

    prefill_joules_per_token: Figure
    decode_joules_per_token: Figure
    meter: str | None
    scope: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Measurement:
    """One profile run."""

    model: ProfiledModel
    settings: Settings
    host: Host
    memory: MemoryUse
    prefill: Speed
    decode: Speed
    energy: Energy
