"""Results with figures that a test chooses; everything else is plain and the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeslm.profiling.measurement import Energy, MemoryUse, Speed, TokenEnergy
from edgeslm.profiling.results import (
    Quality,
    Result,
    ResultDepth,
    ResultHost,
    ResultModel,
    ResultSettings,
)
from edgeslm.profiling.speed import speed_of
from edgeslm.profiling.sustained import Sustained, Window
from edgeslm.records import MEASUREMENT_SCHEMA, UNKNOWN, Figure, Provenance, Statistic
from edgeslm.runtime.machine import Clock, Heat

STEPS = (1.0, 1.01, 0.99, 1.005, 0.995, 1.002, 0.998)
PI = ResultHost(
    name="pi5",
    target="rpi5-8gb",
    cpu="Cortex-A76",
    cores=4,
    memory_bytes=8_000_000_000,
    system="Linux 6.6 aarch64",
    build="llama-cpp-python 0.3.36",
    commit="0c1e570",
    features=("NEON", "DOTPROD"),
)
LAPTOP = replace(PI, name="laptop", target=None, cpu="Ryzen 5", features=("AVX2",))


def speed(rate: float, tokens: int = 128) -> Speed:
    """Seven runs whose median is `rate` tokens per second."""
    return speed_of(tokens, [tokens / (rate * step) for step in STEPS])


def result(
    kind: str = "Q4_K_M",
    *,
    label: str = "SmolLM2-135M",
    host: ResultHost = PI,
    writing: float = 40.0,
    reading: float = 200.0,
    peak: int = 200_000_000,
    joules: Figure = UNKNOWN,
    meter: str | None = None,
    divergence: float | None = None,
    depths: tuple[int, ...] = (0,),
    taints: tuple[str, ...] = (),
    sustained: Sustained | None = None,
) -> Result:
    """One result."""
    file = f"{label}.{kind}.gguf"
    used = TokenEnergy(joules, None if joules.value is None else 0.01, UNKNOWN, None, 3.0, True)
    return Result(
        model=ResultModel(
            label=label,
            file=file,
            sha256=file,
            architecture="llama",
            type=kind,
            bits_per_weight=4.5,
            file_bytes=100_000_000,
            parameters=134_515_008,
            described=None,
        ),
        settings=ResultSettings(
            threads=4,
            prefill_threads=4,
            kv_type="F16",
            batch=512,
            ubatch=512,
            context_length=768,
            prompt_tokens=512,
            generated_tokens=128,
        ),
        host=host,
        depths=tuple(
            ResultDepth(
                depth,
                speed(reading / (1 + depth / 1000), 512),
                speed(writing / (1 + depth / 2000)),
                used,
                used,
            )
            for depth in depths
        ),
        memory=MemoryUse(
            *(peak, 30_000_000, 90_000_000, 10_000_000, 17_000_000, 15_000_000),
            *(peak - 1_000_000, peak - 9_000_000, peak - 20_000_000, 0, None),
        ),
        energy=_energy(joules, meter),
        conditions=None,
        sustained=sustained,
        quality=None if divergence is None else card(file, divergence),
        tainted=bool(taints),
        taints=taints,
        measured_at="2026-01-02T03:04:05Z",
        cell=None,
        round=1,
        source=Path(f"{kind}.json"),
        schema=MEASUREMENT_SCHEMA,
    )


def measured(joules: float) -> Figure:
    """As an instrument gives it."""
    return Figure(joules, Provenance.MEASURED, "a shunt")


def estimated(joules: float) -> Figure:
    """As it follows from published watts."""
    return Figure(joules, Provenance.ESTIMATED, "6.8 W x seconds")


def card(file: str, divergence: float, reference: str = "full.gguf") -> Quality:
    """A quality card."""
    path = Path(f"{file}.quality.json")
    numbers = (divergence, divergence / 20, divergence * 10, 12.0, 1.1, 0.9, None)
    return Quality(file, file, reference, 4096, *numbers, path)


def sustained(warm: bool = True) -> Sustained:
    """A minute in which a board gets warm, and slower."""
    windows = tuple(
        Window(
            float(second),
            20.0 - second / 10,
            Heat(40.0 + second / 2 if warm else None, 80.0, ("throttled",) if warm else (), ()),
            Clock(2400.0, 2400.0),
        )
        for second in range(60)
    )
    heat = Heat(40.0, 80.0, (), ())
    return Sustained(
        *(60.0, 1000, 4, 20.0, Statistic.of([15.0, 14.5, 14.0]), heat, heat, None, None),
        *(69.5 if warm else None, 2400.0, ("throttled",) if warm else (), 0.0, windows),
    )


def _energy(joules: Figure, meter: str | None) -> Energy:
    scope = None if meter is None else "board"
    unsure = (None, None, None, None)
    figures = (joules, joules, meter, scope, (), UNKNOWN, UNKNOWN)
    return Energy(*figures, *unsure, UNKNOWN, None, 3.0, True)
