"""What the cells of a matrix are expected to take, before anything runs; estimates throughout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from edgeslm.errors import InvalidOption
from edgeslm.estimate.fit import Fit, FitOptions, fit
from edgeslm.estimate.mixes import as_file_type, at_bits
from edgeslm.gguf.reader import Header
from edgeslm.gguf.validation import read_model
from edgeslm.profiling.limited import both
from edgeslm.profiling.matrix import LOCAL, ORIGINAL, Cell, Matrix
from edgeslm.profiling.profile import ProfileOptions
from edgeslm.profiling.variants import Variants
from edgeslm.targets.detection import detect
from edgeslm.targets.loading import load_target
from edgeslm.targets.target import Target

_START_SECONDS = 3.0
"""Python, the libraries, the file's hash, opening the model."""
_WARM_RUNS = 1


@dataclass(frozen=True)
class Forecast:
    """Of one cell; None where nothing supports a figure.

    Attributes:
        seconds: How long it takes, without cooling down.
        memory_bytes: The peak of the process.
        fits: Whether that is free on the board.
        decode: Tokens per second at the first depth.
        target: The board it is estimated for.
    """

    seconds: float | None
    memory_bytes: int | None
    fits: bool | None
    decode: float | None
    target: str | None


@dataclass(frozen=True)
class _Speeds:
    """Tokens per second at a depth."""

    prefill: float
    decode: float


UNKNOWN_FORECAST = Forecast(None, None, None, None, None)


def forecasts(variants: Variants, cells: Sequence[Cell]) -> tuple[Forecast, ...]:
    """What each of `cells` is expected to take.

    Raises:
        NotFound: a host's target is none.
    """
    targets = _targets(variants.matrix, cells)
    headers = _Headers(variants)
    return tuple(_forecast(variants.matrix, cell, headers, targets[cell.host]) for cell in cells)


def _targets(matrix: Matrix, cells: Sequence[Cell]) -> Mapping[str, Target | None]:
    names = {cell.host: matrix.hosts[cell.host].target for cell in cells}
    if LOCAL in names and names[LOCAL] is None:
        names[LOCAL] = detect().target
    return {host: None if name is None else load_target(name) for host, name in names.items()}


class _Headers:
    """Headers of models in types that need not be made yet, each computed once."""

    def __init__(self, variants: Variants) -> None:
        self._variants = variants
        self.of = lru_cache(maxsize=None)(self._of)

    def _of(self, model: str, kind: str) -> Header | None:
        """None where no mix is known of that type."""
        header = read_model(self._variants.paths[model])
        try:
            if kind == ORIGINAL:
                return header
            return (
                at_bits(header, float(kind)) if kind[:1].isdigit() else as_file_type(header, kind)
            )
        except InvalidOption:
            return None


def _forecast(matrix: Matrix, cell: Cell, headers: _Headers, target: Target | None) -> Forecast:
    header = headers.of(cell.model, cell.type)
    if target is None or header is None:
        return UNKNOWN_FORECAST
    wanted = matrix.options(cell)
    memory = _fit(header, target, cell, cell.context or wanted.needed_context)
    speeds: dict[int, _Speeds] = {}
    for depth in wanted.depths:
        found = _fit(header, target, cell, 2 * depth + wanted.generated_tokens)
        decode, prefill = found.decode_tokens_per_second, found.prefill_tokens_per_second
        if decode is None or prefill is None:
            return Forecast(None, memory.peak_memory_bytes, memory.fits, None, target.id)
        speeds[depth] = _Speeds(prefill.value, decode.value)
    profiles = (wanted,) if matrix.runs.memory_limit is None else both(wanted)
    seconds = sum(_seconds(each, speeds) for each in profiles)
    first = speeds[wanted.depths[0]].decode
    return Forecast(seconds, memory.peak_memory_bytes, memory.fits, first, target.id)


def _seconds(options: ProfileOptions, speeds: Mapping[int, _Speeds]) -> float:
    """How long one profile takes, without runs added to those, or longer ones for a slow meter."""
    runs = 0.0
    for depth in options.depths:
        reading, writing = speeds[depth].prefill, speeds[depth].decode
        once = options.prompt_tokens / reading + options.generated_tokens / writing
        runs += (options.repeats + _WARM_RUNS) * once + depth / reading
    if options.budget_seconds is not None:
        runs = min(runs, options.budget_seconds)
    before = _START_SECONDS + options.idle_seconds + options.warm_up_seconds
    return before + runs + (options.sustained_seconds or 0.0)


def _fit(header: Header, target: Target, cell: Cell, context: int) -> Fit:
    """The cache starts at that length halved on average: its speed is that of a run's middle."""
    options = FitOptions(
        context_length=context, kv_type=cell.kv_type, threads=cell.threads, prompts=()
    )
    return fit(header, (target,), options)[0]
