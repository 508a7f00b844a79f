"""Quantize to a type by llama.cpp's name: the mix of tensor types is llama.cpp's own."""

from __future__ import annotations

from pathlib import Path

from edgeslm.gguf.validation import read_model
from edgeslm.llama.quantizer import QuantizeOptions, file_type_name, quantize_model, waiting_child
from edgeslm.packager.quantize.result import QuantizeResult, describe


def quantize_stock(
    source: Path,
    output: Path,
    file_type: str,
    threads: int | None,
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
        written = quantize_model(header, output, options, child=child)
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
