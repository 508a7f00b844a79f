"""The verb that looks into a file: inspect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeslm.cli import options, output
from edgeslm.errors import InvalidOption, UserError
from edgeslm.records import INSPECTION_SCHEMA, TYPES_SCHEMA, document, to_json
from edgeslm.units import format_bytes

if TYPE_CHECKING:
    from edgeslm.gguf.inspection import Inspection
    from edgeslm.gguf.reader import Header


def inspect(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL", help="A GGUF file, or a bundle.", show_default=False),
    ] = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    types: Annotated[
        bool, typer.Option("--types", help="Explain the types in the file; without one, all types.")
    ] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="Plan the memory it takes, against what is free.")
    ] = False,
    target: options.Target = None,
    context: options.PlannedContext = None,
    kv_type: options.PlannedKvType = None,
    ubatch: options.PlannedUbatch = None,
    slots: options.PlannedSlots = None,
    json: options.Json = False,
) -> None:
    """Say what is really inside a GGUF file, whatever its name and label claim.

    Examples:
        edgeslm inspect model.gguf
        edgeslm inspect model.gguf --tensors
        edgeslm inspect model.gguf --types
        edgeslm inspect model.gguf --memory --context 8192
        edgeslm inspect model.gguf --memory --target rpi4-2gb --slots 4
        edgeslm inspect --types
    """
    if file is None:
        _print_all_types(asked=types and not tensors, json=json)
        return
    from edgeslm.bundle.model_path import find_model
    from edgeslm.cli.memory import forecast, forecast_json, print_forecast
    from edgeslm.gguf.inspection import inspect as inspect_header
    from edgeslm.gguf.reader import read_header

    header = read_header(find_model(file))
    inspection, problem = inspect_header(header), _problem(header)
    names = [share.type for share in inspection.types] if types else []
    upper = None if kv_type is None else kv_type.upper()
    wishes = {"context": context, "kv_type": upper, "ubatch": ubatch, "slots": slots}
    if not memory and any(value is not None for value in (*wishes.values(), target)):
        raise InvalidOption(
            "these options are for a memory plan, which was not asked for", hint="Add --memory."
        )
    # what is no model has no plan, whose problem is told
    planned = forecast(header, wishes, target) if memory and problem is None else None
    if json:
        more: dict[str, Any] = {"explained": to_json(_explained(names))} if types else {}
        if planned is not None:
            more["memory"] = forecast_json(planned)
        output.print_json(document(INSPECTION_SCHEMA, inspection) | {"problem": problem} | more)
        return
    _print_inspection(inspection)
    if problem is not None:
        output.warn(problem)
    if planned is not None:
        print()
        print_forecast(planned)
    if types:
        print()
        _print_types(names)
    if tensors:
        print()
        output.print_table(
            (
                (tensor.name, tensor.type, "x".join(map(str, tensor.shape)), str(tensor.bytes))
                for tensor in inspection.tensors
            ),
            header=("tensor", "type", "shape", "bytes"),
        )


def _problem(header: Header) -> str | None:
    """Why llama.cpp cannot run the file as a language model, or None where it can."""
    from edgeslm.gguf.validation import validate

    try:
        validate(header)
    except UserError as error:
        return error.message.removeprefix(f"{header.path}: ")
    return None


def _print_all_types(*, asked: bool, json: bool) -> None:
    from edgeslm.packager.quantize.types import TYPES

    if not asked:
        raise InvalidOption(
            "no file was named", hint="Name a GGUF file, or list all tensor types with --types."
        )
    names = [info.type.name for info in TYPES]
    if json:
        output.print_json({"schema": TYPES_SCHEMA, "types": to_json(_explained(names))})
    else:
        _print_types(names)


def _explained(names: Sequence[str]) -> list[dict[str, Any]]:
    """What is known of tensor types, by name, as flat records."""
    from edgeslm.gguf.types import tensor_type
    from edgeslm.packager.quantize.types import type_info

    records = []
    for info in (type_info(tensor_type(name)) for name in names):
        kind = info.type
        records.append(
            {
                "type": kind.name,
                "bits_per_weight": kind.bits_per_weight,
                "block_elements": kind.block_elements,
                "block_bytes": kind.block_bytes,
                "importance": info.importance.value,
                "runs": info.runs,
                "encodable": info.encodable,
                "needs_training": info.needs_training,
                "structure": info.structure,
            }
        )
    return records


def _print_types(names: Sequence[str]) -> None:
    rows = [
        (
            record["type"],
            f"{record['bits_per_weight']:.4g}",
            str(record["block_elements"]),
            record["importance"] if record["encodable"] else "-",
            "trained" if record["needs_training"] else "yes" if record["runs"] else "no",
            record["structure"],
        )
        for record in _explained(names)
    ]
    output.print_table(rows, header=("type", "bits", "block", "importance", "runs", "a block is"))


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
