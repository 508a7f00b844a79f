"""A `Target` back to the TOML that `loading` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeslm.errors import writing
from edgeslm.files import atomic_path, scratch_folder
from edgeslm.records import Figure
from edgeslm.targets.loading import SCHEMA, load_target
from edgeslm.targets.target import CoreCluster, Target


def write_target(target: Target, path: Path, *, comment: str = "") -> None:
    """Write `target` to `path`, and read it back before the file appears.

    Args:
        target: What is written; its variants, if the board has any, are not.
        path: Where; its folder must exist.
        comment: Lines for people at the top.

    Raises:
        OutputFailure: the file cannot be written.
    """
    text = target_toml(target, comment=comment)
    with scratch_folder(path) as folder, atomic_path(path) as temporary:
        draft = folder / "target.toml"  # not among the targets, even if this is killed
        with writing(path):
            draft.write_text(text, encoding="utf-8")
            load_target(str(draft))
            temporary.write_text(text, encoding="utf-8")


def target_toml(target: Target, *, comment: str = "") -> str:
    """The text of the file; a figure that is unknown is left out."""
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines += [
        *_entries(
            {
                "schema": SCHEMA,
                "id": target.id,
                "name": target.name,
                "vendor": target.vendor,
                "soc": target.soc,
                "architecture": target.architecture,
                "backend": target.backend,
                "storage": target.storage,
                "meters": target.meters,
            }
        )
    ]
    for cluster in target.cores:
        lines += ["", "[[cores]]", *_entries(_cluster(cluster))]
    for name, table in _tables(target):
        body = list(_entries(table))
        lines += ["", f"[{name}]", *body] if body else []
    return "\n".join(lines) + "\n"


def _tables(target: Target) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "memory", vars(target.memory)
    yield "power", vars(target.power)
    yield "compute", {"prefill_gigaflops": target.prefill_gigaflops}
    yield "overhead", vars(target.overhead)
    for name, kernel in target.kernels.items():
        yield f"kernels.{name}", vars(kernel)
    for name, figure in target.caches.items():
        yield f"caches.{name}", {"decode_gigabytes_per_second": figure}
    yield "defaults", vars(target.defaults)
    yield "match", vars(target.match)


def _cluster(cluster: CoreCluster) -> Mapping[str, Any]:
    return vars(cluster)


def _entries(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, Figure):
            if value.value is not None:
                yield f"{key} = {_figure(value)}"
        elif value is not None and value != ():
            yield f"{key} = {_value(value)}"


def _figure(figure: Figure) -> str:
    provenance = figure.provenance.value if figure.provenance else ""
    return (
        f"{{ value = {figure.value!r}, provenance = {_text(provenance)}, "
        f"source = {_text(figure.source or '')} }}"
    )


def _value(value: str | int | Iterable[str]) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return str(value)
    return f"[{', '.join(map(_text, value))}]"


def _text(text: str) -> str:
    """A basic string; JSON's escapes are TOML's, but for the delete character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
