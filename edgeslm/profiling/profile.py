"""Profile a model on this machine: memory, prefill, decode, energy."""

from __future__ import annotations

import platform
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from edgeslm.errors import InvalidOption
from edgeslm.files import sha256
from edgeslm.gguf.inspection import inspect
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.native import build_info
from edgeslm.profiling import memory, speed
from edgeslm.profiling.measurement import (
    Energy,
    Host,
    Measurement,
    MemoryUse,
    ProfiledModel,
    Settings,
)
from edgeslm.profiling.meters import Meter, find_meter
from edgeslm.progress import bar
from edgeslm.records import UNKNOWN, Figure
from edgeslm.runtime.cores import pinned
from edgeslm.runtime.tuned import Settled, settle
from edgeslm.targets.detection import Detection, detect
from edgeslm.targets.loading import load_target


@dataclass(frozen=True)
class ProfileOptions:
    """What to run; see `Settings` for the meaning of each.

    `context_length` None takes just what the runs need; `threads` and `ubatch` None, what was
    tuned for the model here, or the defaults.
    """

    threads: int | None = None
    context_length: int | None = None
    kv_type: str = "F16"
    batch: int = 512
    ubatch: int | None = None
    prompt_tokens: int = 512
    generated_tokens: int = 128
    depth: int = 0
    repeats: int = 5

    def __post_init__(self) -> None:
        for name, least in (
            ("prompt_tokens", 1),
            ("generated_tokens", 1),
            ("depth", 0),
            ("repeats", 1),
        ):
            if getattr(self, name) < least:
                raise InvalidOption(
                    f"{name.replace('_', ' ')} must be at least {least}, not {getattr(self, name)}",
                    hint="Leave it out to get the default.",
                )
        if self.context_length is not None and self.context_length < self.needed_context:
            raise InvalidOption(
                f"a context of {self.context_length} tokens is too short for these runs",
                hint=f"They need {self.needed_context}: shorten the runs or lengthen the context.",
            )

    @property
    def needed_context(self) -> int:
        """Tokens the longest run puts into the KV cache."""
        return max(self.prompt_tokens, self.depth + self.generated_tokens)


def profile(path: Path, options: ProfileOptions) -> Measurement:
    """Run `path` on this machine and measure what it takes.

    The machine should be otherwise idle: other programs slow it down, and their power counts
    as the model's.

    Raises:
        EdgeslmError: the model cannot be loaded, or a run failed.
    """
    detection = detect()
    target = load_target(detection.target) if detection.target else None
    meter, notes = find_meter(target)
    memory.reset_peak()
    before_load = memory.rss_bytes()
    with ExitStack() as stack:
        model = stack.enter_context(Model(path))
        settled = _settled(model, options)
        stack.enter_context(pinned(settled.cores))
        context = stack.enter_context(Context(model, settled.options))
        settings = _settings(options, context)
        with bar("Measuring", total=2 * (options.repeats + 1), unit="runs") as advance:
            prefill = speed.measure_prefill(context, settings, meter, advance)
            decode = speed.measure_decode(context, settings, meter, advance)
        return Measurement(
            model=_describe(model),
            settings=settings,
            host=_host(detection),
            memory=_memory_use(model, context, before_load),
            prefill=prefill.speed,
            decode=decode.speed,
            energy=Energy(
                prefill_joules_per_token=_per_token(meter, prefill),
                decode_joules_per_token=_per_token(meter, decode),
                meter=meter.name if meter else None,
                scope=meter.scope.value if meter else None,
                notes=notes,
            ),
        )


def _settled(model: Model, options: ProfileOptions) -> Settled:
    wanted = ContextOptions(
        length=options.context_length or options.needed_context, batch=options.batch
    )
    settled = settle(model.header, wanted, threads=options.threads, kv_type=options.kv_type)
    if options.ubatch is None:
        return settled
    return replace(settled, options=replace(settled.options, ubatch=options.ubatch))


def _settings(options: ProfileOptions, context: Context) -> Settings:
    return Settings(
        context_length=context.length,
        kv_type=context.options.kv_type,
        threads=context.threads[0],
        prefill_threads=context.threads[1],
        batch=options.batch,
        ubatch=context.options.ubatch,
        prompt_tokens=options.prompt_tokens,
        generated_tokens=options.generated_tokens,
        depth=options.depth,
        repeats=options.repeats,
    )


def _describe(model: Model) -> ProfiledModel:
    inspection = inspect(model.header)
    return ProfiledModel(
        path=model.path,
        sha256=sha256(model.path),
        architecture=inspection.architecture,
        name=inspection.name,
        file_bytes=inspection.file_bytes,
        parameters=inspection.parameters,
        bits_per_weight=inspection.bits_per_weight,
    )


def _host(detection: Detection) -> Host:
    build = build_info()
    return Host(
        target=detection.target,
        target_reasons=detection.reasons,
        cpu=detection.host.cpu,
        cores=psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        llama_cpp_python=build.binding,
        features=build.features,
    )


def _memory_use(model: Model, context: Context, before_load: int) -> MemoryUse:
    return MemoryUse(
        peak_rss_bytes=memory.peak_rss_bytes(),
        before_load_rss_bytes=before_load,
        weights_resident_bytes=memory.resident_file_bytes(model.path),
        weights_copied_bytes=model.buffer_bytes.get("weights", 0),
        kv_bytes=context.buffer_bytes.get("kv", 0),
        compute_bytes=context.buffer_bytes.get("compute", 0),
    )


def _per_token(meter: Meter | None, timed: speed.Timed) -> Figure:
    """From the median run, so that one disturbed run does not count, as with speed."""
    if meter is None or timed.joules is None:
        return UNKNOWN
    if timed.joules.median <= 0:
        return Figure(None, None, f"{meter.source}: it did not move during a run")
    joules = timed.joules.median / timed.speed.tokens
    return Figure(joules, meter.provenance, meter.source)
