"""`edgeslm targets`: the boards edgeslm knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeslm.cli import options, output
from edgeslm.records import Figure, to_json
from edgeslm.units import format_bytes

app = typer.Typer(
    help="The boards edgeslm knows: list them, show one, detect this one, measure this one.",
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
    rows += [
        ("overhead, token", loaded.overhead.token_seconds, "s"),
        ("overhead, layer", loaded.overhead.layer_seconds, "s"),
    ]
    rows += [(f"KV cache {name}", figure, "GB/s") for name, figure in loaded.caches.items()]
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


@app.command()
def calibrate(
    destination: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.toml",
            help="Where to write; default: your targets folder, named after this host.",
        ),
    ] = None,
    types: Annotated[
        str | None,
        typer.Option("--types", metavar="A,B,..", help="Tensor types; default: all."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller models and fewer runs: rough figures.")
    ] = False,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Measure how fast this machine is with each tensor type, and keep it as a target.

    All types take some minutes. Leave the machine alone meanwhile. The target can then be named
    wherever a board can, in --target.

    Examples:
        edgeslm targets calibrate --types Q4_0,Q8_0 --quick
        edgeslm targets calibrate --types Q8_0 --quick -o mine.toml
    """
    from edgeslm.profiling.calibrate import TYPES
    from edgeslm.profiling.calibrated_target import calibrate_to
    from edgeslm.runtime.governor import default_threads

    result = calibrate_to(
        destination,
        threads=default_threads() if threads is None else threads,
        types=tuple(types.upper().split(",")) if types is not None else TYPES,
        quick=quick,
    )
    for warning in result.warnings:
        output.warn(warning)
    if json:
        output.print_json(to_json(result))
        return
    name = result.path if destination is not None else result.target.id
    print(f"wrote {result.path}: use it with --target {name}")
    output.print_table(
        (
            (
                name,
                f"{kernel.decode_gigabytes_per_second.value:g} GB/s",
                f"{kernel.prefill_gigaflops.value:g} GFLOP/s",
            )
            for name, kernel in result.target.kernels.items()
        ),
        header=("type", "decode", "prefill"),
    )


def _bytes(figure: Figure) -> str:
    return "unknown" if figure.value is None else format_bytes(figure.value)


def _value(figure: Figure, unit: str) -> str:
    if unit == "bytes":
        return _bytes(figure)
    return f"{figure.value:g} {unit}".rstrip()


def _origin(figure: Figure) -> str:
    provenance = figure.provenance.value if figure.provenance else "unknown"
    return f"{provenance}: {figure.source}"
