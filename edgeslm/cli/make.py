"""The verbs that make a file: convert, quantize."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeslm.cli import options, output
from edgeslm.errors import InvalidOption
from edgeslm.records import to_json
from edgeslm.units import format_bytes, format_seconds, significant

if TYPE_CHECKING:
    from edgeslm.packager.quantize import Effort, QuantizeResult, Wishes
    from edgeslm.packager.quantize.explain import Explanation
    from edgeslm.targets.target import Target


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
    ram: options.Ram = None,
    target: options.Target = None,
    min_speed: options.MinSpeed = None,
    max_energy: options.MaxEnergy = None,
    context: options.PlannedContext = None,
    kv_type: options.PlannedKvType = None,
    recipe: options.RecipeFile = None,
    save_recipe: options.SaveRecipe = None,
    calibration: options.Calibration = None,
    calibration_tokens: options.CalibrationTokens = None,
    quick: options.Quick = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show which type each part got, and why.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw bits per layer as .svg or .png."),
    ] = None,
    imatrix: Annotated[
        Path | None,
        typer.Option(
            "--imatrix", metavar="FILE", help="With --type: an importance matrix of this model."
        ),
    ] = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Make a model smaller: by type, or the best mix for a budget.

    A budget is bits per weight, a file size, memory, speed or energy on a board; several may be
    given. Each tensor gets the type that serves the whole best, after its sensitivity was measured.

    Examples:
        edgeslm quantize model.gguf -o small.gguf --bits 4.2
        edgeslm quantize model.gguf -o small.gguf --size 95M --explain
        edgeslm quantize model.gguf -o small.gguf --target rpi4-4gb --min-tps 12
        edgeslm quantize model.gguf -o small.gguf --target rpi-zero-2w --ram 300M --context 1024
        edgeslm quantize model.gguf -o small.gguf --type Q4_K_M
        edgeslm quantize model.gguf -o small.gguf --type IQ3_XXS --imatrix model.imatrix.gguf
    """
    from edgeslm.bundle.model_path import find_model
    from edgeslm.packager.quantize import quantize as quantize_model

    wishes = wishes_of(bits, size, ram, min_speed, max_energy, context, kv_type)
    if wishes is None:
        refuse_unused({"--target": target, "--context": context, "--kv-type": kv_type})
    if file_type is not None:
        refuse_unused({"--calibration-tokens": calibration_tokens})
    if plot is not None:
        from edgeslm.packager.quantize.plots import ensure_drawable

        ensure_drawable(plot)
    result = quantize_model(
        find_model(model),
        destination,
        file_type=file_type,
        wishes=wishes,
        recipe=recipe,
        target=_board(target),
        imatrix=imatrix,
        effort=effort_of(calibration, calibration_tokens, threads, quick=quick),
        keep_recipe=save_recipe,
        explain=explain or plot is not None,
    )
    for warning in result.warnings:
        output.warn(warning)
    if plot is not None and result.explanation is not None:
        from edgeslm.packager.quantize.plots import save_bits_plot

        save_bits_plot(result.explanation, plot)
    if json:
        output.print_json(to_json(result))
        return
    _print_quantized(result)
    if explain and result.explanation is not None:
        _print_explanation(result.explanation)


def wishes_of(
    bits: float | None,
    size: int | None,
    ram: int | None,
    min_speed: float | None,
    max_energy: float | None,
    context: int | None,
    kv_type: str | None,
) -> Wishes | None:
    """What was asked for; None where nothing limits anything."""
    from edgeslm.packager.quantize.wishes import Wishes

    if all(limit is None for limit in (bits, size, ram, min_speed, max_energy)):
        return None
    return Wishes(
        bits=bits,
        size_bytes=size,
        ram_bytes=ram,
        min_tokens_per_second=min_speed,
        max_joules_per_token=max_energy,
        context_length=context,
        kv_type=kv_type.upper() if kv_type else None,
    )


def refuse_unused(values: Mapping[str, object]) -> None:
    """Complain about options that only a budget heeds."""
    for option, value in values.items():
        if value is not None:
            raise InvalidOption(
                f"{option} does nothing without a budget",
                hint="Give --bits, --size, --ram, --min-tps or --max-joules-per-token with it.",
            )


def _board(target: str | None) -> Target | None:
    if target is None:
        return None
    from edgeslm.targets.loading import load_target

    return load_target(target)


def effort_of(
    calibration: Path | None, tokens: int | None, threads: int | None, *, quick: bool
) -> Effort:
    """How much to find out before a mix is chosen."""
    import os

    from edgeslm.packager.quantize.effort import DEFAULT_SEQUENCES, LENGTH, Effort

    if quick and tokens is not None:
        raise InvalidOption(
            "a quick mix uses no calibration text", hint="Leave out --quick or the tokens."
        )

    if threads is not None and threads < 1:
        raise InvalidOption(f"{threads} threads", hint="Give 1 or more, or none for one per core.")
    return Effort(
        calibration=calibration,
        sequences=DEFAULT_SEQUENCES if tokens is None else -(-tokens // LENGTH),
        quick=quick,
        threads=threads or os.cpu_count() or 1,
    )


def _print_quantized(result: QuantizeResult) -> None:
    types = ", ".join(f"{count} x {name}" for name, count in result.types.items())
    print(
        f"wrote {result.path}: {format_bytes(result.file_bytes)}, "
        f"{result.bits_per_weight:.2f} bits per weight ({types})"
    )
    if result.encoding_seconds is not None:
        print(f"read, encoded and written in {format_seconds(result.encoding_seconds)}")
    if result.predicted_kld is not None:
        print(
            f"expected loss: {significant(result.predicted_kld)} nats of KL divergence per token "
            "(estimated; measure it with: edgeslm evaluate)"
        )


def _print_explanation(explanation: Explanation) -> None:
    from edgeslm.packager.quantize import explain

    print()
    output.print_table(explain.role_table(explanation), header=explain.ROLE_HEADER)
    print()
    for line in explain.layer_plot(explanation):
        print(line)
    price = explain.marginal_text(explanation)
    if price is not None:
        print(price)
