"""The verbs that make a file: convert, quantize, pack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeslm.cli import options, output
from edgeslm.cli.measure import print_prediction
from edgeslm.errors import InvalidOption
from edgeslm.files import read_text
from edgeslm.records import LADDER_SCHEMA, document, to_json
from edgeslm.units import format_bytes, format_seconds, parse_widths, significant

if TYPE_CHECKING:
    from edgeslm.packager.ladder import LadderResult, Rung
    from edgeslm.packager.quantize import Effort, QuantizeResult, Wishes
    from edgeslm.packager.quantize.explain import Explanation
    from edgeslm.targets.target import Target

_LONGEST_SYSTEM = 100_000


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

    wishes = _wishes(bits, size, ram, min_speed, max_energy, context, kv_type)
    if wishes is None:
        _refuse_unused({"--target": target, "--context": context, "--kv-type": kv_type})
    if file_type is not None:
        _refuse_unused({"--calibration-tokens": calibration_tokens})
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
        effort=_effort(calibration, calibration_tokens, threads, quick=quick),
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


def _wishes(
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


def _refuse_unused(values: Mapping[str, object]) -> None:
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


def _effort(
    calibration: Path | None, tokens: int | None, threads: int | None, *, quick: bool
) -> Effort:
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
    ram: options.Ram = None,
    min_speed: options.MinSpeed = None,
    max_energy: options.MaxEnergy = None,
    context: options.PlannedContext = None,
    kv_type: options.PlannedKvType = None,
    recipe: options.RecipeFile = None,
    calibration: options.Calibration = None,
    calibration_tokens: options.CalibrationTokens = None,
    quick: options.Quick = False,
    ladder: Annotated[
        str | None,
        typer.Option(
            "--ladder", metavar="B,B,..", help="Pack at each of these bits per weight, and compare."
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="With --ladder: a text to compare on; default: one the model says itself.",
        ),
    ] = None,
    system: Annotated[
        Path | None,
        typer.Option(
            "--system",
            metavar="FILE",
            help="What the model is told to be; it is read here, and known there at once.",
        ),
    ] = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Run the whole chain, and write a directory that is ready for a board.

    It holds the model, a manifest with hashes, and what to expect on the target. A ladder is a
    directory of such directories: one for each width, measured against the original.

    Examples:
        edgeslm pack SmolLM2-135M-Instruct/ -o packed/ --target rpi-zero-2w --bits 5
        edgeslm pack model.gguf -o packed/ --target rpi5-4gb --min-tps 15
        edgeslm pack model.gguf -o packed/ --target rpi-zero-2w --system helper.txt
        edgeslm pack model.gguf -o ladder/ --target rpi5-4gb --ladder 3.5,4,5,6,8
    """
    from edgeslm.packager.ladder import pack_ladder
    from edgeslm.packager.pipeline import pack as pack_model
    from edgeslm.runtime.baking import Baker
    from edgeslm.runtime.governor import default_threads
    from edgeslm.targets.loading import load_target

    wishes = _wishes(bits, size, ram, min_speed, max_energy, context, kv_type)
    if ladder is None and wishes is None and recipe is None:
        _refuse_unused({"--calibration-tokens": calibration_tokens})
    effort = _effort(calibration, calibration_tokens, threads, quick=quick)
    cache_type = kv_type.upper() if kv_type else None
    board = load_target(target)
    if ladder is not None:
        _refuse_other_ways(file_type, wishes, recipe)
        if system is not None:
            raise InvalidOption("--ladder excludes --system", hint="Pack the one you choose.")
        made = pack_ladder(
            model,
            destination,
            parse_widths(ladder),
            target=board,
            context_length=context,
            kv_type=cache_type,
            effort=effort,
            text=text,
        )
        _print_ladder(made, json=json)
        return
    if text is not None:
        raise InvalidOption("--text goes with --ladder", hint="Give both, or leave out --text.")
    result = pack_model(
        model,
        destination,
        target=board,
        file_type=file_type,
        wishes=wishes,
        recipe=recipe,
        context_length=context,
        kv_type=cache_type,
        effort=effort,
        system=None if system is None else _system_prompt(system),
        baker=Baker(threads or default_threads()),
    )
    for warning in result.warnings:
        output.warn(warning)
    if json:
        output.print_json(to_json(result))
        return
    print(f"wrote {result.path}: {format_bytes(result.manifest.model.file_bytes)}")
    prompt = result.manifest.prompt
    if prompt is not None and prompt.state is not None:
        taken = format_bytes(prompt.state.file_bytes)
        print(f"with the state of the system prompt: {taken}, {prompt.kv_type}")
    print()
    print_prediction(result.prediction)


def _system_prompt(path: Path) -> str:
    text = read_text(path).strip()
    if not text or len(text) > _LONGEST_SYSTEM:
        raise InvalidOption(
            f"{path}: {len(text)} characters are no system prompt",
            hint=f"1 to {_LONGEST_SYSTEM}.",
        )
    return text


def _refuse_other_ways(file_type: str | None, wishes: Wishes | None, recipe: Path | None) -> None:
    if (file_type, wishes, recipe) != (None, None, None):
        raise InvalidOption(
            "--ladder excludes a type, another budget and a recipe",
            hint="Name all widths in it: --ladder 3.5,4,5,6,8",
        )


_LADDER_HEADER = ("bits", "size", "KL divergence", "expected", "same first", "speed", "memory", "")


def _print_ladder(result: LadderResult, *, json: bool) -> None:
    for warning in result.warnings:
        output.warn(warning)
    if json:
        output.print_json(document(LADDER_SCHEMA, result.ladder))
        return
    rungs = result.ladder.rungs
    output.print_table(map(_rung_row, rungs), header=_LADDER_HEADER)
    print()
    print("KL divergence: measured, nats per token; speed and memory: estimated for the target")
    print(f"wrote {result.path}: {len(rungs)} packed models, ladder.json")
    if result.plot is not None:
        print(f"wrote {result.plot}")


def _rung_row(rung: Rung) -> tuple[str, ...]:
    quality, prediction = rung.quality, rung.prediction
    expected = quality.expected_kl_divergence
    speed = prediction.decode_tokens_per_second.value
    return (
        f"{rung.bits:g}",
        format_bytes(rung.file_bytes),
        f"{quality.kl_divergence:.5f} ± {quality.kl_divergence_standard_error:.5f}",
        "unknown" if expected is None else f"{expected:.5f}",
        f"{quality.same_top_1:.1%}",
        "unknown" if speed is None else f"{significant(speed)} tokens/s",
        format_bytes(prediction.memory.total_bytes),
        "does not fit" if prediction.fits is False else "",
    )


COMMANDS = (convert, quantize, pack)
