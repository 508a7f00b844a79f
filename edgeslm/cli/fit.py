"""The verb that predicts: fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from edgeslm.cli import options, output
from edgeslm.errors import InvalidOption
from edgeslm.records import FIT_SCHEMA, to_json
from edgeslm.units import format_bytes, format_seconds, significant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeslm.estimate.fit import Fit, FitOptions
    from edgeslm.estimate.speed_model import Interval
    from edgeslm.gguf.reader import Header
    from edgeslm.targets.target import Target

_RANKED_TYPES = (
    *("Q2_K", "Q3_K_M", "IQ4_XS", "Q4_0", "IQ4_NL", "Q4_K_S", "Q4_K_M"),
    *("Q5_0", "Q5_K_M", "Q6_K", "Q8_0", "F16"),
)
_NO_ROOM = "-"
"""In place of the wait for a prompt that the context has no room for."""


def fit(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...",
            help="GGUF files, bundles, checkpoints, or just their config.json.",
            show_default=False,
        ),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="ID", help="A board; may be repeated. Default: all."),
    ] = None,
    file_type: options.FileType = None,
    bits: options.Bits = None,
    types: Annotated[
        bool, typer.Option("--types", help="Compare the usual types of a file, on one --target.")
    ] = False,
    context: Annotated[
        int | None,
        typer.Option("--context", metavar="N", help="Context length; default: the target's."),
    ] = None,
    kv_type: Annotated[
        str | None,
        typer.Option("--kv-type", metavar="TYPE", help="Type of the KV cache."),
    ] = None,
    threads: options.Threads = None,
    prompt: Annotated[
        list[int] | None,
        typer.Option(
            "--prompt", metavar="N", min=1, help="Length of a prompt to tell the wait for."
        ),
    ] = None,
    battery: Annotated[
        float | None,
        typer.Option("--battery", metavar="WH", min=0.001, help="A battery's watt hours."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Will it run, how fast, with how much RAM and energy: on each board, before it is there.

    Every speed is an estimate with the interval in which nine of ten lie: a physical model of what
    a token reads and computes, fitted to speeds that people measured. Boards are ranked by what
    fits, then by decode speed. From a config.json, say which --type or how many --bits.

    Examples:
        edgeslm fit model.gguf
        edgeslm fit config.json --bits 4.5 --target rpi5 --battery 20
        edgeslm fit config.json --types --target rpi-zero-2w
    """
    from edgeslm.estimate.fit import PROMPTS, FitOptions

    wanted = FitOptions(
        context_length=context,
        kv_type=kv_type.upper() if kv_type else None,
        threads=threads,
        prompts=tuple(prompt or PROMPTS),
        battery_watt_hours=battery,
    )
    targets = _targets(target)
    if types:
        if file_type or bits is not None:
            raise InvalidOption(
                "--types compares all types; --type and --bits ask for one",
                hint="Leave out --types, or the other.",
            )
        _compare_types(models, targets, wanted, json=json)
        return
    results = [_one(model, targets, wanted, file_type, bits) for model in models]
    if json:
        single = len(results) == 1
        output.print_json(
            {"schema": FIT_SCHEMA, **(results[0].plain() if single else _several(results))}
        )
        return
    for result in results:
        result.show()


class _Model(NamedTuple):
    """What was named: its header, what its file is, and what had to be assumed."""

    path: Path
    header: Header
    label: str | None
    assumed: str | None


class _Result:
    """One model, on every target."""

    def __init__(
        self,
        model: _Model,
        header: Header,
        label: str | None,
        fits: Sequence[Fit],
        prompts: Sequence[int],
    ) -> None:
        self.model, self.assumed = model.path, model.assumed
        self.header, self.label = header, label
        self.fits, self.prompts = sorted(fits, key=_rank), prompts

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": str(self.model),
            "type": self.label,
            "weights_bytes": sum(tensor.bytes for tensor in self.header.tensors),
            "bits_per_weight": _bits_per_weight(self.header),
            "assumed": self.assumed,
            "targets": [plain(each) for each in self.fits],
        }

    def show(self) -> None:
        """As a table."""
        size = format_bytes(sum(tensor.bytes for tensor in self.header.tensors))
        kind = f" as {self.label}" if self.label else ""
        bits = significant(_bits_per_weight(self.header))
        _warn(self.assumed, self.fits)
        print(f"{self.model}{kind}: {size} of weights, {bits} bits each. Estimated:")
        lines = _merged([(each.board, _row(each, self.prompts)) for each in self.fits])
        lengths = " / ".join(map(str, self.prompts))
        header = ("board", "RAM", "decode tokens/s", "prefill tokens/s", "J/token", lengths)
        output.print_table(lines, header=header)
        print(f"The last column is the wait for the first token after {lengths} tokens of prompt.")
        if any(count >= each.context_length for each in self.fits for count in self.prompts):
            print(f"{_NO_ROOM}: no room in the context planned there; --context N plans another.")
        _print_support(self.fits)


def plain(each: Fit) -> dict[str, Any]:
    """A fit for JSON: intervals as objects, None where nothing supports a figure."""
    content: dict[str, Any] = to_json(each)
    for name in (
        "decode_tokens_per_second",
        "prefill_tokens_per_second",
        "decode_joules_per_token",
        "battery_hours",
    ):
        content[name] = _interval(getattr(each, name))
    content["first_token"] = [
        {"prompt_tokens": item.prompt_tokens, "seconds": _interval(item.seconds)}
        for item in each.first_token
    ]
    return content


def _several(results: Sequence[_Result]) -> dict[str, Any]:
    return {"models": [result.plain() for result in results]}


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else dict(interval._asdict())


def _targets(names: list[str] | None) -> tuple[Target, ...]:
    from edgeslm.targets.loading import list_targets, load_target

    if not names:
        return list_targets()
    found: list[Target] = []
    for target in map(load_target, names):
        if target not in found:
            found.append(target)
    return tuple(found)


def _one(
    model: Path,
    targets: Sequence[Target],
    wanted: FitOptions,
    file_type: str | None,
    bits: float | None,
) -> _Result:
    from edgeslm.estimate.fit import fit as predict
    from edgeslm.estimate.mixes import as_file_type, at_bits

    if file_type and bits is not None:
        raise InvalidOption("--type and --bits exclude each other", hint="Give one of them.")
    found = _model(model)
    header, label = found.header, found.label
    if file_type:
        header, label = as_file_type(header, file_type), file_type.upper()
    elif bits is not None:
        header, label = at_bits(header, bits), f"{bits:g} bits per weight"
    return _Result(found, header, label, predict(header, targets, wanted), wanted.prompts)


def _model(path: Path) -> _Model:
    from edgeslm.bundle.model_path import find_model
    from edgeslm.estimate.shapes import header_of_config
    from edgeslm.gguf.inspection import file_label
    from edgeslm.gguf.validation import read_model

    checkpoint = path.is_dir() and (path / "config.json").is_file()
    if path.suffix == ".json" or (checkpoint and not (path / "manifest.json").is_file()):
        header, assumed = header_of_config(path)
        return _Model(path, header, "F16", assumed)
    header = read_model(find_model(path))
    return _Model(path, header, file_label(header), None)


def _warn(assumed: str | None, fits: Sequence[Fit]) -> None:
    if assumed:
        output.warn(assumed)
    notes = [
        (each.board, (each.id, note.removeprefix(f"{each.id} ")))
        for each in fits
        for note in each.notes
    ]
    for boards, note in _merged(list(dict.fromkeys(notes))):
        output.warn(f"{boards} {note}")


def _compare_types(
    models: Sequence[Path], targets: Sequence[Target], wanted: FitOptions, *, json: bool
) -> None:
    from edgeslm.estimate.fit import fit as predict
    from edgeslm.estimate.mixes import as_file_type

    if len(models) != 1 or len(targets) != 1:
        raise InvalidOption(
            "--types compares the types of one model on one board",
            hint="Name one model and one --target.",
        )
    model = _model(models[0])
    headers = {label: as_file_type(model.header, label) for label in _RANKED_TYPES}
    fits = {label: predict(each, targets, wanted)[0] for label, each in headers.items()}
    order = sorted(fits, key=lambda label: _rank(fits[label]))
    if json:
        content = [
            {
                "type": label,
                "bits_per_weight": _bits_per_weight(headers[label]),
                **plain(fits[label]),
            }
            for label in order
        ]
        head = {"schema": FIT_SCHEMA, "model": str(model.path), "assumed": model.assumed}
        output.print_json({**head, "types": content})
        return
    _warn(model.assumed, list(fits.values()))
    print(f"{models[0]} on {targets[0].name}, fastest first among those that fit. Estimated:")
    output.print_table(
        (
            (label, significant(_bits_per_weight(headers[label])), *_row(fits[label], ())[1:4])
            for label in order
        ),
        header=("type", "bits", "RAM", "decode tokens/s", "prefill tokens/s"),
    )
    print("Narrower types lose quality; edgeslm evaluate measures how much.")


def _bits_per_weight(header: Header) -> float:
    weights = sum(tensor.elements for tensor in header.tensors)
    return 8 * sum(tensor.bytes for tensor in header.tensors) / max(weights, 1)


def _rank(each: Fit) -> tuple[int, float]:
    speed = each.decode_tokens_per_second
    return {True: 0, None: 1, False: 2}[each.fits], -(speed.value if speed else 0.0)


def _merged(rows: Sequence[tuple[str, tuple[str, ...]]]) -> list[tuple[str, ...]]:
    """One line for the sizes of a board that differ in nothing: "rpi5 8gb, 16gb".

    Args:
        rows: For each target its board, and the cells of a line, its id first.
    """
    ids: dict[tuple[str, ...], list[str]] = {}
    for board, cells in rows:
        ids.setdefault((board, *cells[1:]), []).append(cells[0])
    return [(_together(board, names), *cells) for (board, *cells), names in ids.items()]


def _together(board: str, names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    sizes = ", ".join(name.removeprefix(f"{board}-") for name in names if name != board)
    return f"{board}, {sizes}" if board in names else f"{board} {sizes}"


def _row(each: Fit, prompts: Sequence[int]) -> tuple[str, ...]:
    verdict = {True: "fits", False: "too large", None: "fits?"}[each.fits]
    memory = f"{format_bytes(each.peak_memory_bytes)}, {verdict}"
    waits = {item.prompt_tokens: format_seconds(item.seconds.value) for item in each.first_token}
    unknown = "unknown" if each.prefill_tokens_per_second is None else _NO_ROOM
    return (
        each.id,
        memory,
        _shown(each.decode_tokens_per_second),
        _shown(each.prefill_tokens_per_second),
        _shown(each.decode_joules_per_token),
        " / ".join(waits.get(count, unknown) for count in prompts),
    )


def _shown(interval: Interval | None) -> str:
    if interval is None:
        return "unknown"
    low, high = significant(interval.low, 2), significant(interval.high, 2)
    return f"{significant(interval.value)} ({low} to {high})"


def _hours(each: Fit) -> str:
    """What a battery lasts, as far as it is known."""
    writing = f"{_shown(each.battery_hours)} h of writing" if each.battery_hours else None
    idle = f"{significant(each.idle_hours)} h at rest" if each.idle_hours else None
    return ", ".join(filter(None, (writing, idle)))


def _print_support(fits: Sequence[Fit]) -> None:
    for name, hours in _merged([(each.board, (each.id, _hours(each))) for each in fits]):
        if hours:
            print(f"{name}: {hours} on the battery")
    if len(fits) == 1:
        print(f"rests on: {fits[0].supported_by}")
        for source, count in fits[0].rows.items():
            print(f"  {count} of {source}")
        for name, count in fits[0].rows_by_type.items():
            print(f"  {name} on processors of this kind: {count or 'no'} rows, of any board")
