"""TOML to `Target`, strict: an unknown key, a wrong type or a figure without a source is an error.

A file describes one board. Where a board is sold with several memory sizes, `[variants.NAME]`
holds what differs and `default_variant` says which one the bare board name means.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgeslm.errors import InvalidTarget, NotFound, reading
from edgeslm.gguf.types import TENSOR_TYPES
from edgeslm.records import UNKNOWN, Figure, Provenance
from edgeslm.targets.target import (
    CoreCluster,
    Defaults,
    Kernel,
    Match,
    Memory,
    Overhead,
    Power,
    Target,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCHEMA = "edgeslm.target/1"

_LARGEST = 1e18
"""No figure of a board comes near it."""

_TENSOR_TYPE_NAMES = frozenset(kind.name for kind in TENSOR_TYPES.values())


def load_target(id_or_path: str) -> Target:
    """The target called `id_or_path`, or described by the `.toml` file of that path.

    Raises:
        NotFound: no such target or file; the hint names the closest ones.
        InvalidTarget: the file breaks the schema; the message names file and key.
    """
    if id_or_path.endswith(".toml"):
        path = Path(id_or_path)
        board = _read(path)
        return _target(path, board, _default_variant(path, board))
    for path in _files():
        if id_or_path == path.stem:
            board = _read(path)
            return _target(path, board, _default_variant(path, board))
        if id_or_path.startswith(f"{path.stem}-"):
            for target in _of(path):
                if target.id == id_or_path:
                    return target
    for target in _all_targets():  # a file may be called otherwise than its board
        if target.id == id_or_path:
            return target
    raise _unknown(id_or_path)


def list_targets() -> tuple[Target, ...]:
    """Every shipped target and the user's own, each memory size on its own, sorted by id."""
    return tuple(sorted(_all_targets(), key=lambda target: _natural(target.id)))


def target_ids() -> tuple[str, ...]:
    """Every id that `load_target` knows, bare board names included, sorted."""
    names = {path.stem for path in _files()} | {target.id for target in _all_targets()}
    return tuple(sorted(names, key=_natural))


def variants_of(board: str) -> tuple[Target, ...]:
    """The memory sizes of the shipped board `board`, smallest first; the board itself if one."""
    found = _of(data_directory() / f"{board}.toml")
    return tuple(sorted(found, key=lambda target: target.memory.total_bytes.value or 0))


def boards() -> tuple[Target, ...]:
    """Every shipped board once, in its default variant."""
    found = ((path, _read(path)) for path in _shipped_files())
    return tuple(_target(path, board, _default_variant(path, board)) for path, board in found)


def shipped_targets() -> dict[str, Target]:
    """Every shipped board, by its bare name and by the id of each memory size."""
    sizes = {target.id: target for path in _shipped_files() for target in _of(path)}
    return {**{target.board: target for target in boards()}, **sizes}


def user_directory() -> Path | None:
    """Where a user's own target files are, or None where the user has no home.

    `$EDGESLM_TARGETS`, else `$XDG_CONFIG_HOME/edgeslm/targets`, else `~/.config/edgeslm/targets`;
    not created here.
    """
    if folder := os.environ.get("EDGESLM_TARGETS"):
        return Path(folder)
    if folder := os.environ.get("XDG_CONFIG_HOME"):
        return Path(folder) / "edgeslm" / "targets"
    try:
        return Path.home() / ".config" / "edgeslm" / "targets"
    except RuntimeError:
        return None


def data_directory() -> Path:
    """Where the shipped target files are: inside the package, or beside it in a source tree."""
    packaged = Path(__file__).parent / "data"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "targets"


def _files() -> list[Path]:
    """Shipped files and the user's; one of the user's replaces the shipped one of its name."""
    found = {path.stem: path for path in _shipped_files()}
    if (folder := user_directory()) is not None:
        found |= {path.stem: path for path in folder.glob("*.toml")}
    return [found[name] for name in sorted(found)]


def _shipped_files() -> list[Path]:
    return sorted(data_directory().glob("*.toml"))


def _all_targets() -> Iterator[Target]:
    for path in _files():
        yield from _of(path)


def _of(path: Path) -> list[Target]:
    """Every variant in the file at `path`."""
    board = _read(path)
    return [_target(path, board, variant) for variant in _variants(board)]


def _natural(text: str) -> tuple[tuple[int, str], ...]:
    """A sort key that puts 2gb before 16gb."""
    parts: list[tuple[int, str]] = []
    for part in text.split("-"):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        parts.append((int(digits or 0), part))
    return tuple(parts)


def _unknown(name: str) -> NotFound:
    close = difflib.get_close_matches(name.lower(), target_ids(), n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    return NotFound(
        f"no target called {name!r}", hint=f"{hint}`edgeslm targets list` shows all of them."
    )


def _read(path: Path) -> dict[str, Any]:
    with reading(path):
        raw = path.read_bytes()
    try:
        content: dict[str, Any] = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidTarget(
            f"{path}: not a TOML file: {error}", hint="docs/targets.md shows the form."
        ) from error
    if not isinstance(content.get("variants", {}), dict):
        raise _invalid(path, "variants", "must be a table")
    return content


def _variants(board: Mapping[str, Any]) -> list[str | None]:
    """The board's variants; None is the board as it stands, which a default replaces."""
    names = list(board.get("variants", {}))
    return names if board.get("default_variant") is not None else [None, *names]


def _default_variant(path: Path, board: Mapping[str, Any]) -> str | None:
    """The variant a bare board name means; None for the board as it stands."""
    variants = _variants(board)
    default = board.get("default_variant")
    if default is None:
        return None
    if default not in variants or not isinstance(default, str):
        names = ", ".join(name for name in variants if name) or "none"
        raise InvalidTarget(
            f"{path}: default_variant: {default!r} is no variant of this board",
            hint=f"Its variants: {names}.",
        )
    return default


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, table by table; a figure is replaced as a whole."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        tables = isinstance(old, dict) and isinstance(value, dict) and "value" not in value
        result[key] = _merged(old, value) if tables and old is not None else value
    return result


def _target(path: Path, board: Mapping[str, Any], variant: str | None) -> Target:
    base = {key: value for key, value in board.items() if key not in _VARIANT_KEYS}
    if variant is not None:
        changes = board["variants"][variant]
        if not isinstance(changes, dict):
            raise _invalid(path, f"variants.{variant}", "must be a table")
        base = _merged(base, changes)
    table = _Table(path, "", base)
    if (schema := table.text("schema")) != SCHEMA:
        raise _invalid(path, "schema", f"is {schema!r}, this version reads {SCHEMA!r}")
    name = table.text("id")
    target = Target(
        id=f"{name}-{variant}" if variant else name,
        board=name,
        name=table.text("name"),
        vendor=table.text("vendor"),
        soc=table.text("soc"),
        architecture=table.text("architecture"),
        backend=table.text("backend"),
        cores=tuple(_cluster(cluster) for cluster in table.tables("cores")),
        memory=_memory(table.table("memory")),
        storage=table.texts("storage"),
        power=_power(table.table("power")),
        meters=table.texts("meters"),
        prefill_gigaflops=_prefill(table.table("compute")),
        kernels=_kernels(table.table("kernels")),
        caches=_caches(table.table("caches")),
        overhead=_overhead(table.table("overhead")),
        defaults=_defaults(table.table("defaults")),
        match=_match(table.table("match")),
    )
    table.finish()
    return target


_VARIANT_KEYS = ("variants", "default_variant")


def _cluster(table: _Table) -> CoreCluster:
    cluster = CoreCluster(
        name=table.text("name"),
        count=table.figure("count"),
        megahertz=table.figure("megahertz"),
        features=table.texts("features"),
        march=table.optional_text("march"),
    )
    table.finish()
    return cluster


def _memory(table: _Table) -> Memory:
    memory = Memory(
        total_bytes=table.figure("total_bytes"),
        reserved_bytes=table.figure("reserved_bytes"),
        nominal_gigabytes_per_second=table.figure("nominal_gigabytes_per_second"),
        decode_gigabytes_per_second=table.figure("decode_gigabytes_per_second"),
    )
    table.finish()
    return memory


def _power(table: _Table) -> Power:
    power = Power(idle_watts=table.figure("idle_watts"), load_watts=table.figure("load_watts"))
    table.finish()
    return power


def _prefill(table: _Table) -> Figure:
    figure = table.figure("prefill_gigaflops")
    table.finish()
    return figure


def _kernels(table: _Table) -> Mapping[str, Kernel]:
    kernels: dict[str, Kernel] = {}
    for name, entry in _by_type(table):
        kernels[name] = Kernel(
            decode_gigabytes_per_second=entry.figure("decode_gigabytes_per_second"),
            prefill_gigaflops=entry.figure("prefill_gigaflops"),
        )
        entry.finish()
    return MappingProxyType(kernels)


def _caches(table: _Table) -> Mapping[str, Figure]:
    caches: dict[str, Figure] = {}
    for name, entry in _by_type(table):
        if (figure := entry.figure("decode_gigabytes_per_second")).value is not None:
            caches[name] = figure
        entry.finish()
    return MappingProxyType(caches)


def _by_type(table: _Table) -> Iterator[tuple[str, _Table]]:
    """The tables below `table`, each named after a tensor type."""
    for name in table.left():
        if name not in _TENSOR_TYPE_NAMES:
            raise table.wrong(name, "is not the name of a tensor type")
        yield name, table.table(name)


def _overhead(table: _Table) -> Overhead:
    overhead = Overhead(
        token_seconds=table.figure("token_seconds"), layer_seconds=table.figure("layer_seconds")
    )
    table.finish()
    return overhead


def _defaults(table: _Table) -> Defaults:
    kv_type = table.optional_text("kv_type") or "F16"
    if kv_type not in _TENSOR_TYPE_NAMES:
        raise table.wrong("kv_type", f"is {kv_type!r}, not the name of a tensor type")
    defaults = Defaults(
        threads=table.optional_count("threads"),
        context_length=table.optional_count("context_length") or 2048,
        kv_type=kv_type,
    )
    table.finish()
    return defaults


def _match(table: _Table) -> Match:
    match = Match(device_tree=table.texts("device_tree"), cpu=table.texts("cpu"))
    table.finish()
    return match


def _invalid(path: Path, key: str, what: str) -> InvalidTarget:
    return InvalidTarget(f"{path}: {key}: {what}", hint="docs/targets.md lists the keys.")


class _Table:
    """One TOML table; each key is taken once, and `finish` complains about those left over."""

    def __init__(self, path: Path, name: str, content: Mapping[str, Any]) -> None:
        self._path = path
        self._name = name
        self._left = dict(content)

    def wrong(self, key: str, what: str) -> InvalidTarget:
        """The error about `key` of this table."""
        return _invalid(self._path, f"{self._name}.{key}" if self._name else key, what)

    def left(self) -> list[str]:
        """The keys not taken yet."""
        return list(self._left)

    def finish(self) -> None:
        """Every key was known, or InvalidTarget."""
        for key in self._left:
            raise self.wrong(key, "no such key")

    def text(self, key: str) -> str:
        value = self.optional_text(key)
        if value is None:
            raise self.wrong(key, "is missing")
        return value

    def optional_text(self, key: str) -> str | None:
        value = self._left.pop(key, None)
        if value is not None and (not isinstance(value, str) or not value):
            raise self.wrong(key, "must be a string")
        return value

    def optional_count(self, key: str) -> int | None:
        value = self._left.pop(key, None)
        if value is not None and (type(value) is not int or not 1 <= value < 2**31):
            raise self.wrong(key, "must be a positive whole number")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._left.pop(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, "must be a list of strings")
        return tuple(value)

    def table(self, key: str) -> _Table:
        value = self._left.pop(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "must be a table")
        return _Table(self._path, f"{self._name}.{key}" if self._name else key, value)

    def tables(self, key: str) -> list[_Table]:
        value = self._left.pop(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.wrong(key, "must be a list of tables")
        return [_Table(self._path, f"{key}[{index}]", item) for index, item in enumerate(value)]

    def figure(self, key: str) -> Figure:
        """The figure called `key`; `UNKNOWN` where the file has none."""
        if key not in self._left:
            return UNKNOWN
        entry = self.table(key)
        value = entry._left.pop("value", None)
        if type(value) not in (int, float) or not 0 < value <= _LARGEST:
            raise entry.wrong("value", "must be a positive number; leave unknown figures out")
        name = entry.text("provenance")
        try:
            provenance = Provenance(name)
        except ValueError as error:
            known = ", ".join(kind.value for kind in Provenance)
            raise entry.wrong("provenance", f"is {name!r}, not one of {known}") from error
        figure = Figure(value, provenance, entry.text("source"))
        entry.finish()
        return figure
