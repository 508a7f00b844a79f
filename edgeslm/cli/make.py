"""The verbs that make a file: convert, quantize, pack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeslm.cli import options, output
from edgeslm.cli.measure import print_prediction
from edgeslm.records import to_json
from edgeslm.units import format_bytes


def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A Hugging Face checkpoint.", show_default=False),
    ],
    destination: options.Output,
    file_type: Annotated[
        str | None,
        typer.Option(
            "--type", metavar="TYPE", help="F32, F16 or BF16; default: what the checkpoint has."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Convert a Hugging Face checkpoint to GGUF, tensor by tensor.

    Examples:
        edgeslm convert SmolLM2-135M-Instruct/ -o model.gguf
        edgeslm convert Qwen3-0.6B/ -o model.gguf --type F16
    """
    from edgeslm.packager.convert import convert as convert_checkpoint

    result = convert_checkpoint(
        checkpoint, destination, type=file_type.upper() if file_type else None
    )
    if json:
        output.print_json(to_json(result))
        return
    print(
        f"wrote {result.path}: {result.architecture}, {result.parameters:,} parameters, "
        f"{result.type}, {format_bytes(result.file_bytes)}"
    )


def quantize(
    model: options.Model,
    destination: options.Output,
    file_type: options.FileType = None,
    bits: options.Bits = None,
    size: options.Size = None,
    imatrix: Annotated[
        Path | None,
        typer.Option(
            "--imatrix", metavar="FILE", help="With --type: an importance matrix of this model."
        ),
    ] = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Make a model smaller: by type, by bits per weight, or to fit a size.

    With --bits or --size each tensor gets the type that loses least within the budget.

    Examples:
        edgeslm quantize model.gguf -o small.gguf --type Q4_K_M
        edgeslm quantize model.gguf -o small.gguf --type IQ3_XXS --imatrix model.imatrix.gguf
        edgeslm quantize model.gguf -o small.gguf --bits 5.2
        edgeslm quantize model.gguf -o small.gguf --size 95M
    """
    from edgeslm.bundle.model_path import find_model
    from edgeslm.packager.quantize import quantize as quantize_model

    result = quantize_model(
        find_model(model),
        destination,
        file_type=file_type,
        bits=bits,
        size_bytes=size,
        imatrix=imatrix,
        threads=threads,
    )
    for warning in result.warnings:
        output.warn(warning)
    if json:
        output.print_json(to_json(result))
        return
    types = ", ".join(f"{count} x {name}" for name, count in result.types.items())
    print(
        f"wrote {result.path}: {format_bytes(result.file_bytes)}, "
        f"{result.bits_per_weight:.2f} bits per weight ({types})"
    )


def pack(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="A Hugging Face checkpoint or a GGUF file.", show_default=False
        ),
    ],
    destination: options.Output,
    target: Annotated[
        str, typer.Option("--target", metavar="ID", help="The board it is for.", show_default=False)
    ],
    file_type: options.FileType = None,
    bits: options.Bits = None,
    size: options.Size = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context", metavar="N", help="Context length to plan for; default: the target's."
        ),
    ] = None,
    kv_type: Annotated[
        str | None,
        typer.Option(
            "--kv-type", metavar="TYPE", help="Type of the KV cache; default: the target's."
        ),
    ] = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Run the whole chain, and write a directory that is ready for a board.

    It holds the model, a manifest with hashes, and what to expect on the target.

    Examples:
        edgeslm pack SmolLM2-135M-Instruct/ -o packed/ --target rpi-zero-2w --bits 5
        edgeslm pack model.gguf -o packed/ --target rpi5-4gb
    """
    from edgeslm.packager.pipeline import pack as pack_model
    from edgeslm.targets.loading import load_target

    result = pack_model(
        model,
        destination,
        target=load_target(target),
        file_type=file_type,
        bits=bits,
        size_bytes=size,
        context_length=context,
        kv_type=kv_type.upper() if kv_type else None,
        threads=threads,
    )
    for warning in result.warnings:
        output.warn(warning)
    if json:
        output.print_json(to_json(result))
        return
    print(f"wrote {result.path}: {format_bytes(result.manifest.model.file_bytes)}")
    print()
    print_prediction(result.prediction)


COMMANDS = (convert, quantize, pack)
