"""The verb that measures: profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeslm.cli import options, output
from edgeslm.cli.measured import print_measurement
from edgeslm.errors import InvalidOption, MeasurementFailure
from edgeslm.profiling.steadiness import MOST_RUNS, RUNS, WARM_UP_SECONDS
from edgeslm.records import MEASUREMENT_SCHEMA, PREDICTION_SCHEMA, document, to_json
from edgeslm.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from edgeslm.profiling.measurement import Measurement
    from edgeslm.profiling.profile import ProfileOptions
    from edgeslm.records import Prediction

_DIGITS = 9


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
        str,
        typer.Option(
            "--depth", metavar="N,N,..", help="Tokens in the KV cache before a run; one or more."
        ),
    ] = "0",
    repeats: Annotated[
        int | None,
        typer.Option(
            "--repeats",
            "-r",
            metavar="N",
            help=f"Runs of each kind; default: {RUNS}, and more where they differ.",
        ),
    ] = None,
    most_repeats: Annotated[
        int | None,
        typer.Option(
            "--most-repeats",
            metavar="N",
            min=1,
            help=f"So many where they differ; default: {MOST_RUNS}, or what --repeats says.",
        ),
    ] = None,
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
    warm_up: Annotated[
        float,
        typer.Option(
            "--warm-up",
            metavar="SECONDS",
            envvar="EDGESLM_WARM_UP",
            help="Decode uncounted first: a processor that has rested boosts for a while.",
        ),
    ] = WARM_UP_SECONDS,
    idle: Annotated[
        float,
        typer.Option(
            "--idle", metavar="SECONDS", help="Watch the idle machine's power first; 0: do not."
        ),
    ] = 5.0,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", metavar="SECONDS", help="Shorten the runs where they would take longer."
        ),
    ] = None,
    sustained: Annotated[
        float | None,
        typer.Option(
            "--sustained", metavar="SECONDS", help="See too what speed lasts; 600 on a board."
        ),
    ] = None,
    memory_limit: Annotated[
        int | None,
        typer.Option(
            "--memory-limit",
            parser=parse_bytes,
            metavar="S",
            help="Measure in a control group with so little memory: 512M.",
        ),
    ] = None,
    meter: options.Meter = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if something spoilt the figures.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Measure RAM, tokens per second and joules per token, on this machine.

    What spoils the figures is said and kept with them: busy neighbours, heat, a weak power supply.
    With --target of another board, nothing runs: it prints what to expect there, estimated.

    Examples:
        edgeslm profile model.gguf
        edgeslm profile model.gguf --prompt-tokens 128 --tokens 64 --json
        edgeslm profile model.gguf --depth 0,512,2048
        edgeslm profile model.gguf --target rpi-zero-2w
    """
    from edgeslm.bundle.model_path import find_model

    path = find_model(model)
    if target is not None and not _is_this_machine(target):
        _refuse_elsewhere(memory_limit, sustained)
        _predict(path, target, context, kv_type, json=json)
        return

    from edgeslm.profiling.profile import ProfileOptions

    find_model(model, to_run=True)
    wanted = ProfileOptions(
        threads=threads,
        context_length=context,
        kv_type=(kv_type or "F16").upper(),
        prompt_tokens=prompt_tokens,
        generated_tokens=generated_tokens,
        depths=parse_depths(depth),
        repeats=RUNS if repeats is None else repeats,
        most_repeats=MOST_RUNS if repeats is None and most_repeats is None else most_repeats,
        warm_up_seconds=warm_up,
        idle_seconds=idle,
        budget_seconds=budget,
        sustained_seconds=sustained,
        meter=meter,
    )
    _print(_measured(path, wanted, memory_limit), json=json, strict=strict)


def parse_depths(text: str) -> tuple[int, ...]:
    """Numbers of tokens in "0,512,2048".

    Raises:
        InvalidOption: one of them is no number.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) <= _DIGITS for part in parts):
        raise InvalidOption(f"not depths: {text!r}", hint="Write them like 0,512,2048.")
    return tuple(map(int, parts))


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


def _refuse_elsewhere(memory_limit: int | None, sustained: float | None) -> None:
    """Return if nothing was asked for that only a run can tell."""
    for name, value in (("--memory-limit", memory_limit), ("--sustained", sustained)):
        if value is not None:
            raise InvalidOption(
                f"{name} measures, and nothing runs here for another board",
                hint="Leave out --target, or run it on the board.",
            )


def _measured(path: Path, wanted: ProfileOptions, memory_limit: int | None) -> Measurement:
    if memory_limit is None:
        from edgeslm.profiling.profile import profile as measure

        return measure(path, wanted)
    from edgeslm.profiling.limited import profile_limited

    return profile_limited(path, wanted, memory_limit)


def _print(measurement: Measurement, *, json: bool, strict: bool) -> None:
    """Print it, with what spoils it on stderr too.

    Raises:
        MeasurementFailure: something does, and that was not to be.
    """
    if json:
        output.print_json(document(MEASUREMENT_SCHEMA, measurement))
    else:
        print_measurement(measurement)
    for taint in measurement.taints:
        output.warn(f"tainted: {taint}")
    if strict and measurement.tainted:
        raise MeasurementFailure(
            "something spoilt these figures", hint="Leave the machine alone, and measure again."
        )
