"""Quantize to a type by llama.cpp's name: the mix of tensor types is llama.cpp's own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgeslm.gguf.reader import Header
from edgeslm.gguf.types import DEFAULT_ALIGNMENT
from edgeslm.gguf.validation import read_model
from edgeslm.llama.quantizer import (
    COPY,
    Child,
    Quantized,
    QuantizeOptions,
    file_type_name,
    planned,
    quantize_model,
    waiting_child,
)
from edgeslm.packager.quantize.result import QuantizeResult, describe


def quantize_stock(
    source: Path,
    output: Path,
    file_type: str,
    threads: int,
    imatrix: Path | None = None,
) -> QuantizeResult:
    """Write the model file `source` to `output` as llama-quantize would.

    Raises:
        InvalidOption: an unknown type.
        InvalidGGUF, NotFound: there is no sound model at `source`, or matrix at `imatrix`.
        Unsupported: the type needs an importance matrix for this model, or the one given is
            for another model.
        OutputFailure: the output cannot be written.
        NativeFailure: llama.cpp refused or crashed.
    """
    name = file_type_name(file_type)
    options = QuantizeOptions(name, threads=threads, allow_requantize=True, imatrix=imatrix)
    with waiting_child() as child:
        header = read_model(source)
        written = _written(header, output, options, child)
    warnings = []
    if written.fallbacks:
        warnings.append(
            f"{written.fallbacks} of {len(header.tensors)} tensors have rows that {name}'s blocks "
            "do not divide; llama.cpp gave them larger types (--bits chooses among all that fit)"
        )
    return describe(
        header,
        written.header,
        requested=name,
        warnings=warnings,
        encoding_seconds=written.seconds,
    )


def _written(header: Header, output: Path, options: QuantizeOptions, child: Child) -> Quantized:
    """The file: llama.cpp says which type each tensor gets, and we encode; else both is its."""
    name = options.file_type
    if options.imatrix is not None or name == COPY or header.alignment != DEFAULT_ALIGNMENT:
        return quantize_model(header, output, options, child=child)
    with ThreadPoolExecutor(1) as pool:  # numpy comes while llama.cpp plans
        imported = pool.submit(_writer)
        plan = planned(header, options, child=child)
    seconds = imported.result()(header, plan.types, output, options.threads or 1, name)
    return Quantized(read_model(output), plan.fallbacks, seconds)


def _writer() -> Callable[..., float]:
    from edgeslm.packager.quantize.plain import write_plain

    return write_plain
