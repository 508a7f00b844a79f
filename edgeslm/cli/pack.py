"""The verb that runs the whole chain: pack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeslm.cli import options, output
from edgeslm.cli.bundles import private_key
from edgeslm.cli.make import effort_of, refuse_unused, wishes_of
from edgeslm.cli.measure import print_prediction
from edgeslm.errors import InvalidOption
from edgeslm.files import read_text
from edgeslm.records import LADDER_SCHEMA, document, to_json
from edgeslm.units import format_bytes, parse_widths, significant

if TYPE_CHECKING:
    from edgeslm.packager.ladder import LadderResult, Rung
    from edgeslm.packager.quantize import Wishes

_LONGEST_SYSTEM = 100_000


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
    license_file: Annotated[
        Path | None,
        typer.Option(
            "--license", metavar="FILE", help="The licence's text; default: the checkpoint's."
        ),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option("--card", metavar="FILE", help="The model card; default: the checkpoint's."),
    ] = None,
    quality: Annotated[
        Path | None,
        typer.Option(
            "--quality",
            metavar="FILE",
            help="A quality card of the very file; default: the one beside or in it.",
        ),
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option(
            "--measured",
            metavar="FILE",
            help="What profile --json printed of the very file; may be repeated.",
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            metavar="NAME=FILE",
            help="A LoRA adapter that goes with it, under that name; may be repeated.",
        ),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe/--no-probe",
            help="Load the model here and pack what it says, for the device to compare with.",
        ),
    ] = True,
    runtime: Annotated[
        Path | None,
        typer.Option(
            "--runtime", metavar="DIR", help="What the board runs it with: see edgeslm wheels."
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="PRIVATE", help="Sign it with this private key."),
    ] = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Run the whole chain, and write a bundle that is ready for a board.

    It holds the model, what to expect on the target, cards and licence, each by its hash: an OCI
    image layout, as a directory, or as one tar if the name ends so. A ladder is a directory of
    bundles: one for each width, measured against the original.

    Examples:
        edgeslm pack SmolLM2-135M-Instruct/ -o packed/ --target rpi-zero-2w --bits 5
        edgeslm pack model.gguf -o packed/ --target rpi5-4gb --min-tps 15
        edgeslm pack model.gguf -o packed.tar --target rpi5-4gb
        edgeslm pack model.gguf -o packed/ --target rpi-zero-2w --system helper.txt
        edgeslm pack model.gguf -o ladder/ --target rpi5-4gb --ladder 3.5,4,5,6,8
    """
    from edgeslm.packager.extras import Extras
    from edgeslm.packager.ladder import pack_ladder
    from edgeslm.packager.pipeline import pack as pack_model
    from edgeslm.runtime.baking import Baker
    from edgeslm.runtime.governor import default_threads
    from edgeslm.targets.loading import load_target

    wishes = wishes_of(bits, size, ram, min_speed, max_energy, context, kv_type)
    if ladder is None and wishes is None and recipe is None:
        refuse_unused({"--calibration-tokens": calibration_tokens})
    effort = effort_of(calibration, calibration_tokens, threads, quick=quick)
    cache_type = kv_type.upper() if kv_type else None
    board = load_target(target)
    extras = Extras(
        license=license_file,
        card=card,
        quality=quality,
        measured=tuple(measured or ()),
        adapters=_adapters(adapter or ()),
        runtime=runtime,
        probe=probe,
    )
    if ladder is not None:
        _refuse_other_ways(file_type, wishes, recipe)
        if system is not None:
            raise InvalidOption("--ladder excludes --system", hint="Pack the one you choose.")
        if key is not None or extras != Extras():
            raise InvalidOption(
                "--ladder excludes signing, and files that go with one model",
                hint="Pack the one you choose.",
            )
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
        extras=extras,
        key=None if key is None else private_key(key),
    )
    for warning in result.warnings:
        output.warn(warning)
    if json:
        output.print_json(to_json(result))
        return
    signed = "" if key is None else ", signed"
    print(f"wrote {result.path}: {format_bytes(result.contents.model.file_bytes)}{signed}")
    print(f"digest: sha256:{result.contents.digest}")
    prompt = result.contents.prompt
    if prompt is not None and prompt.state is not None:
        taken = format_bytes(prompt.state.file_bytes)
        print(f"with the state of the system prompt: {taken}, {prompt.kv_type}")
    print()
    print_prediction(result.prediction)


def _adapters(given: Sequence[str]) -> dict[str, Path]:
    """What --adapter NAME=FILE, repeated, asks for."""
    found: dict[str, Path] = {}
    for text in given:
        name, _, file = text.partition("=")
        if not name or not file or name in found:
            raise InvalidOption(f"--adapter {text}", hint="Write NAME=FILE, each name once.")
        found[name] = Path(file)
    return found


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
