"""The verb that finds the best settings for this machine: tune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeslm.cli import options, output
from edgeslm.errors import InvalidOption
from edgeslm.records import (
    SUSTAINED_SCHEMA,
    TUNED_SCHEMA,
    TUNING_SCHEMA,
    Statistic,
    document,
    to_json,
)
from edgeslm.units import format_seconds, significant

if TYPE_CHECKING:
    from edgeslm.profiling.sustained import Sustained
    from edgeslm.profiling.tuning import Tuning
    from edgeslm.runtime.machine import Clock, Heat
    from edgeslm.runtime.tuned import Choice, Place, Tuned


def tune(
    model: options.Model,
    context: options.Context = 2048,
    threads: Annotated[
        int | None,
        typer.Option("--threads", "-t", metavar="N", help="Most threads to try; default: all."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Shorter and fewer runs: rough, but soon done.")
    ] = False,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Keep the choice even if other programs were busy."),
    ] = False,
    sustained: Annotated[
        float | None,
        typer.Option(
            "--sustained",
            metavar="SECONDS",
            help="Instead, write for so long: what speed lasts once the machine is warm.",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print what is kept; run nothing.")] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Remove what is kept; run nothing.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Find the fastest threads, cores and batch for a model on this machine, and keep them.

    run, chat, serve and profile use them then for what is not given. Leave the machine alone
    meanwhile: if other programs are busy, nothing is kept.

    Examples:
        edgeslm tune model.gguf --quick
        edgeslm tune model.gguf --show
        edgeslm tune model.gguf --sustained 5
        edgeslm tune model.gguf --forget
    """
    from edgeslm.bundle.model_path import find_model

    if sum((sustained is not None, show, forget)) > 1:
        raise InvalidOption(
            "--sustained, --show and --forget exclude each other", hint="Use one of them."
        )
    path = find_model(model, to_run=True)
    if show or forget:
        _kept(path, forget=forget, json=json)
    elif sustained is not None:
        from edgeslm.profiling.sustained import run_sustained

        _warn_if_busy()
        _print_sustained(run_sustained(path, sustained), json=json)
    else:
        from edgeslm.profiling.tuning import TuneOptions
        from edgeslm.profiling.tuning import tune as find_best

        wanted = TuneOptions(context, quick, anyway, threads)
        _warn_if_busy()
        _print_tuning(find_best(path, wanted), json=json)


def _warn_if_busy() -> None:
    """Say so before anything long runs."""
    from edgeslm.profiling.tuning import cores_of_others, is_busy
    from edgeslm.runtime.machine import Sensors

    others = cores_of_others(Sensors())
    if others is not None and is_busy(others):
        output.warn(f"other programs are using {others:.1f} cores: figures will be off")


def _kept(path: Path, *, forget: bool, json: bool) -> None:
    from edgeslm.gguf.validation import read_model
    from edgeslm.runtime import tuned

    place = tuned.place_of(read_model(path))
    if forget:
        removed = tuned.forget(place)
        if json:
            output.print_json({"removed": removed})
        else:
            print("removed" if removed else "nothing was kept for this model on this machine")
        return
    _print_kept(tuned.load(place), place, json=json)


def _print_kept(found: Tuned | None, place: Place, *, json: bool) -> None:
    if json:
        kept = None if found is None else document(TUNED_SCHEMA, found)
        output.print_json({"place": to_json(place), "kept": kept})
        return
    if found is None:
        print("nothing is kept for this model on this machine: edgeslm tune MODEL")
        return
    print(f"Tuned for {found.model_name} on this machine, {found.tuned_at}")
    _print_comparison(found)


def _print_tuning(tuning: Tuning, *, json: bool) -> None:
    for warning in tuning.warnings:
        output.warn(warning)
    if json:
        output.print_json(document(TUNING_SCHEMA, tuning))
        return
    for finding in tuning.findings:
        print(f"{finding.setting}: {finding.chosen} ({finding.reason})")
        output.print_table(
            (
                f"  {trial.value}",
                f"{finding.measured} {_speed(trial.tokens_per_second)}",
                "given up" if trial.given_up else "",
            )
            for trial in finding.trials
        )
    for note in tuning.notes:
        print(note)
    print()
    _print_comparison(tuning.tuned)
    if tuning.kept is not None:
        print(f"kept in {tuning.kept}")
        if tuning.replaced is not None:
            print(f"it replaces {_choice_text(tuning.replaced)}")


def _print_comparison(found: Tuned) -> None:
    rows = [
        (
            title,
            _choice_text(choice),
            _speed(speeds.prefill),
            _speed(speeds.decode),
        )
        for title, choice, speeds in (
            ("best", found.choice, found.chosen_speeds),
            ("default", found.defaults, found.default_speeds),
        )
    ]
    output.print_table(rows, header=("", "settings", "prefill", "decode"))
    print(f"speeds with a KV cache of type {found.chosen_speeds.kv_type}")


def _choice_text(choice: Choice) -> str:
    cores = "" if choice.cores is None else f", cores {','.join(map(str, choice.cores))}"
    return (
        f"threads {choice.threads}, prefill {choice.prefill_threads}, "
        f"micro-batch {choice.ubatch}, KV {choice.kv_type}{cores}"
    )


def _speed(figures: Statistic) -> str:
    return (
        f"{significant(figures.median)} tokens/s "
        f"({significant(figures.minimum)} to {significant(figures.maximum)})"
    )


def _print_sustained(found: Sustained, *, json: bool) -> None:
    for warning in found.warnings:
        output.warn(warning)
    if json:
        output.print_json(document(SUSTAINED_SCHEMA, found))
        return
    share = found.sustained.median / found.peak
    rows = [
        ("peak", f"{significant(found.peak)} tokens/s, the best window"),
        ("sustained", f"{_speed(found.sustained)}, the last third; {share:.0%} of the peak"),
        ("temperature", _temperatures(found)),
        ("clock", _clocks(found)),
        ("held back by", ", ".join(found.held_back) or "nothing that was seen"),
        ("since boot", _since_boot(found.heat_before, found.heat_after)),
    ]
    print(
        f"{found.tokens} tokens in {format_seconds(found.seconds)}, {found.threads} threads, "
        f"{len(found.windows)} windows"
    )
    output.print_table(rows)


def _temperatures(found: Sustained) -> str:
    before, after = found.heat_before.celsius, found.heat_after.celsius
    if before is None or after is None or found.hottest_celsius is None:
        return "unknown"
    limit = found.heat_after.limit_celsius
    return (
        f"{before:.0f} °C before, {found.hottest_celsius:.0f} °C at most, {after:.0f} °C after; "
        f"slows down at {limit:.0f} °C"
    )


def _clocks(found: Sustained) -> str:
    before, after = _megahertz(found.clock_before), _megahertz(found.clock_after)
    if before is None or after is None or found.lowest_megahertz is None:
        return "unknown"
    return f"{before} before, {found.lowest_megahertz:.0f} MHz at least, {after} after"


def _megahertz(clock: Clock | None) -> str | None:
    return None if clock is None else f"{clock.megahertz:.0f} MHz"


def _since_boot(before: Heat, after: Heat) -> str:
    names = sorted({*before.since_boot, *after.since_boot})
    return ", ".join(names) or "nothing that was seen"
