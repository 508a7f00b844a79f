"""The verb that looks at the machine: doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeslm.cli import options, output
from edgeslm.records import DOCTOR_SCHEMA, document, to_json

if TYPE_CHECKING:
    from edgeslm.profiling.checkup import Checkup
    from edgeslm.profiling.meters import Finding


def doctor(
    meter: options.Meter = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if there is a problem.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Say whether this machine is right for models, and what to do about what is not.

    Examples:
        edgeslm doctor
        edgeslm doctor --json
    """
    from edgeslm.profiling.checkup import check_machine

    checkup = check_machine(wanted=meter)
    if json:
        output.print_json(
            document(
                DOCTOR_SCHEMA,
                {
                    "problems": checkup.problems,
                    "checks": to_json(checkup.checks),
                    "meters": [_meter_json(finding) for finding in checkup.meters],
                },
            )
        )
    else:
        _print(checkup)
    if strict and checkup.problems:
        raise typer.Exit(1)


def _print(checkup: Checkup) -> None:
    output.print_table(
        row
        for check in checkup.checks
        for row in (
            (check.level.value, check.topic, check.text),
            *((("", "", f"-> {check.hint}"),) if check.hint else ()),
        )
    )
    print()
    output.print_table(
        (
            row
            for finding in checkup.meters
            for row in (
                (finding.name, finding.state.value, _covers(finding), finding.reason),
                *((("", "", "", f"-> {finding.hint}"),) if finding.hint else ()),
            )
        ),
        header=("power meter", "state", "covers", "what it reads, or why not"),
    )


def _covers(finding: Finding) -> str:
    if finding.meter is None:
        return ""
    return f"{finding.meter.scope.value}, {finding.meter.provenance.value}"


def _meter_json(finding: Finding) -> dict[str, Any]:
    meter = finding.meter
    return {
        "name": finding.name,
        "state": finding.state.value,
        "reason": finding.reason,
        "hint": finding.hint,
        "scope": meter.scope.value if meter else None,
        "provenance": meter.provenance.value if meter else None,
        "source": meter.source if meter else None,
        "period_seconds": meter.period_seconds if meter else None,
    }
