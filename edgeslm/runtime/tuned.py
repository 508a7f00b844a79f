"""What `edgeslm tune` found best for a model on this machine, kept in the cache folder.

A choice is good for one place: a model, a machine, a build of llama.cpp. Of the model only what
decides its speed counts, its sizes and types; a copy of the file, or the same model trained
further, is the same here. Each place has a file of its own, which is complete or not there.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from edgeslm.errors import Failure, OutputFailure, writing
from edgeslm.files import atomic_path, cache_folder
from edgeslm.gguf.arrays import Array
from edgeslm.gguf.reader import Header
from edgeslm.gguf.types import KV_TYPES, kv_tensor_type
from edgeslm.llama.context import ContextOptions
from edgeslm.llama.native import build_info
from edgeslm.records import TUNED_SCHEMA, Statistic, document
from edgeslm.runtime.cores import allowed_cores, clusters, quota_cores
from edgeslm.runtime.governor import default_threads
from edgeslm.targets.detection import describe_host

AUTO = "AUTO"
"""In place of a type of the KV cache: the one that `tune` chose, or F16."""
DEFAULT_KV_TYPE = "F16"
_MEMORY_STEP = 1 << 28
_MOST_COUNT = 1 << 31
_MOST_THREADS = 512


@dataclass(frozen=True)
class Place:
    """Where a choice is good; each part is a digest but the build, which is readable."""

    model: str
    machine: str
    build: str

    @property
    def name(self) -> str:
        """Of the file."""
        text = json.dumps([self.model, self.machine, self.build])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Choice:
    """Settings of a context.

    Attributes:
        threads: For decode.
        prefill_threads: For prefill.
        ubatch: Tokens of a prompt computed at once.
        kv_type: Type of cached keys and values.
        cores: The only cores to run on; None for wherever the system puts threads.
    """

    threads: int
    prefill_threads: int
    ubatch: int
    kv_type: str
    cores: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Speeds:
    """Tokens per second, measured in turn with what they are compared with.

    Attributes:
        prefill: Of a prompt.
        decode: Of an answer.
        kv_type: The type of cache they were measured with, whichever was chosen.
    """

    prefill: Statistic
    decode: Statistic
    kv_type: str


@dataclass(frozen=True)
class Tuned:
    """What was found.

    Attributes:
        place: Where it is good.
        model_name: The file's name at that time, for people.
        tuned_at: When, in ISO 8601.
        context_length: Tokens of the contexts that were measured.
        choice: The best settings.
        defaults: The settings without tuning.
        chosen_speeds: Of the choice as a whole, with the defaults' type of cache.
        default_speeds: Of the defaults, in the same minutes.
    """

    place: Place
    model_name: str
    tuned_at: str
    context_length: int
    choice: Choice
    defaults: Choice
    chosen_speeds: Speeds
    default_speeds: Speeds


@dataclass(frozen=True)
class Settled:
    """Options to run with, and whether some of them were tuned.

    Attributes:
        options: Of the context.
        tuned: Whether something was known here.
        cores: The only cores that what computes should be kept on; None for any.
    """

    options: ContextOptions
    tuned: bool
    cores: tuple[int, ...] | None = None

    def described(self) -> dict[str, Any]:
        """What it is run with, for JSON."""
        return {
            "threads": self.options.threads,
            "prefill_threads": self.options.prefill_threads,
            "ubatch": self.options.ubatch,
            "kv_type": self.options.kv_type,
            "cores": None if self.cores is None else list(self.cores),
            "tuned": self.tuned,
        }


def default_choice() -> Choice:
    """What is used without tuning."""
    threads, usual = default_threads(), ContextOptions()
    return Choice(threads, threads, usual.ubatch, DEFAULT_KV_TYPE)


def require_kv_type(kv_type: str) -> None:
    """Return if `kv_type` is `AUTO` or a type that a KV cache can have.

    Raises:
        InvalidOption: it is neither.
    """
    if kv_type != AUTO:
        kv_tensor_type(kv_type)


def settle(
    header: Header, options: ContextOptions, *, threads: int | None, kv_type: str
) -> Settled:
    """`options` with what the user gave, and what was tuned for the rest.

    Nothing is changed by it: who computes keeps itself on the cores that are named.

    Args:
        header: The model's.
        options: Their threads, micro-batch and type of cache are not looked at.
        threads: What the user gave; None for the best.
        kv_type: What the user gave; `AUTO` for the best.
    """
    found = find(place_of(header))
    choice = found.choice if found is not None else default_choice()
    cores = None
    if threads is not None:
        choice = replace(choice, threads=threads, prefill_threads=threads)
    elif choice.cores is not None and set(choice.cores) <= set(allowed_cores()):
        cores = choice.cores
    settled = replace(
        options,
        threads=choice.threads,
        prefill_threads=choice.prefill_threads,
        ubatch=min(choice.ubatch, options.batch),
        kv_type=choice.kv_type if kv_type == AUTO else kv_type,
    )
    return Settled(settled, found is not None, cores)


def place_of(header: Header) -> Place:
    """The model of `header`, on this machine, with this build."""
    build = build_info()
    return Place(
        model_identity(header),
        machine_identity(),
        f"{build.binding} ({' '.join(build.features)})",
    )


def model_identity(header: Header) -> str:
    """A digest of what decides the speed of a model."""
    own = f"{header.architecture}."
    sizes = sorted(
        (key, list(value) if isinstance(value, (tuple, Array)) else value)
        for key, value in header.metadata.items()
        if key.startswith(own)
    )
    tensors = [(each.name, each.type.name, each.shape) for each in header.tensors]
    return _digest([header.architecture, sizes, tensors])


@cache
def machine_identity() -> str:
    """A digest of this machine's processor and memory, and of what of them we may use."""
    host = describe_host()
    memory = round((host.memory_bytes or 0) / _MEMORY_STEP)
    cores = [(each.cores, each.capacity, each.kilohertz) for each in clusters()]
    machine = [platform.machine(), host.board, host.cpu, host.cores, memory]
    return _digest([*machine, cores, quota_cores()])


def find(place: Place) -> Tuned | None:
    """What was found there; None for nothing, or a file that is damaged."""
    path = _path(place)
    found = _read(path) if path is not None else None
    return found if found is not None and found.place == place else None


def load(place: Place) -> Tuned | None:
    """The same, for who wants to know.

    Raises:
        Failure: the file is damaged, or cannot be read.
    """
    path, found = _path(place), find(place)
    if found is None and path is not None and path.exists():
        raise Failure(
            f"{path}: not what edgeslm tune writes", hint="Tune again, or remove it with --forget."
        )
    return found


def save(tuned: Tuned) -> Path:
    """Keep it; what was known for the same model and machine, of any build, goes.

    Raises:
        OutputFailure: it cannot be written.
    """
    path = _path(tuned.place)
    if path is None:
        raise OutputFailure(
            "there is no cache folder to keep this in", hint="Name one in EDGESLM_CACHE."
        )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, writing(path):
        text = json.dumps(document(TUNED_SCHEMA, tuned), indent=2, ensure_ascii=False)
        temporary.write_text(f"{text}\n", encoding="utf-8")
    for other in _others(tuned.place):
        other.unlink(missing_ok=True)
    return path


def forget(place: Place) -> bool:
    """Remove what is known of the model on this machine, of any build; whether there was any."""
    own = _path(place)
    paths = [path for path in (own, *_others(place)) if path is not None and path.exists()]
    for path in paths:
        with writing(path):
            path.unlink(missing_ok=True)
    return bool(paths)


def _path(place: Place) -> Path | None:
    folder = cache_folder("tuned")
    return folder / f"{place.name}.json" if folder else None


def _others(place: Place) -> list[Path]:
    """The files of the same model and machine with another build."""
    folder = cache_folder("tuned")
    return [
        path
        for path in (folder.glob("*.json") if folder else ())
        if (found := _read(path)) is not None
        and found.place != place
        and (found.place.model, found.place.machine) == (place.model, place.machine)
    ]


def _read(path: Path) -> Tuned | None:
    """A file as `save` writes it; None if it is none, or there is none."""
    try:
        return tuned_from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def tuned_from_json(value: Any) -> Tuned:
    """The record of a document that `save` wrote.

    Raises:
        ValueError, KeyError, TypeError: it is none, or of another version.
    """
    if value["schema"] != TUNED_SCHEMA:
        raise ValueError(value["schema"])
    return Tuned(
        place=Place(**{name: _text(text) for name, text in value["place"].items()}),
        model_name=_text(value["model_name"]),
        tuned_at=_text(value["tuned_at"]),
        context_length=_count(value["context_length"]),
        choice=_choice(value["choice"]),
        defaults=_choice(value["defaults"]),
        chosen_speeds=_speeds(value["chosen_speeds"]),
        default_speeds=_speeds(value["default_speeds"]),
    )


def _choice(value: Any) -> Choice:
    cores = value["cores"]
    if cores == []:
        raise ValueError("no cores")
    return Choice(
        threads=_count(value["threads"], most=_MOST_THREADS),
        prefill_threads=_count(value["prefill_threads"], most=_MOST_THREADS),
        ubatch=_count(value["ubatch"]),
        kv_type=_kv_type(value["kv_type"]),
        cores=None if cores is None else tuple(_count(core, least=0) for core in cores),
    )


def _speeds(value: Any) -> Speeds:
    return Speeds(
        _statistic(value["prefill"]), _statistic(value["decode"]), _kv_type(value["kv_type"])
    )


def _kv_type(value: Any) -> str:
    if value not in KV_TYPES:
        raise ValueError(value)
    return _text(value)


def _statistic(value: Any) -> Statistic:
    samples = [_number(sample) for sample in value["samples"]]
    return Statistic.of(samples)


def _count(value: Any, least: int = 1, most: int = _MOST_COUNT) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(value)
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
        raise ValueError(value)
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
