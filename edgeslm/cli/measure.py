"""The verb that measures: profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeslm.cli import options, output
from edgeslm.records import MEASUREMENT_SCHEMA, PREDICTION_SCHEMA, document, to_json
from edgeslm.units import format_bytes, significant

if TYPE_CHECKING:
    from pathlib import Path

    from edgeslm.profiling.measurement import Measurement, Speed
    from edgeslm.records import Prediction


def profile(
    model: options.Model,
    target: options.Target = None,
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", "-p", metavar="N", help="Tokens per prefill run.")
    ] = 512,
    generated_tokens: Annotated[
        int, typer.Option("--tokens", "-n", metavar="N", help="Tokens per decode run.")
    ] = 128,
    depth: Annotated[
        int, typer.Option("--depth", metavar="N", help="Tokens in the KV cache before decode.")
    ] = 0,
    repeats: Annotated[
        int, typer.Option("--repeats", "-r", metavar="N", help="Runs of each kind.")
    ] = 5,
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            metavar="N",
            help="Context length; default: what the runs need, or the target's.",
        ),
    ] = None,
    kv_type: Annotated[
        str | None,
        typer.Option(
            "--kv-type", metavar="TYPE", help="Type of the KV cache; default: F16, or the target's."
        ),
    ] = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Measure RAM, tokens per second and joules per token, on this machine.

    With --target of another board, nothing runs: it prints what to expect there, estimated.

    Examples:
        edgeslm profile model.gguf
        edgeslm profile model.gguf --prompt-tokens 128 --tokens 64 --json
        edgeslm profile model.gguf --target rpi-zero-2w
    """
    from edgeslm.bundle.model_path import find_model

    path = find_model(model)
    if target is not None and not _is_this_machine(target):
        _predict(path, target, context, kv_type, json=json)
        return

    from edgeslm.profiling.profile import ProfileOptions
    from edgeslm.profiling.profile import profile as measure

    measurement = measure(
        path,
        ProfileOptions(
            threads=threads,
            context_length=context,
            kv_type=(kv_type or "F16").upper(),
            prompt_tokens=prompt_tokens,
            generated_tokens=generated_tokens,
            depth=depth,
            repeats=repeats,
        ),
    )
    if json:
        output.print_json(document(MEASUREMENT_SCHEMA, measurement))
    else:
        _print_measurement(measurement)


COMMANDS = (profile,)


def print_prediction(prediction: Prediction) -> None:
    """A prediction as a table; every figure in it is an estimate."""
    memory = prediction.memory
    free = prediction.memory_free_bytes
    verdict = {True: "fits", False: "does not fit", None: "unknown whether it fits"}
    print(f"Expected on {prediction.target_name} (estimated, not measured)")
    output.print_table(
        [
            (
                "RAM",
                f"{format_bytes(memory.total_bytes)}, {verdict[prediction.fits]}"
                + (f" in {format_bytes(free)} free" if free is not None else ""),
            ),
            (
                "",
                f"weights {format_bytes(memory.weights_bytes)}, KV {format_bytes(memory.kv_bytes)} "
                f"for {prediction.context_length} tokens, compute "
                f"{format_bytes(memory.compute_bytes)}, rest {format_bytes(memory.overhead_bytes)}"
                + (f", copies {format_bytes(memory.copied_bytes)}" if memory.copied_bytes else ""),
            ),
            ("prefill", output.figure_text(prediction.prefill_tokens_per_second, "tokens/s")),
            ("decode", output.figure_text(prediction.decode_tokens_per_second, "tokens/s")),
            ("energy", output.figure_text(prediction.decode_joules_per_token, "J/token")),
        ]
    )


def prediction_json(prediction: Prediction) -> dict[str, Any]:
    """A prediction laid out like a measurement, but with a labelled figure in place of medians."""
    memory = prediction.memory
    return {
        "schema": PREDICTION_SCHEMA,
        "provenance": "estimated",
        "target": prediction.target,
        "target_name": prediction.target_name,
        "context_length": prediction.context_length,
        "fits": prediction.fits,
        "memory": {
            "peak_rss_bytes": memory.total_bytes,
            "provenance": "estimated",
            "free_bytes": prediction.memory_free_bytes,
            **to_json(memory),
        },
        "prefill": {"tokens_per_second": to_json(prediction.prefill_tokens_per_second)},
        "decode": {"tokens_per_second": to_json(prediction.decode_tokens_per_second)},
        "energy": {"decode_joules_per_token": to_json(prediction.decode_joules_per_token)},
    }


def _is_this_machine(target: str) -> bool:
    """Whether this is that very board, and not only the closest one known."""
    from edgeslm.targets.detection import detect
    from edgeslm.targets.loading import load_target

    detection = detect()
    return detection.exact and load_target(target).id == detection.target


def _predict(
    path: Path, target_id: str, context: int | None, kv_type: str | None, *, json: bool
) -> None:
    from edgeslm.estimate.prediction import predict
    from edgeslm.gguf.validation import read_model
    from edgeslm.targets.loading import load_target

    prediction = predict(
        read_model(path),
        load_target(target_id),
        context_length=context,
        kv_type=kv_type.upper() if kv_type else None,
    )
    if json:
        output.print_json(prediction_json(prediction))
    else:
        print_prediction(prediction)


def _print_measurement(measurement: Measurement) -> None:
    memory, energy, settings = measurement.memory, measurement.energy, measurement.settings
    threads = f"{settings.threads}"
    if settings.prefill_threads != settings.threads:
        threads += f" ({settings.prefill_threads} in prefill)"
    print(
        f"Measured on this machine: {measurement.host.cpu or 'unknown CPU'}, "
        f"{threads} threads, KV {settings.kv_type}, {settings.repeats} runs each"
    )
    rows = [
        ("peak RAM", format_bytes(memory.peak_rss_bytes)),
        ("  weights resident", _bytes_or_unknown(memory.weights_resident_bytes)),
        ("  weights copied", format_bytes(memory.weights_copied_bytes)),
        ("  KV cache", f"{format_bytes(memory.kv_bytes)} for {settings.context_length} tokens"),
        ("  compute", format_bytes(memory.compute_bytes)),
        ("  Python, before loading", format_bytes(memory.before_load_rss_bytes)),
        ("prefill", _speed(measurement.prefill)),
        ("decode", _speed(measurement.decode)),
        ("energy, prefill", output.figure_text(energy.prefill_joules_per_token, "J/token")),
        ("energy, decode", output.figure_text(energy.decode_joules_per_token, "J/token")),
    ]
    output.print_table(rows)
    for note in energy.notes:
        print(f"energy: {note}")


def _speed(speed: Speed) -> str:
    figures = speed.tokens_per_second
    return (
        f"{significant(figures.median)} tokens/s "
        f"({significant(figures.minimum)} to {significant(figures.maximum)}, "
        f"{speed.tokens} tokens)"
    )


def _bytes_or_unknown(count: int | None) -> str:
    return "unknown" if count is None else format_bytes(count)
