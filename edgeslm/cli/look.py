"""The verbs that look without changing anything: inspect, verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeslm.cli import options, output
from edgeslm.errors import UserError
from edgeslm.records import INSPECTION_SCHEMA, document, to_json
from edgeslm.units import format_bytes

if TYPE_CHECKING:
    from edgeslm.gguf.inspection import Inspection
    from edgeslm.gguf.reader import Header


def inspect(
    file: options.Model,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    json: options.Json = False,
) -> None:
    """Say what is really inside a GGUF file, whatever its name and label claim.

    Examples:
        edgeslm inspect model.gguf
        edgeslm inspect model.gguf --tensors
        edgeslm inspect model.gguf --json
    """
    from edgeslm.bundle.model_path import find_model
    from edgeslm.gguf.inspection import inspect as inspect_header
    from edgeslm.gguf.reader import read_header

    header = read_header(find_model(file))
    inspection, problem = inspect_header(header), _problem(header)
    if json:
        output.print_json(document(INSPECTION_SCHEMA, inspection) | {"problem": problem})
        return
    _print_inspection(inspection)
    if problem is not None:
        output.warn(problem)
    if tensors:
        print()
        output.print_table(
            (
                (tensor.name, tensor.type, "x".join(map(str, tensor.shape)), str(tensor.bytes))
                for tensor in inspection.tensors
            ),
            header=("tensor", "type", "shape", "bytes"),
        )


def verify(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A packed directory.", show_default=False)
    ],
    json: options.Json = False,
) -> None:
    """Check that a packed directory is complete and unchanged.

    Examples:
        edgeslm verify packed/
    """
    from edgeslm.bundle.directory import verify_bundle

    manifest = verify_bundle(bundle)
    if json:
        output.print_json({"bundle": str(bundle), "valid": True, "manifest": to_json(manifest)})
    else:
        print(f"{bundle}: complete and unchanged")


COMMANDS = (inspect, verify)


def _problem(header: Header) -> str | None:
    """Why llama.cpp cannot run the file as a language model, or None where it can."""
    from edgeslm.gguf.validation import validate

    try:
        validate(header)
    except UserError as error:
        return error.message.removeprefix(f"{header.path}: ")
    return None


def _print_inspection(inspection: Inspection) -> None:
    bits, context = inspection.bits_per_weight, inspection.context_length
    rows = [
        ("file", f"{inspection.path} ({format_bytes(inspection.file_bytes)})"),
        ("name", inspection.name or "(none)"),
        ("architecture", inspection.architecture or "(none)"),
        ("parameters", f"{inspection.parameters:,}"),
        ("bits per weight", "(none)" if bits is None else f"{bits:.2f}"),
        ("context", "(none)" if context is None else f"{context} tokens"),
        ("label", inspection.file_type or "(none)"),
        *(
            ("types" if index == 0 else "", f"{share.type}: {share.share:.0%} of the parameters")
            for index, share in enumerate(inspection.types)
        ),
        ("chat template", "yes" if inspection.chat_template else "no"),
        ("license", inspection.license or "(not stated)"),
    ]
    output.print_table(rows)
    if inspection.label_note:
        output.warn(inspection.label_note)
