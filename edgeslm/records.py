"""Frozen values that pass between rooms, and how they become JSON.

What was not measured is None, never zero. Every figure says where it comes from. The
schema names at the end are part of the public contract: a change of meaning is a new number.
"""

from __future__ import annotations

import dataclasses
import statistics
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

MEASUREMENT_SCHEMA = "edgeslm.measurement/1"
PREDICTION_SCHEMA = "edgeslm.prediction/1"
MANIFEST_SCHEMA = "edgeslm.manifest/1"
"""Of the packed directories that came before bundles."""
CHAT_SCHEMA = "edgeslm.chat/1"
FIGURES_SCHEMA = "edgeslm.figures/1"
TENSORS_SCHEMA = "edgeslm.tensors/1"
INSPECTION_SCHEMA = "edgeslm.inspection/1"
QUALITY_SCHEMA = "edgeslm.quality/1"
TYPES_SCHEMA = "edgeslm.types/1"
RECIPE_SCHEMA = "edgeslm.recipe/1"
CONVERSATION_SCHEMA = "edgeslm.conversation/1"
LADDER_SCHEMA = "edgeslm.ladder/1"
TUNED_SCHEMA = "edgeslm.tuned/1"
TUNING_SCHEMA = "edgeslm.tuning/1"
SUSTAINED_SCHEMA = "edgeslm.sustained/1"
FIT_SCHEMA = "edgeslm.fit/1"
DOCTOR_SCHEMA = "edgeslm.doctor/1"
REPORT_SCHEMA = "edgeslm.report/1"
FAILURE_SCHEMA = "edgeslm.failure/1"
BENCH_SCHEMA = "edgeslm.bench/1"
STORE_SCHEMA = "edgeslm.store/1"
INVENTORY_SCHEMA = "edgeslm.inventory/1"
DELTA_SCHEMA = "edgeslm.delta/1"
PROBE_SCHEMA = "edgeslm.probe/1"
HEALTH_SCHEMA = "edgeslm.health/1"
FLASH_SCHEMA = "edgeslm.flash/1"
RUNTIME_SCHEMA = "edgeslm.runtime/1"
BUILD_SCHEMA = "edgeslm.build/1"
"""Of what lies beside a compiled llama.cpp: for which processors it is."""


_Record = TypeVar("_Record")


class Provenance(str, Enum):
    """Where a number comes from."""

    MEASURED = "measured"
    """Read from an instrument or a clock in the run that reports it."""
    CALIBRATED = "calibrated"
    """Computed from figures measured on the same machine earlier."""
    PUBLISHED = "published"
    """Taken from a document that `source` names."""
    ESTIMATED = "estimated"
    """Computed from a model of the hardware, or judged by analogy; `source` says how."""


@dataclass(frozen=True)
class Figure:
    """One number with its origin. A figure nobody knows has the value None."""

    value: float | None
    provenance: Provenance | None
    source: str | None


UNKNOWN = Figure(None, None, None)


@dataclass(frozen=True)
class Statistic:
    """Repeated measurements of one quantity, in the order they were taken."""

    median: float
    minimum: float
    maximum: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Iterable[float]) -> Statistic:
        """Summarise at least one sample."""
        values = tuple(samples)
        return cls(statistics.median(values), min(values), max(values), values)

    @property
    def spread(self) -> float:
        """Distance from the smallest to the largest sample, as a fraction of the median."""
        return (self.maximum - self.minimum) / self.median if self.median else 0.0


@dataclass(frozen=True)
class MemoryPlan:
    """Predicted resident memory of a loaded model, in bytes.

    Attributes:
        weights_bytes: The tensors, mapped from the file.
        kv_bytes: Keys, values and recurrent states.
        compute_bytes: What is computed with, and logits.
        overhead_bytes: The program, the vocabulary, the file's header.
        copied_bytes: Tensors that are interleaved for the processor and so in memory twice.
    """

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    overhead_bytes: int
    copied_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Everything that is resident at the peak."""
        return self.needed_bytes + self.copied_bytes

    @property
    def needed_bytes(self) -> int:
        """What must stay resident: not the file's pages of tensors that were copied."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.overhead_bytes


@dataclass(frozen=True)
class Prediction:
    """What is expected of a model on a target, before anything runs there."""

    target: str
    target_name: str
    context_length: int
    memory: MemoryPlan
    memory_free_bytes: int | None
    fits: bool | None
    prefill_tokens_per_second: Figure
    decode_tokens_per_second: Figure
    decode_joules_per_token: Figure


@dataclass(frozen=True)
class LikelyTokens:
    """The likeliest next tokens, in falling order, with their log-probabilities in nats."""

    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Probe:
    """What a model said on the machine that packed it, for another one to be held to.

    Attributes:
        prompt: Token ids that it was told.
        continuation: What it said, the likeliest token at every step.
        likeliest: At each of these steps.
        most_divergence: Nats by which another machine may differ, on average over the steps.
        least_same: The least share of steps at which the same token must be the likeliest there.
    """

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]
    likeliest: tuple[LikelyTokens, ...]
    most_divergence: float = 0.05
    least_same: float = 0.6


def to_json(value: Any) -> Any:
    """`value` as plain JSON types: dataclasses become objects, enums their values."""
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def from_json(kind: type[_Record], value: Any) -> _Record:
    """The record that `to_json` made `value` of; keys that `kind` has no field for are ignored.

    A field with a default may be missing: older documents have none.

    Raises:
        ValueError: `value` is no such record.
    """
    try:
        return typing.cast(_Record, _restored(kind, value))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no {kind.__name__}: {error}") from error


def _restored(kind: Any, value: Any) -> Any:
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        plain = [each for each in arguments if each is not type(None)]
        return None if value is None else _restored(plain[0], value)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"a list was expected, not {value!r}")
        each = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return tuple(_restored(*pair) for pair in zip(each, value, strict=True))
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = [
            field.name
            for field in dataclasses.fields(kind)
            if field.name in value or field.default is dataclasses.MISSING
        ]
        return typing.cast(Any, kind)(
            **{name: _restored(hints[name], value[name]) for name in fields}
        )
    if isinstance(kind, type) and issubclass(kind, (Enum, Path)):
        return kind(value)
    wanted = (int, float) if kind is float else kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{kind.__name__} was expected, not {value!r}")
    return value


def document(schema: str, value: Any) -> dict[str, Any]:
    """A record as a top-level JSON document that names its schema."""
    return {"schema": schema, **to_json(value)}
