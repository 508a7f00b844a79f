"""The verb that makes a device's runtime: wheels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeslm.cli import options, output
from edgeslm.errors import InvalidOption, Unsupported
from edgeslm.records import to_json
from edgeslm.units import format_bytes

if TYPE_CHECKING:
    from edgeslm.flash.wheels.collecting import Collected
    from edgeslm.flash.wheels.instruction_sets import InstructionSet

_PYTHONS = ("3.11", "3.13")


def wheels(
    target: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="ID", help="A board it is for; may be repeated."),
    ] = None,
    march: Annotated[
        list[str] | None,
        typer.Option(
            "--march",
            metavar="SET",
            help="An instruction set as compilers name it: armv8-a, x86-64-v3; may be repeated.",
        ),
    ] = None,
    native: Annotated[
        bool, typer.Option("--native", help="For processors like this machine's.")
    ] = False,
    python: Annotated[
        list[str] | None,
        typer.Option(
            "--python",
            metavar="V",
            help="A Python on the boards; may be repeated; default: 3.11 and 3.13 (Debian 12, 13).",
        ),
    ] = None,
    destination: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where to write.")
    ] = Path("runtime"),
    edgeslm: Annotated[
        Path | None,
        typer.Option(
            "--edgeslm",
            metavar="FILE.whl",
            help="edgeslm's own wheel; default: made from its source.",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", metavar="N", min=1, help="Files compiled at a time; default: cores."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Build what boards need to run models: wheels, for `pack --runtime`.

    llama.cpp is compiled for each board's own instruction set, and checked; all else is fetched.
    What was compiled is kept: the next board of the same kind takes seconds. A board then needs
    Python and nothing else: no compiler, no pip, no network.

    Examples:
        edgeslm wheels --target rpi5 -o runtime/
        edgeslm wheels --target rpi4 --target rpi5 --python 3.13 -o runtime/
        edgeslm wheels --march x86-64-v3 -o runtime/
    """
    from edgeslm.flash.wheels.collecting import collect

    sets = _sets(target or (), march or (), native=native)
    made = collect(sets, python or _PYTHONS, destination, own=edgeslm, jobs=jobs)
    if json:
        output.print_json(_as_json(made))
        return
    for built, wanted in zip(made.built, sets, strict=True):
        how = "compiled" if built.new else "compiled before"
        print(f"{built.path.name}: {how} with {built.compiler}")
        if wanted.exact and not built.needs.disassembled:
            output.warn(
                f"no objdump for {wanted.architecture}: its instructions were not looked at"
            )
    rows = [
        (
            *(each.id, each.march, each.python, f"glibc {each.glibc}"),
            format_bytes(sum(wheel.bytes for wheel in made.runtimes.wheels_of(each))),
        )
        for each in made.runtimes.runtimes
    ]
    output.print_table(rows, header=("runtime", "instruction set", "Python", "needs", "size"))
    total = sum(wheel.bytes for wheel in made.runtimes.wheels)
    print(f"wrote {made.path}: {len(made.runtimes.wheels)} wheels, {format_bytes(total)}")


def _sets(
    targets: list[str] | tuple[()], marches: list[str] | tuple[()], *, native: bool
) -> list[InstructionSet]:
    """What llama.cpp is compiled for, each once."""
    from edgeslm import processor
    from edgeslm.flash.wheels import instruction_sets
    from edgeslm.targets.loading import load_target

    found = []
    for name in targets:
        board = load_target(name)
        known = board.cores[0].march if board.cores else None
        if known is None:
            raise Unsupported(
                f"{name}: its target file names no instruction set (march)",
                hint="Runtimes are for Linux boards. Name the set yourself: --march armv8-a",
            )
        found.append(instruction_sets.instruction_set(known))
    found += [instruction_sets.instruction_set(name) for name in marches]
    if native:
        found.append(instruction_sets.native(processor.architecture(), processor.features()))
    if not found:
        raise InvalidOption(
            "for which board?", hint="Give --target ID (edgeslm targets list), --march or --native."
        )
    return list(dict.fromkeys(found))


def _as_json(made: Collected) -> dict[str, object]:
    return {
        "path": str(made.path),
        "runtimes": to_json(made.runtimes),
        "built": [
            {
                "name": built.path.name,
                "bytes": built.path.stat().st_size,
                "compiler": built.compiler,
                "new": built.new,
                "needs": to_json(built.needs),
            }
            for built in made.built
        ],
    }
