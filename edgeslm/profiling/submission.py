"""Measured speeds as rows that may be given away: nothing in them names a person or a machine.

A row has the board's id, what the model asks of a machine (bytes and multiplications by type), the
speeds, and the versions that ran. The name of a model is that of a published one of the same sizes,
or its family and size; machines are told apart by a number that is drawn for each submission.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from edgeslm.errors import UserError, writing
from edgeslm.estimate.physics import cores_for
from edgeslm.estimate.rows import Row, model_configs, submission
from edgeslm.estimate.shapes import header_from_config
from edgeslm.estimate.work import Work, work_of
from edgeslm.files import atomic_path
from edgeslm.gguf.inspection import inspect
from edgeslm.gguf.reader import Header
from edgeslm.gguf.validation import read_model
from edgeslm.profiling.measurement import DepthRun, Host, Measurement
from edgeslm.profiling.results import documents
from edgeslm.records import MEASUREMENT_SCHEMA, from_json
from edgeslm.targets.detection import detect
from edgeslm.targets.loading import load_target
from edgeslm.targets.target import Target

_SOURCE = "edgeslm bench"
_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,40}")
_CACHE = "F16"
"""Rows are about this type of cache; others would be fitted as if they were of it."""


@dataclass(frozen=True)
class Submission:
    """What can be given.

    Attributes:
        rows: Speeds.
        left_out: Why other measurements are not in them.
    """

    rows: tuple[Row, ...]
    left_out: tuple[str, ...]


def collect(journal: Path, files: Mapping[str, Path]) -> Submission:
    """Rows from the measurements in `journal`.

    Args:
        journal: Which `edgeslm bench` wrote.
        files: The model file of each cell, by its key; cells without one are left out.

    Raises:
        UserError: nothing in it can be given; the message says why.
    """
    rows: list[Row] = []
    left_out: list[str] = []
    machines: dict[tuple[str | None, str, int], str] = {}
    for document in documents(journal)[0]:
        if document["schema"] != MEASUREMENT_SCHEMA or "cell" not in document:
            continue
        cell, measurement = document["cell"], from_json(Measurement, document)
        path = files.get(cell["key"])
        why = _unfit(measurement, path)
        if why is not None or path is None:
            left_out += [] if why is None else [f"{cell['model']} {cell['type']}: {why}"]
            continue
        host = measurement.host
        identity = (host.cpu, str(cell["host"]), host.memory_bytes)
        machine = machines.setdefault(identity, secrets.token_hex(4))
        rows += _rows(measurement, read_model(path), machine)
    if not rows:
        raise _nothing(journal, left_out)
    return Submission(tuple(rows), tuple(dict.fromkeys(left_out)))


def ensure_known_board() -> None:
    """Return if this machine is exactly one of our boards, so that its speeds can be given.

    Raises:
        UserError: it is not.
    """
    if not detect().exact:
        raise _no_board()


def write_submission(path: Path, rows: Sequence[Row]) -> None:
    """Write what `targets/community` takes.

    Raises:
        OutputFailure: it cannot be written.
    """
    with atomic_path(path) as temporary, writing(path):
        temporary.write_text(json.dumps(submission(tuple(rows)), indent=1) + "\n", "ascii")


def public_name(header: Header) -> str:
    """Of a published model with the same sizes; else the family and its size."""
    known = _published().get(_sizes(work_of(header)))
    if known is not None:
        return known
    millions = sum(tensor.elements for tensor in header.tensors) / 1e6
    family = re.sub(r"[^0-9a-z_.-]", "", (header.architecture or "").lower())[:32]
    return f"{family or 'unknown'}-{millions:.0f}m"


def _unfit(measurement: Measurement, path: Path | None) -> str | None:
    """Why a measurement cannot be given; None if it can, or is none of the matrix."""
    host = measurement.host
    if path is None:
        return None
    if host.target is None or not host.target_exact:
        return f"no board of ours, at most something like {host.target or 'none'}"
    if measurement.tainted:
        return f"tainted: {measurement.taints[0]}"
    if measurement.settings.kv_type != _CACHE:
        return f"its cache is not in {_CACHE}"
    if measurement.memory.limit is not None:
        return "measured with little memory"
    return None


def _no_board() -> UserError:
    return UserError(
        "this machine is no board of ours, so its speeds would be fitted to another one",
        hint="edgeslm targets detect says what it was taken for, and why; CONTRIBUTING.md how "
        "to add a board.",
    )


def _nothing(journal: Path, left_out: Sequence[str]) -> UserError:
    if any("no board of ours" in why for why in left_out):
        return _no_board()
    why = f": {left_out[0]}" if left_out else ""
    return UserError(
        f"{journal}: nothing to submit{why}",
        hint="Measure untainted cells with KV type F16, and try again.",
    )


def _rows(measurement: Measurement, header: Header, machine: str) -> Iterator[Row]:
    """One for each depth; two where prefill had other threads than decode."""
    settings, host = measurement.settings, measurement.host
    target = load_target(str(host.target))
    for run in measurement.depths:
        if settings.threads == settings.prefill_threads:
            yield _row(host, header, machine, target, settings.threads, run)
            continue
        yield _row(host, header, machine, target, settings.threads, run, prefill=False)
        yield _row(host, header, machine, target, settings.prefill_threads, run, decode=False)


def _row(
    host: Host,
    header: Header,
    machine: str,
    target: Target,
    threads: int,
    run: DepthRun,
    *,
    prefill: bool = True,
    decode: bool = True,
) -> Row:
    inspection, work = inspect(header), work_of(header)
    bits = inspection.bits_per_weight or 0.0
    versions = f"edgeslm {_version(host.edgeslm)}, llama.cpp {_version(host.llama_cpp_commit)}"
    return Row(
        target=target.id,
        machine=f"{machine}, {versions}",
        threads=threads,
        cores=cores_for(target, threads),
        model=public_name(header),
        label=f"{inspection.true_type}, {bits:.2f} bits",
        work=work,
        prefill=run.prefill.tokens_per_second.median if prefill else None,
        decode=run.decode.tokens_per_second.median if decode else None,
        prefill_depth=run.depth + run.prefill.tokens / 2,
        depth=run.depth + run.decode.tokens / 2,
        blas=any(feature.upper().startswith("BLAS") for feature in host.features),
        doubt=0.0,
        source=_SOURCE,
    )


def _version(text: str | None) -> str:
    return text if text is not None and _VERSION.fullmatch(text) else "unknown"


@lru_cache(maxsize=1)
def _published() -> Mapping[tuple[int, ...], str]:
    return {
        _sizes(work_of(header_from_config(Path(name), config))): name
        for name, config in model_configs().items()
    }


def _sizes(work: Work) -> tuple[int, ...]:
    """What a model multiplies and keeps, whatever types it is in."""
    kept, attended = sum(work.cached.values()), sum(work.attended.values())
    return work.layers, sum(work.prompt.values()), kept, attended
