"""A matrix of models, types, settings and hosts as a TOML file, and its cells; pure.

    [models]
    smollm2 = "SmolLM2-135M-Instruct.gguf"

    [axes]
    types = ["original", "Q4_K_M", 4.5]
    threads = [2, 4]

    [hosts.pi5]
    address = "ssh://pi@pi5.local"

    [[exclude]]
    type = "original"
    host = "pi5"

docs/bench.md explains every key. A key that is not known is an error.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeslm.errors import InvalidOption
from edgeslm.files import read_text
from edgeslm.gguf.types import kv_tensor_type
from edgeslm.llama.quantizer import file_type_name
from edgeslm.profiling.matrix_table import Table
from edgeslm.profiling.profile import ProfileOptions
from edgeslm.profiling.steadiness import RUNS, WARM_UP_SECONDS
from edgeslm.ssh import is_address
from edgeslm.units import parse_bits, parse_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ORIGINAL = "original"
"""The type of a model that is measured as it is."""
LOCAL = "local"
"""The host that this program runs on."""
LISTED, INTERLEAVED = "listed", "interleaved"
_SCHEMA = "edgeslm.matrix/1"
_LARGEST = 1 << 31
_MOST_CELLS = 100_000
_MOST_ROUNDS = 100
_MOST_RUNS = 21  # fewer than of a single profile: rounds repeat a cell at other times


@dataclass(frozen=True)
class HostEntry:
    """A machine of the matrix.

    Attributes:
        name: What the matrix calls it.
        address: "ssh://user@host:port", or a name of the user's ssh configuration; None for the
            machine that this runs on.
        edgeslm: The program there; "~/" is the home folder there.
        folder: Where models go there.
        target: Which board it is, for what is predicted.
        ssh_config: Another file of ssh's than the user's.
        meter: Which power meter to read there, as `edgeslm profile --meter` takes it.
    """

    name: str
    address: str | None = None
    edgeslm: str = "edgeslm"
    folder: str = "~/.cache/edgeslm/models"
    target: str | None = None
    ssh_config: Path | None = None
    meter: str | None = None


@dataclass(frozen=True)
class Runs:
    """What every cell runs; see `edgeslm profile`, whose defaults are these but `most_repeats`."""

    prompt_tokens: int = 512
    generated_tokens: int = 128
    depths: tuple[int, ...] = (0,)
    repeats: int = RUNS
    most_repeats: int = _MOST_RUNS
    warm_up_seconds: float = WARM_UP_SECONDS
    idle_seconds: float = 5.0
    budget_seconds: float | None = None
    sustained_seconds: float | None = None
    memory_limit: int | None = None


@dataclass(frozen=True)
class Order:
    """How cells follow each other.

    Attributes:
        order: "interleaved": neighbours differ in their model, and every second round runs
            backwards, so that what drifts favours nobody; "listed": as the axes list them.
        rounds: How often the whole matrix is gone through.
        cool_down_seconds: Most to wait before a cell until the machine is as it was in the
            beginning.
        timeout_seconds: Most that a cell may take.
    """

    order: str = INTERLEAVED
    rounds: int = 1
    cool_down_seconds: float = 120.0
    timeout_seconds: float = 3600.0


@dataclass(frozen=True)
class Quantizing:
    """How mixes (types that are numbers) are made; see `edgeslm quantize`."""

    quick: bool = False
    calibration: Path | None = None


@dataclass(frozen=True)
class Cell:
    """One thing to measure. None: as `edgeslm profile` chooses.

    Attributes:
        type: ORIGINAL, llama.cpp's name, or a number of bits.
    """

    model: str
    type: str
    context: int | None
    threads: int | None
    kv_type: str
    host: str
    round: int

    @property
    def bits(self) -> float | None:
        """The width, if the type is a number."""
        return float(self.type) if self.type[:1].isdigit() else None


@dataclass(frozen=True)
class Matrix:
    """What a file says.

    Attributes:
        models: Their files by name.
        hosts: Those that the axes use, by name.
        cells: What is to be measured, in the order of running.
    """

    path: Path
    models: Mapping[str, Path]
    hosts: Mapping[str, HostEntry]
    runs: Runs
    order: Order
    quantizing: Quantizing
    cells: tuple[Cell, ...]

    def key(
        self, cell: Cell, model_sha256: str, machine: str, calibration_sha256: str | None = None
    ) -> str:
        """Names what a cell measures: another model file, machine or length has another key.

        Args:
            cell: Of this matrix.
            model_sha256: Of the model's file before it is quantized.
            machine: Which machine the host is.
            calibration_sha256: Of the text that mixes are calibrated on, if there is one.
        """
        parts: dict[str, Any] = {**asdict(cell), "runs": asdict(self.runs)}
        del parts["model"]  # another name for the same file changes nothing
        meter = self.hosts[cell.host].meter
        parts |= {"model_sha256": model_sha256, "machine": machine, "meter": meter}
        if cell.bits is not None:
            parts["mix"] = [self.quantizing.quick, calibration_sha256]
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def options(self, cell: Cell) -> ProfileOptions:
        """What is run for a cell of this matrix."""
        return replace(
            _as_options(self.runs, cell.context),
            threads=cell.threads,
            kv_type=cell.kv_type,
            meter=self.hosts[cell.host].meter,
        )


def load_matrix(path: Path) -> Matrix:
    """The matrix of the file at `path`; paths in it are relative to its folder.

    Raises:
        UserError: it is no TOML file, or says what cannot be; the message names the key.
    """
    text = read_text(path)
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Table(path, "", {}).wrong("", f"not a TOML file: {error}") from error
    return parse_matrix(path, content)


def parse_matrix(path: Path, content: Mapping[str, Any]) -> Matrix:
    """The same from what the file holds.

    Raises:
        UserError: it says what cannot be.
    """
    top = Table(path, "", content)
    schema = top.text("schema", _SCHEMA)
    if schema != _SCHEMA:
        raise top.wrong("schema", f"is {schema!r}, this version reads {_SCHEMA!r}")
    models = _models(top.table("models"))
    hosts = {LOCAL: HostEntry(LOCAL)} | _hosts(top.table("hosts"))
    axes = _axes(top.table("axes"), models, hosts)
    order = _order(top.table("order"))
    runs = _runs(top.table("runs"), axes.context)
    quantizing = _quantizing(top.table("quantize"))
    rules = [_rule(each, axes) for each in top.tables("exclude")]
    top.finish()
    cells = tuple(_cells(top, axes, rules, order))
    used = {cell.host for cell in cells}
    return Matrix(
        path=path,
        models=models,
        hosts={name: host for name, host in hosts.items() if name in used},
        runs=runs,
        order=order,
        quantizing=quantizing,
        cells=cells,
    )


def only_hosts(matrix: Matrix, names: Iterable[str]) -> tuple[Cell, ...]:
    """The cells on these hosts.

    Raises:
        InvalidOption: the matrix has no such host.
    """
    wanted = tuple(names)
    for name in wanted:
        if name not in matrix.hosts:
            raise InvalidOption(
                f"no host {name!r} in {matrix.path}", hint=_meant(name, list(matrix.hosts))
            )
    return tuple(cell for cell in matrix.cells if cell.host in wanted)


@dataclass(frozen=True)
class _Axes:
    """The values of each axis, in the order in which cells name them."""

    model: tuple[str, ...]
    type: tuple[str, ...]
    context: tuple[int | None, ...]
    threads: tuple[int | None, ...]
    kv_type: tuple[str, ...]
    host: tuple[str, ...]

    @property
    def values(self) -> dict[str, tuple[Any, ...]]:
        """By name."""
        return {name: getattr(self, name) for name in _AXES}


_AXES = ("model", "type", "context", "threads", "kv_type", "host")


def _cells(
    top: Table, axes: _Axes, rules: Sequence[Mapping[str, Sequence[Any]]], order: Order
) -> list[Cell]:
    values = axes.values
    count = order.rounds
    for each in values.values():
        count *= len(each)
    if count > _MOST_CELLS:
        raise top.wrong("axes", f"{count:,} cells; at most {_MOST_CELLS:,}")
    names = list(_AXES)
    if order.order == INTERLEAVED:  # what comes last varies fastest
        names = ["host", "context", "threads", "kv_type", "type", "model"]
    kept = []
    for combination in itertools.product(*(values[name] for name in names)):
        named = dict(zip(names, combination, strict=True))
        if not any(all(named[key] in some for key, some in rule.items()) for rule in rules):
            kept.append(named)
    if not kept:
        raise top.wrong("exclude", "leaves no cell to measure")
    cells: list[Cell] = []
    for number in range(1, order.rounds + 1):
        backwards = order.order == INTERLEAVED and number % 2 == 0
        ordered = reversed(kept) if backwards else kept
        cells += [Cell(**named, round=number) for named in ordered]
    return cells


def _models(table: Table) -> dict[str, Path]:
    models = {name: table.path(name) for name in table.names()}
    if not models:
        raise table.wrong("", 'names no model: name = "file.gguf"')
    return models


def _hosts(table: Table) -> dict[str, HostEntry]:
    hosts = {}
    for name in table.names():
        entry = table.table(name)
        usual = HostEntry(name)
        meter, target = entry.text("meter", None), entry.text("target", None)
        if name == LOCAL:
            hosts[name] = replace(usual, meter=meter, target=target)
        else:
            hosts[name] = HostEntry(
                name=name,
                address=_address(entry),
                edgeslm=entry.text("edgeslm", usual.edgeslm) or usual.edgeslm,
                folder=entry.text("folder", usual.folder) or usual.folder,
                target=target,
                ssh_config=entry.optional_path("ssh_config"),
                meter=meter,
            )
        entry.finish()
    return hosts


def _address(entry: Table) -> str:
    address = entry.text("address", None)
    if address is None:
        raise entry.wrong("address", 'is missing: "ssh://user@host:port", or a name of ssh\'s')
    if not is_address(address):
        raise entry.wrong("address", f"is no address for ssh: {address!r}")
    return address


def _axes(table: Table, models: Mapping[str, Path], hosts: Mapping[str, HostEntry]) -> _Axes:
    axes = _Axes(
        model=tuple(models),
        type=table.values("types", _type, (ORIGINAL,)),
        context=table.values("contexts", _count_or_auto, (None,)),
        threads=table.values("threads", _count_or_auto, (None,)),
        kv_type=table.values("kv_types", _kv_type, ("F16",)),
        host=table.values("hosts", lambda value: _one_of(value, hosts), (LOCAL,)),
    )
    table.finish()
    return axes


def _runs(table: Table, contexts: Iterable[int | None]) -> Runs:
    usual = Runs()
    limit = table.text("memory_limit", None)
    said = "repeats" in table.names()
    repeats = table.count("repeats", usual.repeats)
    runs = Runs(
        prompt_tokens=table.count("prompt_tokens", usual.prompt_tokens),
        generated_tokens=table.count("generated_tokens", usual.generated_tokens),
        depths=table.values("depths", _depth, usual.depths),
        repeats=repeats,
        most_repeats=table.count("most_repeats", repeats if said else usual.most_repeats),
        warm_up_seconds=table.seconds("warm_up_seconds", usual.warm_up_seconds) or 0.0,
        idle_seconds=table.seconds("idle_seconds", usual.idle_seconds) or 0.0,
        budget_seconds=table.seconds("budget_seconds", None),
        sustained_seconds=table.seconds("sustained_seconds", None),
        memory_limit=None if limit is None else table.checked("memory_limit", parse_bytes, limit),
    )
    table.finish()
    for context in contexts:
        table.checked("", lambda length: _as_options(runs, length), context)
    return runs


def _as_options(runs: Runs, context: int | None) -> ProfileOptions:
    """What `profile` refuses is refused here: before anything has run."""
    return ProfileOptions(
        context_length=context,
        prompt_tokens=runs.prompt_tokens,
        generated_tokens=runs.generated_tokens,
        depths=runs.depths,
        repeats=runs.repeats,
        most_repeats=runs.most_repeats,
        warm_up_seconds=runs.warm_up_seconds,
        idle_seconds=runs.idle_seconds,
        budget_seconds=runs.budget_seconds,
        sustained_seconds=runs.sustained_seconds,
    )


def _order(table: Table) -> Order:
    usual = Order()
    order = Order(
        order=_one_of_keys(table, "order", (INTERLEAVED, LISTED)),
        rounds=table.count("rounds", usual.rounds),
        cool_down_seconds=table.seconds("cool_down_seconds", usual.cool_down_seconds) or 0.0,
        timeout_seconds=table.seconds("timeout_seconds", usual.timeout_seconds) or 0.0,
    )
    if order.rounds > _MOST_ROUNDS:
        raise table.wrong("rounds", f"at most {_MOST_ROUNDS}")
    if order.timeout_seconds < 1:
        raise table.wrong("timeout_seconds", "must be at least 1")
    table.finish()
    return order


def _one_of_keys(table: Table, key: str, known: Sequence[str]) -> str:
    value = table.text(key, known[0]) or known[0]
    return table.checked(key, lambda text: _one_of(text, known), value)


def _quantizing(table: Table) -> Quantizing:
    quantizing = Quantizing(
        quick=table.flag("quick"), calibration=table.optional_path("calibration")
    )
    if quantizing.quick and quantizing.calibration is not None:
        raise table.wrong("quick", "uses no calibration; leave out one of the two")
    table.finish()
    return quantizing


def _rule(table: Table, axes: _Axes) -> dict[str, tuple[Any, ...]]:
    """Which values of which axes together are left out."""
    rule = {}
    for key in table.names():
        if key not in _AXES:
            raise table.unknown(key, _AXES)
        values = table.some(key, _CHECKS[key])
        for value in values:
            if value not in getattr(axes, key):
                known = [f"{each}" for each in getattr(axes, key)]
                raise table.wrong(key, f"{value!r} is not on that axis", _meant(f"{value}", known))
        rule[key] = values
    if not rule:
        raise table.wrong("", "is empty, which would leave out everything")
    return rule


def _type(value: Any) -> str:
    """A type as cells name it: "original", "Q4_K_M", "4.5"."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InvalidOption(f"not a type: {value!r}", hint='Write "Q4_K_M", 4.5 or "original".')
    text = f"{value}".strip()
    if text.lower() == ORIGINAL:
        return ORIGINAL
    if text[:1].isdigit() or text[:1] == "-":
        return f"{parse_bits(text):g}"
    name = file_type_name(text)
    if name == "COPY":
        raise InvalidOption("COPY changes nothing", hint=f'Write "{ORIGINAL}".')
    return name


def _count_or_auto(value: Any) -> int | None:
    if value == "auto":
        return None
    return _count(value, 'Write numbers, or "auto".')


def _count(value: Any, hint: str, least: int = 1) -> int:
    if type(value) is not int or not least <= value < _LARGEST:
        raise InvalidOption(f"not a whole number from {least}: {value!r}", hint=hint)
    return value


def _depth(value: Any) -> int:
    return _count(value, "Write depths like [0, 512].", 0)


def _kv_type(value: Any) -> str:
    name = f"{value}".upper()
    kv_tensor_type(name)
    return name


def _one_of(value: Any, known: Iterable[str]) -> str:
    names = list(known)
    if value not in names:
        raise InvalidOption(f"unknown: {value!r}", hint=_meant(f"{value}", names))
    return str(value)


def _meant(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]}?" if close else f"There are: {', '.join(known)}."


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "model": str,
    "type": _type,
    "context": _count_or_auto,
    "threads": _count_or_auto,
    "kv_type": _kv_type,
    "host": str,
}
"""What each axis makes of a value."""
