"""Profile a model on this machine: memory, prefill, decode, energy.

In this order: the idle machine is watched, the model is opened, it computes until the processor's
first boost is over, and at each depth one run of each kind warms up and the counted runs of both
kinds take turns.
"""

from __future__ import annotations

import math
import platform
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import psutil

from edgeslm import __version__
from edgeslm.errors import InvalidOption
from edgeslm.files import sha256
from edgeslm.gguf.inspection import inspect
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.native import build_info
from edgeslm.profiling import memory
from edgeslm.profiling.budget import Runs, difference, shortened
from edgeslm.profiling.conditions import Observer, taints
from edgeslm.profiling.energy import energy, token_energy
from edgeslm.profiling.instrument import Instrument
from edgeslm.profiling.measurement import (
    DepthRun,
    Host,
    Measurement,
    MemoryUse,
    ProfiledModel,
    Settings,
)
from edgeslm.profiling.meters import find_meter
from edgeslm.profiling.power import Idle, idle_power, needed_seconds
from edgeslm.profiling.speed import Runner, probe
from edgeslm.profiling.steadiness import MOST_RUNS, RUNS, WARM_UP_SECONDS
from edgeslm.profiling.sustained import Sustained, run_sustained
from edgeslm.progress import bar, note
from edgeslm.runtime.cores import pinned
from edgeslm.runtime.machine import Sensors
from edgeslm.runtime.tuned import Settled, settle
from edgeslm.targets.detection import Detection, detect
from edgeslm.targets.loading import load_target

_LISTEN_SECONDS = 0.5
_LONGEST_IDLE_SECONDS = 600.0
_LONGEST_WARM_UP_SECONDS = 3600.0
_LONGEST_WAIT_SECONDS = 60.0
"""For a slow meter, unless a longer baseline was asked for."""
_SHORTEST_SUSTAINED = 3.0


@dataclass(frozen=True)
class ProfileOptions:
    """What to run; see `Settings` for the meaning of each.

    `context_length` None takes just what the runs need; `threads` and `ubatch` None, what was
    tuned for the model here, or the defaults. `sustained_seconds` None leaves out the long run.
    `most_repeats` allows more runs while a median is not known well; not within a budget, and not
    if it is None, or no more than `repeats`.
    `meter` is what `find_meter` takes for `wanted`.
    """

    threads: int | None = None
    context_length: int | None = None
    kv_type: str = "F16"
    batch: int = 512
    ubatch: int | None = None
    prompt_tokens: int = 512
    generated_tokens: int = 128
    depths: tuple[int, ...] = (0,)
    repeats: int = RUNS
    most_repeats: int | None = MOST_RUNS
    warm_up_seconds: float = WARM_UP_SECONDS
    idle_seconds: float = 5.0
    budget_seconds: float | None = None
    sustained_seconds: float | None = None
    meter: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("prompt_tokens", 1), ("generated_tokens", 1), ("repeats", 1)):
            if getattr(self, name) < least:
                raise InvalidOption(
                    f"{name.replace('_', ' ')} must be at least {least}, not {getattr(self, name)}",
                    hint="Leave it out to get the default.",
                )
        self._check_depths()
        self._check_seconds()
        if self.context_length is not None and self.context_length < self.needed_context:
            raise InvalidOption(
                f"a context of {self.context_length} tokens is too short for these runs",
                hint=f"They need {self.needed_context}: shorten the runs or lengthen the context.",
            )

    def _check_depths(self) -> None:
        if not self.depths or min(self.depths) < 0 or len({*self.depths}) < len(self.depths):
            text = ",".join(map(str, self.depths))
            raise InvalidOption(
                f"depths must be 0 or more, each once, not {text or 'none'}",
                hint="Write them like 0,512,2048.",
            )

    def _check_seconds(self) -> None:
        if not 0 <= self.idle_seconds <= _LONGEST_IDLE_SECONDS:
            raise InvalidOption(
                f"an idle baseline of {self.idle_seconds:g} seconds",
                hint=f"From 0 to {_LONGEST_IDLE_SECONDS:g}; 0 measures none.",
            )
        if not 0 <= self.warm_up_seconds <= _LONGEST_WARM_UP_SECONDS:
            raise InvalidOption(
                f"{self.warm_up_seconds:g} seconds to warm up",
                hint=f"From 0 to {_LONGEST_WARM_UP_SECONDS:g}.",
            )
        for name, least in (("budget_seconds", 0.0), ("sustained_seconds", _SHORTEST_SUSTAINED)):
            value = getattr(self, name)
            if value is not None and not (value >= least and 0 < value < math.inf):
                raise InvalidOption(
                    f"{value:g} {name.replace('_', ' ')}: too short, or without end",
                    hint=f"More than {least:g}, or leave it out.",
                )

    @property
    def needed_context(self) -> int:
        """Tokens the longest run puts into the KV cache."""
        return max(self.depths) + max(self.prompt_tokens, self.generated_tokens)

    @property
    def most(self) -> int | None:
        """Runs of each kind there may be at most; None for no more than `repeats`."""
        if self.budget_seconds is not None or (self.most_repeats or 0) <= self.repeats:
            return None
        return self.most_repeats

    @property
    def runs(self) -> Runs:
        """What is to be run, unless a budget shortens it."""
        return Runs(self.prompt_tokens, self.generated_tokens, self.depths, self.repeats)


def profile(path: Path, options: ProfileOptions) -> Measurement:
    """Run `path` on this machine and measure what it takes.

    The machine should be otherwise idle: other programs slow it down, and their power counts
    as the model's. What of that was seen taints the measurement.

    Raises:
        EdgeslmError: the model cannot be loaded, or a run failed.
    """
    measured_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    detection = detect()
    target = load_target(detection.target) if detection.target else None
    meter, reasons = find_meter(target, wanted=options.meter)
    instrument = Instrument(meter)
    observer = Observer(Sensors(ask_firmware=True))
    idle = _rest(instrument, observer, options.idle_seconds)
    digest = sha256(path)  # first, so that reading the file for it disturbs nothing later
    memory.reset_peak()
    before_load, faults = memory.rss_bytes(), memory.major_faults()
    with ExitStack() as stack:
        model = stack.enter_context(Model(path))
        settled = _settled(model, options)
        stack.enter_context(pinned(settled.cores))
        context = stack.enter_context(Context(model, settled.options))
        runs = _runs(context, options)
        runner = Runner(context, runs.prompt_tokens, runs.generated_tokens, instrument, observer)
        _warm_up(runner, options)
        depths = _measure(runner, runs, options.most, instrument, idle)
        conditions = observer.finish()
        settings = _settings(options, runs, context)
        used = _memory_use(model, context, before_load, faults)
        described = _describe(model, digest)
    sustained = _sustained(path, options, settled)
    found = (
        *taints(conditions, [each.decode for each in depths], settings.threads),
        *(() if instrument.failure is None else (f"the meter died midway: {instrument.failure}",)),
        *(() if sustained is None else sustained.warnings),
    )
    return Measurement(
        model=described,
        settings=settings,
        host=_host(detection),
        memory=used,
        prefill=depths[0].prefill,
        decode=depths[0].decode,
        energy=energy(depths, instrument, idle, reasons),
        depths=depths,
        conditions=conditions,
        tainted=bool(found),
        taints=found,
        sustained=sustained,
        measured_at=measured_at,
    )


def _rest(instrument: Instrument, observer: Observer, seconds: float) -> Idle | None:
    """Watch the machine while it has nothing to do; its watts, where an instrument tells them."""
    if not instrument.tells_idle_from_busy or seconds == 0:
        time.sleep(_LISTEN_SECONDS)
        observer.rested()
        return None
    period = instrument.period_seconds
    seconds = max(seconds, min(needed_seconds(period), _LONGEST_WAIT_SECONDS))
    note(f"Watching the idle machine for {seconds:g} seconds")
    parts = instrument.rest(seconds)
    observer.rested()
    return idle_power(parts, period)


def _runs(context: Context, options: ProfileOptions) -> Runs:
    """What was asked for, as far as the budget goes."""
    if options.budget_seconds is None:
        return options.runs
    reading, writing = probe(context)
    return shortened(options.runs, reading, writing, options.budget_seconds)


def _warm_up(runner: Runner, options: ProfileOptions) -> None:
    seconds = options.warm_up_seconds
    if seconds:
        with bar("Warming up", math.ceil(seconds), unit="s") as advance:
            runner.warm_up(seconds, advance)


def _measure(
    runner: Runner, runs: Runs, most: int | None, instrument: Instrument, idle: Idle | None
) -> tuple[DepthRun, ...]:
    found = []
    total = 2 * (runs.repeats + 1) * len(runs.depths)
    with bar("Measuring", total, unit="runs") as advance:
        for depth in runs.depths:
            timed = runner.measure(depth, runs.repeats, advance, most=most)
            found.append(
                DepthRun(
                    depth=depth,
                    prefill=timed.prefill.speed,
                    decode=timed.decode.speed,
                    prefill_energy=token_energy(instrument, timed.prefill.stretches, idle),
                    decode_energy=token_energy(instrument, timed.decode.stretches, idle),
                )
            )
    return tuple(found)


def _sustained(path: Path, options: ProfileOptions, settled: Settled) -> Sustained | None:
    seconds = options.sustained_seconds
    return None if seconds is None else run_sustained(path, seconds, settled=settled)


def _settled(model: Model, options: ProfileOptions) -> Settled:
    wanted = ContextOptions(
        length=options.context_length or options.needed_context, batch=options.batch
    )
    settled = settle(model.header, wanted, threads=options.threads, kv_type=options.kv_type)
    if options.ubatch is None:
        return settled
    return replace(settled, options=replace(settled.options, ubatch=options.ubatch))


def _settings(options: ProfileOptions, runs: Runs, context: Context) -> Settings:
    budget = options.budget_seconds
    return Settings(
        context_length=context.length,
        kv_type=context.options.kv_type,
        threads=context.threads[0],
        prefill_threads=context.threads[1],
        batch=options.batch,
        ubatch=context.options.ubatch,
        prompt_tokens=runs.prompt_tokens,
        generated_tokens=runs.generated_tokens,
        depth=runs.depths[0],
        repeats=runs.repeats,
        depths=runs.depths,
        idle_seconds=options.idle_seconds,
        budget_seconds=budget,
        most_repeats=options.most,
        warm_up_seconds=options.warm_up_seconds,
        shortened=None if budget is None else difference(options.runs, runs, budget),
    )


def _describe(model: Model, digest: str) -> ProfiledModel:
    inspection = inspect(model.header)
    return ProfiledModel(
        path=model.path,
        sha256=digest,
        architecture=inspection.architecture,
        name=inspection.name,
        file_bytes=inspection.file_bytes,
        parameters=inspection.parameters,
        bits_per_weight=inspection.bits_per_weight,
        file_type=inspection.file_type,
        llama_cpp_name=model.described,
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
        llama_cpp_commit=build.commit,
        edgeslm=__version__,
        target_exact=detection.exact,
    )


def _memory_use(model: Model, context: Context, before_load: int, faults: int) -> MemoryUse:
    shares, steady = memory.shares(), memory.rss_bytes()
    return MemoryUse(
        peak_rss_bytes=max(
            memory.peak_rss_bytes(), steady
        ),  # the kernel counts both with some slack
        before_load_rss_bytes=before_load,
        weights_resident_bytes=memory.resident_file_bytes(model.path),
        weights_copied_bytes=model.buffer_bytes.get("weights", 0),
        kv_bytes=context.buffer_bytes.get("kv", 0),
        compute_bytes=context.buffer_bytes.get("compute", 0),
        steady_rss_bytes=steady,
        pss_bytes=None if shares is None else shares.pss_bytes,
        private_bytes=None if shares is None else shares.private_bytes,
        major_faults=memory.major_faults() - faults,
        limit=None,
    )
