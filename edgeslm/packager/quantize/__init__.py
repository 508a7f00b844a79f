"""Fewer bits per weight: a type by llama.cpp's name, or the best mix under a budget."""

from __future__ import annotations

from pathlib import Path

from edgeslm.errors import InvalidOption
from edgeslm.gguf.validation import read_model
from edgeslm.packager.quantize.result import QuantizeResult
from edgeslm.packager.quantize.stock import quantize_stock

__all__ = ["QuantizeResult", "quantize"]


def quantize(
    source: Path,
    output: Path,
    *,
    file_type: str | None = None,
    bits: float | None = None,
    size_bytes: int | None = None,
    imatrix: Path | None = None,
    threads: int | None = None,
) -> QuantizeResult:
    """Write the GGUF file `source` quantized to `output`.

    Args:
        source: Any GGUF model file; best one of float weights.
        output: Where the result appears once it is complete.
        file_type: A type by llama.cpp's name, such as Q4_K_M.
        bits: Or the average bits per weight the tensors may take.
        size_bytes: Or the bytes the whole file may take.
        imatrix: With a type: an importance matrix of this model, to weight the rounding with.
        threads: None for one per core.

    Raises:
        InvalidOption: not exactly one of the three, an unknown type, or a number out of reach.
        InvalidGGUF, NotFound: the source is no sound model file, or `imatrix` no such matrix.
        Unsupported: the type needs an importance matrix for this model, or the one given is
            for another model.
        OutputFailure: the output cannot be written.
        NativeFailure: llama.cpp refused or crashed.
    """
    if [file_type, bits, size_bytes].count(None) != 2:
        raise InvalidOption(
            "exactly one of a type, a width in bits and a size says how to quantize",
            hint="Give one of --type Q4_K_M, --bits 4.5 or --size 90M.",
        )
    if bits is not None and not 1 <= bits <= 32:
        raise InvalidOption(f"{bits:g} bits per weight", hint="Any number from 1 to 32.")
    if threads is not None and threads < 1:
        raise InvalidOption(f"{threads} threads", hint="Give 1 or more, or none for one per core.")
    if imatrix is not None and file_type is None:
        raise InvalidOption(
            "an importance matrix goes with a type",
            hint="Give a --type with it, or leave --imatrix out.",
        )
    header = read_model(source)
    if file_type is not None:
        return quantize_stock(header, output, file_type, threads, imatrix)
    # numpy comes with it, and costs what a small model takes to be quantized
    from edgeslm.packager.quantize.mix import bits_budget, quantize_mix, size_budget

    if bits is not None:
        return quantize_mix(header, output, bits_budget(header, bits), threads)
    assert size_bytes is not None  # noqa: S101  one of the three is given
    return quantize_mix(header, output, size_budget(size_bytes), threads)
