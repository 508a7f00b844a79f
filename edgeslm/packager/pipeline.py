"""The whole chain: checkpoint or GGUF file to a packed directory. Joins steps, computes nothing."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from edgeslm.bundle.directory import Manifest, ensure_replaceable, write_bundle
from edgeslm.bundle.model_path import find_model
from edgeslm.errors import InvalidOption, reading, writing
from edgeslm.estimate.prediction import predict
from edgeslm.gguf.validation import read_model
from edgeslm.packager.convert import convert
from edgeslm.packager.quantize import quantize
from edgeslm.packager.quantize.result import is_quantized
from edgeslm.records import Prediction
from edgeslm.targets.target import Target

DEFAULT_TYPE = "Q4_K_M"
"""What float weights become when nothing else is asked for: the usual compromise."""


@dataclass(frozen=True)
class PackResult:
    """A packed directory and what to expect of it."""

    path: Path
    manifest: Manifest
    prediction: Prediction
    warnings: tuple[str, ...]


def pack(
    model: Path,
    output: Path,
    *,
    target: Target,
    file_type: str | None = None,
    bits: float | None = None,
    size_bytes: int | None = None,
    context_length: int | None = None,
    kv_type: str | None = None,
    threads: int | None = None,
) -> PackResult:
    """Convert, quantize and predict as needed, and write a directory ready for the board.

    Without a type, width or size, a quantized model stays as it is and float weights become
    DEFAULT_TYPE.

    Args:
        model: A Hugging Face checkpoint, a GGUF file or a packed directory.
        output: The directory; it appears when it is complete.
        target: The board it is for.
        file_type: A type by llama.cpp's name,
        bits: or the average bits per weight,
        size_bytes: or the size of the model file.
        context_length: Tokens of context the prediction is for; None for the target's default.
        kv_type: The type of the KV cache the prediction is for; None for the target's default.
        threads: For quantizing; None for one per core.

    Raises:
        UserError: the model or an option is wrong.
        Failure: a step failed.
    """
    size = _Size(file_type, bits, size_bytes)
    ensure_replaceable(output)
    with writing(output):
        scratch = tempfile.TemporaryDirectory(prefix=".edgeslm-", dir=output.resolve().parent)
    with scratch:
        folder = Path(scratch.name)
        source = _as_gguf(model, folder / "converted.gguf")
        packed, warnings = _quantized(source, folder / "quantized.gguf", size, threads)
        prediction = predict(
            read_model(packed), target, context_length=context_length, kv_type=kv_type
        )
        move = packed.parent == folder
        manifest = write_bundle(output, packed, prediction, move=move)
    return PackResult(output, manifest, prediction, warnings)


@dataclass(frozen=True)
class _Size:
    """How small the model shall become; at most one is given."""

    file_type: str | None
    bits: float | None
    size_bytes: int | None

    def __post_init__(self) -> None:
        if astuple(self).count(None) < 2:
            raise InvalidOption(
                "a type, a width in bits and a size exclude each other",
                hint="Give at most one of --type, --bits and --size.",
            )


_NOT_SAID = _Size(None, None, None)


def _as_gguf(model: Path, converted: Path) -> Path:
    """The GGUF file of a model, converted first where it is a checkpoint."""
    with reading(model):
        checkpoint = (model / "config.json").exists()
    if checkpoint:
        convert(model, converted)
        return converted
    return find_model(model)


def _quantized(
    source: Path, output: Path, size: _Size, threads: int | None
) -> tuple[Path, tuple[str, ...]]:
    """The file to pack, `source` itself where nothing is to be done, and warnings."""
    if size == _NOT_SAID:
        if is_quantized(read_model(source)):
            return source, ()
        size = _Size(DEFAULT_TYPE, None, None)
    result = quantize(source, output, **asdict(size), threads=threads)
    return output, result.warnings
