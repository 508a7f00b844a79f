"""`edgeslm targets`: the boards edgeslm knows."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeslm.cli import options, output
from edgeslm.records import Figure, to_json
from edgeslm.units import format_bytes

app = typer.Typer(
    help="The boards edgeslm knows: list them, show one, detect this one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_(json: options.Json = False) -> None:
    """List the boards and their main figures."""
    from edgeslm.targets.loading import list_targets

    targets = list_targets()
    if json:
        output.print_json(to_json(targets))
        return
    output.print_table(
        (
            (
                target.id,
                target.name,
                _bytes(target.memory.total_bytes),
                output.figure_text(target.memory.decode_gigabytes_per_second, "GB/s"),
            )
            for target in targets
        ),
        header=("id", "name", "memory", "decode bandwidth"),
    )


@app.command()
def show(
    target: Annotated[str, typer.Argument(metavar="ID", help="An id, or a TOML file of yours.")],
    json: options.Json = False,
) -> None:
    """Show everything known about one board, and where each figure comes from."""
    from edgeslm.targets.loading import load_target

    loaded = load_target(target)
    if json:
        output.print_json(to_json(loaded))
        return
    memory, power = loaded.memory, loaded.power
    print(f"{loaded.name} ({loaded.id}): {loaded.vendor}, {loaded.soc}, {loaded.architecture}")
    rows: list[tuple[str, Figure, str]] = []
    for cluster in loaded.cores:
        rows.append((f"{cluster.name} cores", cluster.count, ""))
        rows.append((f"{cluster.name} clock", cluster.megahertz, "MHz"))
    rows += [
        ("memory", memory.total_bytes, "bytes"),
        ("kept by the system", memory.reserved_bytes, "bytes"),
        ("bandwidth, nominal", memory.nominal_gigabytes_per_second, "GB/s"),
        ("bandwidth, decode", memory.decode_gigabytes_per_second, "GB/s"),
        ("prefill", loaded.prefill_gigaflops, "GFLOP/s"),
        ("idle", power.idle_watts, "W"),
        ("under load", power.load_watts, "W"),
    ]
    for name, kernel in loaded.kernels.items():
        rows.append((f"{name} decode", kernel.decode_gigabytes_per_second, "GB/s"))
        rows.append((f"{name} prefill", kernel.prefill_gigaflops, "GFLOP/s"))
    output.print_table(
        (
            (name, _value(figure, unit), _origin(figure))
            for name, figure, unit in rows
            if figure.value is not None
        ),
        header=("figure", "value", "where it comes from"),
    )


@app.command()
def detect(json: options.Json = False) -> None:
    """Say which board this is, and why."""
    from edgeslm.targets.detection import detect as detect_target

    detection = detect_target()
    if json:
        output.print_json(to_json(detection))
        return
    print(detection.target or "no known board")
    for reason in detection.reasons:
        print(f"  {reason}")


def _bytes(figure: Figure) -> str:
    return "unknown" if figure.value is None else format_bytes(figure.value)


def _value(figure: Figure, unit: str) -> str:
    if unit == "bytes":
        return _bytes(figure)
    return f"{figure.value:g} {unit}".rstrip()


def _origin(figure: Figure) -> str:
    provenance = figure.provenance.value if figure.provenance else "unknown"
    return f"{provenance}: {figure.source}"
