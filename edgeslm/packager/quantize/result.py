"""What a quantization gave, read back from the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm.gguf.inspection import inspect
from edgeslm.gguf.reader import Header

if TYPE_CHECKING:
    from edgeslm.packager.quantize.explain import Explanation

FLOAT_TYPES = frozenset({"F32", "F16", "BF16", "F64"})


@dataclass(frozen=True)
class QuantizeResult:
    """A quantized file, as read back after it was written."""

    path: Path
    requested: str
    """What was asked for, in words: "Q4_K_M", "4.5 bits per weight" or "90.0 MB"."""
    file_bytes: int
    bits_per_weight: float | None
    """Bytes of all tensors * 8 / elements of all tensors."""
    types: Mapping[str, int]
    """How many tensors have each type, the one with the most parameters first."""
    requantized_from: str | None
    """The type most of the source's parameters had, if that was a quantized one."""
    warnings: tuple[str, ...]
    predicted_kld: float | None = None
    """Nats of KL divergence per token that are expected; None where nothing was measured."""
    encoding_seconds: float | None = None
    """What reading, encoding and writing took, without what was found out before."""
    explanation: Explanation | None = None
    """The mix in figures, where it was asked for."""


def describe(
    source: Header,
    output: Header,
    *,
    requested: str,
    warnings: Sequence[str],
    predicted_kld: float | None = None,
    encoding_seconds: float | None = None,
) -> QuantizeResult:
    """Say what a written file is, from its header as it was read back."""
    written = inspect(output)
    origin = inspect(source).true_type if is_quantized(source) else None
    if origin is not None:
        notice = f"the source was quantized already ({origin}): its errors stay, new ones add up"
        warnings = (notice, *warnings)
    return QuantizeResult(
        path=output.path,
        requested=requested,
        file_bytes=written.file_bytes,
        bits_per_weight=written.bits_per_weight,
        types={share.type: share.tensors for share in written.types},
        requantized_from=origin,
        warnings=tuple(warnings),
        predicted_kld=predicted_kld,
        encoding_seconds=encoding_seconds,
    )


def is_quantized(header: Header) -> bool:
    """Whether most parameters are in a quantized type."""
    return inspect(header).true_type not in FLOAT_TYPES
