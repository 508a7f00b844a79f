"""Speeds that somebody measured, as rows to fit a prediction to: published ones, and contributed.

`targets/rows/*.toml` holds what others have published, one file per source, with the sizes of the
models in `models.toml`; `targets/community/*.json` what users of this program measured and gave
(`edgeslm bench --submit-file`). A published row names a model and a label such as Q4_K_M, from
which the types of its tensors follow; a contributed one states itself what its model asks for.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgeslm.errors import InvalidOption, InvalidTarget, reading
from edgeslm.estimate.mixes import as_file_type
from edgeslm.estimate.physics import ALL_CORES
from edgeslm.estimate.shapes import header_from_config
from edgeslm.estimate.work import Work, work_of
from edgeslm.gguf.types import TENSOR_TYPES
from edgeslm.targets.loading import data_directory, shipped_targets
from edgeslm.targets.target import Target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCHEMA = "edgeslm.rows/1"
SUBMISSION_SCHEMA = "edgeslm.submission/1"
_MODELS = "models.toml"
_PROMPT, _GENERATED = 512, 128
_MOST = 1e9
_BROKEN = (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidOption)
_MEND = "Mend the file or restore it."
_ROW_KEYS = frozenset({"model", "type", "prefill", "decode", "prompt", "embeddings"})
_MACHINE_KEYS = frozenset(
    {"target", "threads", "cores", "source", "depth", "blas", "doubt", "rows"}
)
_TYPES = frozenset(kind.name for kind in TENSOR_TYPES.values())


@dataclass(frozen=True)
class Row:
    """One model on one machine.

    Attributes:
        target: The board, by id.
        machine: Which one, and with what software: rows of one machine err together.
        threads: Of both phases.
        cores: The name of the cores they were kept on, "all" where they were on several kinds,
            None for the fastest.
        model: Which model, to leave it out in a check.
        label: The label of its file.
        work: What it asks for.
        prefill, decode: Tokens per second; None where not measured.
        prefill_depth, depth: Tokens in the cache, on average, during prefill and decode: half of a
            prompt, half of what was generated, and what was there before.
        blas: Whether llama.cpp was built with a library for matrices.
        doubt: Relative error beyond what is usual, where the row is less certain.
        source: Who measured it.
    """

    target: str
    machine: str
    threads: int
    cores: str | None
    model: str
    label: str
    work: Work
    prefill: float | None
    decode: float | None
    prefill_depth: float
    depth: float
    blas: bool
    doubt: float
    source: str


def published_rows(folder: Path | None = None) -> tuple[Row, ...]:
    """Every row of `targets/rows`, or of another folder like it.

    Raises:
        InvalidTarget: a file breaks the schema; the message says where.
    """
    folder = folder or data_directory() / "rows"
    models = model_configs(folder)
    rows: list[Row] = []
    for path in sorted(folder.glob("*.toml")):
        if path.name != _MODELS:
            rows += _published(path, models)
    return tuple(rows)


def model_configs(folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """The sizes of the models that published rows are about, as in their config.json."""
    content = _toml((folder or data_directory() / "rows") / _MODELS)
    return {name: value for name, value in content.items() if isinstance(value, dict)}


def contributed_rows(folder: Path | None = None) -> tuple[Row, ...]:
    """Every row of `targets/community`, or of another folder like it.

    Raises:
        InvalidTarget: a file breaks the schema.
    """
    folder = folder or data_directory() / "community"
    rows: list[Row] = []
    for path in sorted(folder.glob("*.json")):
        rows += _contributed(path)
    return tuple(rows)


def all_rows() -> tuple[Row, ...]:
    """Published and contributed ones."""
    return (*published_rows(), *contributed_rows())


def submission(rows: tuple[Row, ...]) -> dict[str, Any]:
    """Rows as the document that can be added to `targets/community`."""
    return {"schema": SUBMISSION_SCHEMA, "rows": [_plain(row) for row in rows]}


def _published(path: Path, models: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    content = _toml(path)
    if content.get("schema") != SCHEMA:
        raise InvalidTarget(f"{path}: schema is not {SCHEMA}", hint=_MEND)
    try:
        return [
            _published_row(row, machine, content["source"], models)
            for machine in content.get("machines", ())
            for row in machine["rows"]
        ]
    except _BROKEN as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InvalidTarget(f"{path}: {what[:200]}", hint=_MEND) from error


def _published_row(
    row: Mapping[str, Any],
    machine: Mapping[str, Any],
    source: str,
    models: Mapping[str, Mapping[str, Any]],
) -> Row:
    name, label, target = _text(row, "model"), _text(row, "type"), _text(machine, "target")
    source = _text(machine, "source") if "source" in machine else source
    if name not in models:
        raise ValueError(f"{name} is not in {_MODELS}")
    if unknown := (set(row) - _ROW_KEYS) | (set(machine) - _MACHINE_KEYS):
        raise ValueError(f"no such key: {', '.join(sorted(unknown))}")
    work = _work(name, _frozen(models[name]), label, row.get("embeddings") == "twice")
    return Row(
        target=target,
        machine=f"{source}, {target}",
        threads=_whole(machine["threads"]),
        cores=_cores(target, machine.get("cores")),
        model=name,
        label=label,
        work=work,
        prefill=_speed(row.get("prefill")),
        decode=_speed(row.get("decode")),
        prefill_depth=_whole(row.get("prompt", _PROMPT)) / 2,
        depth=_positive(machine.get("depth", 0), least=0) + _GENERATED / 2,
        blas=machine.get("blas", False) is True,
        doubt=_positive(machine.get("doubt", 0.0), least=0),
        source=source,
    )


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is no text")
    return value


def _speed(value: Any) -> float | None:
    return None if value is None else _positive(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise ValueError(f"no number of 1 and more: {value!r}")
    return value


def _cores(target: str, name: Any) -> str | None:
    """The name of cores that the board has; of boards that nobody knows here, any."""
    if name is None or name == ALL_CORES:
        return None if name is None else ALL_CORES
    board = _shipped().get(target)
    known = [name] if board is None else [cluster.name for cluster in board.cores]
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{target} has no cores called {name!r}")
    return name


@lru_cache(maxsize=1)
def _shipped() -> Mapping[str, Target]:
    return shipped_targets()


def _frozen(config: Mapping[str, Any]) -> str:
    return json.dumps(config)


@lru_cache(maxsize=512)
def _work(name: str, config: str, label: str, twice: bool) -> Work:
    values = json.loads(config)
    if twice:
        values["tie_word_embeddings"] = False
    return work_of(as_file_type(header_from_config(Path(name), values), label))


def _contributed(path: Path) -> Iterator[Row]:
    with reading(path):
        text = path.read_text(encoding="utf-8")
    try:
        content = json.loads(text)
        if content["schema"] != SUBMISSION_SCHEMA:
            raise InvalidTarget(f"{path}: schema is not {SUBMISSION_SCHEMA}")
        rows = [_row(item) for item in content["rows"]]
    except _BROKEN as error:
        raise InvalidTarget(
            f"{path}: not a submission: {str(error)[:200]}",
            hint="Write it with edgeslm bench --submit-file.",
        ) from error
    yield from rows


def _row(item: Mapping[str, Any]) -> Row:
    work = item["work"]
    values = {field.name: item[field.name] for field in dataclasses.fields(Row)}
    for name in ("prefill", "decode"):
        values[name] = _speed(values[name])
    for name in ("target", "machine", "model", "label", "source"):
        values[name] = _text(item, name)
    for name in ("prefill_depth", "depth", "doubt"):
        values[name] = _positive(values[name], least=0)
    values["blas"] = bool(values["blas"])
    values["threads"] = _whole(values["threads"])
    values["cores"] = _cores(values["target"], values["cores"])
    values["work"] = Work(
        read=_counts(work["read"]),
        multiplied=_counts(work["multiplied"]),
        prompt=_counts(work["prompt"]),
        layers=_whole(work["layers"]),
        cached=_windows(work["cached"]),
        attended=_windows(work["attended"]),
    )
    return Row(**values)


def _windows(value: Mapping[str, Any]) -> dict[int | None, int]:
    return {
        None if key == "null" else int(key): int(_positive(count, least=0))
        for key, count in value.items()
    }


def _counts(value: Mapping[str, Any]) -> dict[str, int]:
    if unknown := set(value) - _TYPES:
        raise ValueError(f"no tensor types: {', '.join(sorted(unknown))}")
    return {name: int(_positive(count, least=0)) for name, count in value.items()}


def _positive(value: Any, least: float = 1e-9) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"no number: {value!r}")
    if not least <= value <= _MOST * 1e6:
        raise ValueError(f"out of range: {value}")
    return value


def _plain(row: Row) -> dict[str, Any]:
    plain = dataclasses.asdict(row)
    for name in ("cached", "attended"):
        plain["work"][name] = {
            "null" if window is None else str(window): count
            for window, count in plain["work"][name].items()
        }
    return plain


def _toml(path: Path) -> dict[str, Any]:
    with reading(path):
        text = path.read_text(encoding="utf-8")
    try:
        content: dict[str, Any] = tomllib.loads(text)
        return content
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidTarget(f"{path}: {error}", hint=_MEND) from error
