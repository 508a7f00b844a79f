"""Measure what llama.cpp reaches on this machine with each tensor type.

Models without meaning are written and run, all their matrices of one type. Decode is timed on
more weights than the last cache holds, since a real model's weights come from memory each time:

    seconds per token = token overhead + layers x layer overhead + bytes / rate

The token's overhead comes from two models so small that their weights weigh nothing, which
differ in their number of layers; the layer's from two that read as many bytes in few wide
layers and in many narrow ones; the rates are then what is left. A layer of a small model has
some twenty operations after which all threads wait for each other: with 576 columns they take
as long as reading 1.5 MB does, so bytes alone would promise too much.

Prefill is timed on a prompt that the same models read: 2 FLOP per weight and token. The KV
cache's rate is what a token takes longer behind a long prompt than in an empty cache.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgeslm.errors import InvalidOption
from edgeslm.gguf.types import TensorType, tensor_type
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model, ModelOptions
from edgeslm.profiling.synthetic import Shape, write_synthetic
from edgeslm.progress import bar
from edgeslm.records import Statistic

TYPES = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4", "NVFP4", "Q2_0", "Q1_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ3_S", "IQ3_XXS"),
    *("IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "F16", "BF16", "F32"),
)
"""What a quantizer may choose."""
CACHE_TYPES = ("F16", "Q8_0")

_CACHE_MULTIPLE = 5
"""Weights, in sizes of the last cache: what stays in it from token to token is then little."""
_LEAST_BYTES, _MOST_BYTES = 48_000_000, 512_000_000
_MOST_WEIGHTS = 300_000_000
"""Types of few bits are bound by arithmetic, and need no more than this to show it."""
_UNKNOWN_CACHE_BYTES = 16_000_000
_MEMORY_SHARE = 5
"""At most this part of the free memory: llama.cpp may keep a second copy of the weights."""
_WIDE = Shape(1, 1024, 2816, 16, 4, 64)
_NARROW = Shape(1, 576, 1536, 9, 3, 64)
_TINY = Shape(8, 32, 64, 2, 1, 16)
_DEEP = Shape(16, 256, 512, 9, 3, 64)
_DEPTH = 2048
_PROMPT = 128
_SHORT_PROMPT = 32
_SLOW_SECONDS = 2.0
_TOKEN = 3
_MOST_STEPS = 128
_RESTLESS = 0.3
_LEAST_NET = 0.25
"""Reading takes at least this part of the time, whatever a restless machine pretends."""
_SYSFS_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class CalibrateOptions:
    """What to measure.

    Attributes:
        threads: Threads for decode and prefill.
        types: Names of tensor types.
        repeats: Runs of each kind, after one that is not counted.
        run_seconds: Shortest duration of a decode run.
        weight_bytes: Bytes of the models; None for what this machine's cache asks for.
        depth: Tokens in the KV cache when its reading is timed; 0 to leave that out.
    """

    threads: int
    types: tuple[str, ...] = TYPES
    repeats: int = 5
    run_seconds: float = 0.25
    weight_bytes: int | None = None
    depth: int = _DEPTH

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise InvalidOption(f"{self.threads} threads", hint="Give 1 or more, or none.")
        known = [name for name in self.types if name in TYPES]
        if known != list(self.types) or not known or len(set(known)) < len(known):
            wrong = next((name for name in self.types if name not in TYPES), "no or equal types")
            raise InvalidOption(
                f"cannot calibrate {wrong}", hint=f"Any of {', '.join(TYPES)}, each once."
            )


@dataclass(frozen=True)
class TypeSpeed:
    """One tensor type; the statistics are of seconds per token."""

    type: str
    decode_gigabytes_per_second: float
    prefill_gigaflops: float
    decode_seconds: Statistic
    prefill_seconds: Statistic
    prompt_tokens: int
    weight_bytes: int


@dataclass(frozen=True)
class CacheSpeed:
    """Reading a KV cache of one type at `depth` tokens."""

    type: str
    decode_gigabytes_per_second: float
    spread: float
    depth: int


@dataclass(frozen=True)
class Calibration:
    """What was measured on this machine."""

    threads: int
    token_seconds: float
    layer_seconds: float
    overhead_spread: float
    types: tuple[TypeSpeed, ...]
    caches: tuple[CacheSpeed, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Which figures should not be trusted, because runs of the same thing differed."""
        restless = [item.type for item in self.types if item.decode_seconds.spread > _RESTLESS]
        if self.overhead_spread > _RESTLESS:
            restless.insert(0, "overhead")
        if not restless:
            return ()
        return (
            f"runs of the same model differed by more than {_RESTLESS:.0%} for "
            f"{', '.join(restless)}: was the machine idle? Calibrate again",
        )


def calibrate(options: CalibrateOptions) -> Calibration:
    """Time every type of `options` on this machine, which should be otherwise idle.

    Raises:
        OutputFailure: the temporary folder has no room for the models.
        NativeFailure: llama.cpp failed.
    """
    aim = options.weight_bytes or _weight_bytes()
    total = len(options.types) + 2 + len(CACHE_TYPES) * (options.depth > 0)
    with (
        tempfile.TemporaryDirectory(prefix="edgeslm-") as folder,
        bar("Calibrating", total, unit="models") as advance,
    ):
        bench = _Bench(Path(folder) / "model.gguf", options)
        token, spread = bench.token_seconds()
        advance(1)
        layer, more = bench.layer_seconds(aim, token)
        advance(1)
        types = []
        for name in options.types:
            types.append(bench.type_speed(tensor_type(name), aim, token, layer))
            advance(1)
        caches = []
        for name in CACHE_TYPES if options.depth else ():
            if (speed := bench.cache_speed(name)) is not None:
                caches.append(speed)
            advance(1)
    return Calibration(
        options.threads, token, layer, max(spread, more), tuple(types), tuple(caches)
    )


class _Bench:
    """Writes models to one place, one after the other, and times them."""

    def __init__(self, path: Path, options: CalibrateOptions) -> None:
        self._path = path
        self._options = options

    def token_seconds(self) -> tuple[float, float]:
        """What a token takes beside its layers, and the spread of the times it comes from."""
        few, many = _TINY, _layers(_TINY, 4 * _TINY.layers)
        plain = tensor_type("F32")
        short, long = (self._decode(shape, plain) for shape in (few, many))
        layer = (long.minimum - short.minimum) / (many.layers - few.layers)
        token = min(max(short.minimum - few.layers * layer, 0.0), short.minimum)
        return token, max(short.spread, long.spread)

    def layer_seconds(self, aim: int, token: float) -> tuple[float, float]:
        """What a layer takes beside reading its weights, and the spread behind it.

        Two models solve t = token + layers x layer + bytes / rate for the two unknowns. The
        fastest runs count: what disturbs one of them must not be taken for overhead.
        """
        kind = tensor_type("Q8_0")
        wide, narrow = (_sized(shape, kind, aim) for shape in (_WIDE, _NARROW))
        few, many = (self._decode(shape, kind) for shape in (wide, narrow))
        wide_bytes, narrow_bytes = (_read_bytes(shape, kind) for shape in (wide, narrow))
        excess = (many.minimum - token) * wide_bytes - (few.minimum - token) * narrow_bytes
        layer = excess / (narrow.layers * wide_bytes - wide.layers * narrow_bytes)
        return max(layer, 0.0), max(few.spread, many.spread)

    def type_speed(self, kind: TensorType, aim: int, token: float, layer: float) -> TypeSpeed:
        """Decode and prefill with matrices of one type."""
        shape = _sized(_WIDE, kind, aim)
        with self._open(shape, kind) as context:
            decode = self._time_steps(context)
            tokens = self._prompt_tokens(context)
            prefill = self._time(lambda: _prefill(context, tokens))
        count = _read_bytes(shape, kind)
        overhead = token + shape.layers * layer
        seconds = max(decode.median - overhead, decode.median * _LEAST_NET)
        flop = 2 * shape.layer_weights * shape.layers
        return TypeSpeed(
            type=kind.name,
            decode_gigabytes_per_second=count / seconds / 1e9,
            prefill_gigaflops=flop / prefill.median / 1e9,
            decode_seconds=decode,
            prefill_seconds=prefill,
            prompt_tokens=tokens,
            weight_bytes=count,
        )

    def cache_speed(self, kv_type: str) -> CacheSpeed | None:
        """What a token takes longer behind `depth` tokens than at the start; None if nothing."""
        depth = self._options.depth
        with self._open(_DEEP, tensor_type("Q8_0"), kv_type, depth + 256) as context:
            near = self._time_steps(context)
            context.forget()
            context.prefill([_TOKEN] * depth)
            far = self._time_steps(context, depth)
        per_token = 2 * _DEEP.kv_heads * _DEEP.head_width * _DEEP.layers
        count = tensor_type(kv_type).bytes_for((per_token,)) * depth
        seconds = far.median - near.median
        if seconds <= 0:
            return None
        spread = (far.maximum - far.minimum) / seconds
        return CacheSpeed(kv_type, count / seconds / 1e9, spread, depth)

    def _decode(self, shape: Shape, kind: TensorType) -> Statistic:
        with self._open(shape, kind) as context:
            return self._time_steps(context)

    @contextmanager
    def _open(
        self, shape: Shape, kind: TensorType, kv_type: str = "F16", length: int = 512
    ) -> Iterator[Context]:
        write_synthetic(self._path, shape, kind)
        threads = self._options.threads
        options = ContextOptions(length=length, threads=threads, kv_type=kv_type)
        with (
            Model(self._path, ModelOptions(trusted=True)) as model,
            Context(model, options) as context,
        ):
            yield context
        self._path.unlink()

    def _time_steps(self, context: Context, depth: int = 0) -> Statistic:
        """Seconds per generated token, behind `depth` tokens."""
        tokens = 2

        def run() -> int:
            context.forget(depth)
            for index in range(tokens):
                context.step(_TOKEN, depth + index)
                context.synchronize()
            return tokens

        self._time(run, repeats=0)
        once = self._time(run, repeats=1).median
        tokens = min(max(round(self._options.run_seconds / once), 2), _MOST_STEPS)
        return self._time(run)

    def _prompt_tokens(self, context: Context) -> int:
        """How long a prompt is worth waiting for."""
        seconds = self._time(lambda: _prefill(context, _SHORT_PROMPT), repeats=1).median
        slow = seconds * _SHORT_PROMPT > _SLOW_SECONDS
        return _SHORT_PROMPT if slow else _PROMPT

    def _time(self, run: Callable[[], int], repeats: int | None = None) -> Statistic:
        """Seconds per unit of `run`, which returns how many it did; the first does not count."""
        seconds = []
        for _ in range((self._options.repeats if repeats is None else repeats) + 1):
            started = time.perf_counter()
            units = run()
            seconds.append((time.perf_counter() - started) / units)
        return Statistic.of(seconds[1:] or seconds)


def _prefill(context: Context, tokens: int) -> int:
    context.forget()
    context.prefill([_TOKEN] * tokens)
    context.synchronize()
    return tokens


def _layers(shape: Shape, layers: int) -> Shape:
    return Shape(
        layers, shape.width, shape.feed_forward, shape.heads, shape.kv_heads, shape.head_width
    )


def _sized(shape: Shape, kind: TensorType, aim: int) -> Shape:
    """`shape` with as many layers as come nearest to `aim` bytes, within bounds."""
    weights = min(aim * 8 / kind.bits_per_weight, _MOST_WEIGHTS)
    return _layers(shape, max(round(weights / shape.layer_weights), 1))


def _read_bytes(shape: Shape, kind: TensorType) -> int:
    return round(shape.read_weights * kind.bits_per_weight / 8)


def _weight_bytes() -> int:
    """Enough to leave the last cache behind, little enough for the memory."""
    aim = min(max(_CACHE_MULTIPLE * _last_cache_bytes(), _LEAST_BYTES), _MOST_BYTES)
    return int(min(aim, psutil.virtual_memory().available / _MEMORY_SHARE))


def _last_cache_bytes(folder: Path = _SYSFS_CACHES) -> int:
    """The largest cache a core can reach, as the kernel states it."""
    sizes = [_UNKNOWN_CACHE_BYTES] if not list(folder.glob("index*/size")) else []
    for path in folder.glob("index*/size"):
        text = path.read_text().strip()
        factor = {"K": 2**10, "M": 2**20}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KM") or 0) * factor)
    return max(sizes)
