"""A calibration as a target: what was measured, and what the machine says about itself."""

from __future__ import annotations

import dataclasses
import platform
import re
import statistics
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType

import psutil

from edgeslm.errors import InvalidOption, OutputFailure, writing
from edgeslm.llama.native import build_info
from edgeslm.profiling.calibrate import TYPES, CalibrateOptions, Calibration, calibrate
from edgeslm.records import UNKNOWN, Figure, Provenance
from edgeslm.targets.detection import Detection, detect
from edgeslm.targets.loading import load_target, target_ids, user_directory
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
from edgeslm.targets.writing import write_target

_DIGITS = 4
_QUICK_BYTES = 48_000_000
_QUICK_DEPTH = 512
_COMMENT = (
    "Measured on this machine; rates are net of the overhead.\n"
    "Measure anew after another build of llama.cpp: edgeslm targets calibrate"
)
_CONTEXT_LENGTH = 2048


@dataclass(frozen=True)
class CalibrateResult:
    """The file, as read back, and what should not be trusted in it."""

    path: Path
    target: Target
    warnings: tuple[str, ...]


def calibrate_to(
    output: Path | None, *, threads: int, types: tuple[str, ...] = TYPES, quick: bool = False
) -> CalibrateResult:
    """Measure this machine and write it as a target.

    Args:
        output: A .toml file, whose name becomes the id; None for the user's folder.
        threads: Threads to measure with.
        types: Names of tensor types.
        quick: Smaller models and fewer runs.

    Raises:
        InvalidOption: an unknown type, no threads, or a file that is not called .toml.
        OutputFailure: the file or the models cannot be written.
        NativeFailure: llama.cpp failed.
    """
    options = CalibrateOptions(threads, types)
    if quick:
        options = dataclasses.replace(
            options, repeats=3, run_seconds=0.05, weight_bytes=_QUICK_BYTES, depth=_QUICK_DEPTH
        )
    path = default_path() if output is None else output
    if path.suffix != ".toml":
        raise InvalidOption(f"{path}: not called .toml", hint="Targets are TOML files.")
    _refuse_unwritable(path)
    calibration = calibrate(options)
    write_target(calibrated_target(calibration, path.stem), path, comment=_COMMENT)
    return CalibrateResult(path, load_target(str(path)), calibration.warnings)


def default_path() -> Path:
    """Where this machine's target goes: the user's folder, under the name of the host.

    Raises:
        OutputFailure: the user has no home to keep it in.
    """
    folder = user_directory()
    if folder is None:
        raise OutputFailure("there is no home folder to keep it in", hint="Give --output.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{_host_id(folder)}.toml"


def _refuse_unwritable(path: Path) -> None:
    """Complain now and not after minutes of measuring."""
    with writing(path), tempfile.TemporaryFile(dir=path.resolve().parent):
        pass


def calibrated_target(calibration: Calibration, name: str) -> Target:
    """The machine at hand as a target with the id `name`.

    Where a shipped target is exactly this board, the rest is taken from it; else the file has
    what the system says, and leaves out the power.
    """
    detection = detect()
    how = _how(calibration, detection)
    known = load_target(detection.target) if detection.exact and detection.target else None
    base = known or _from_host(detection, calibration, how)
    kernels = {
        speed.type: Kernel(
            _measured(
                speed.decode_gigabytes_per_second,
                f"{how}; {speed.weight_bytes / 1e6:.0f} MB, spread of "
                f"{len(speed.decode_seconds.samples)} runs {speed.decode_seconds.spread:.1%}",
            ),
            _measured(
                speed.prefill_gigaflops,
                f"{how}; {speed.prompt_tokens} tokens, spread {speed.prefill_seconds.spread:.1%}",
            ),
        )
        for speed in calibration.types
    }
    rates = [speed.decode_gigabytes_per_second for speed in calibration.types]
    prefill = [speed.prefill_gigaflops for speed in calibration.types]
    return dataclasses.replace(
        base,
        id=name,
        board=name,
        memory=dataclasses.replace(base.memory, decode_gigabytes_per_second=_median(rates)),
        prefill_gigaflops=_median(prefill),
        kernels=MappingProxyType(kernels),
        caches=MappingProxyType(_caches(calibration, how)),
        overhead=_overhead(calibration, how),
        defaults=dataclasses.replace(base.defaults, threads=calibration.threads),
        match=Match((), ()),
    )


def _how(calibration: Calibration, detection: Detection) -> str:
    """Date, processor, build: what the figures hold for."""
    build = build_info()
    return (
        f"edgeslm targets calibrate, {date.today().isoformat()}, "
        f"{detection.host.cpu or platform.machine()}, {calibration.threads} threads, "
        f"llama-cpp-python {build.binding} ({' '.join(build.features)})"
    )


def _caches(calibration: Calibration, how: str) -> dict[str, Figure]:
    return {
        speed.type: _measured(
            speed.decode_gigabytes_per_second,
            f"{how}; {speed.depth} tokens, 3 query heads for each KV head, "
            f"spread {speed.spread:.1%}",
        )
        for speed in calibration.caches
    }


def _overhead(calibration: Calibration, how: str) -> Overhead:
    source = f"{how}; from models that differ in their layers, spread up to "
    source += f"{calibration.overhead_spread:.1%}"
    return Overhead(
        token_seconds=_measured(calibration.token_seconds, source),
        layer_seconds=_measured(calibration.layer_seconds, source),
    )


def _from_host(detection: Detection, calibration: Calibration, how: str) -> Target:
    """A target of what the system says about itself."""
    host = detection.host
    memory = psutil.virtual_memory()
    cores = CoreCluster(
        name=host.cpu or "unknown",
        count=_measured(float(host.cores or psutil.cpu_count() or 1), how),
        megahertz=UNKNOWN,
        features=host.features,
        march=None,
    )
    kept = f"{how}; total less what was available then, other programs included"
    return Target(
        id="",
        board="",
        name=f"{platform.node() or 'this machine'} ({host.board or host.cpu or 'unknown'})",
        vendor=host.board or "unknown",
        soc=host.cpu or "unknown",
        architecture=platform.machine() or "unknown",
        backend="cpu",
        cores=(cores,),
        memory=Memory(
            total_bytes=_measured(float(memory.total), how),
            reserved_bytes=_measured(float(memory.total - memory.available), kept),
            nominal_gigabytes_per_second=UNKNOWN,
            decode_gigabytes_per_second=UNKNOWN,
        ),
        storage=(),
        power=Power(UNKNOWN, UNKNOWN),
        meters=(),
        prefill_gigaflops=UNKNOWN,
        kernels=MappingProxyType({}),
        caches=MappingProxyType({}),
        overhead=Overhead(UNKNOWN, UNKNOWN),
        defaults=Defaults(calibration.threads, _CONTEXT_LENGTH, "F16"),
        match=Match((), ()),
    )


def _measured(value: float, source: str) -> Figure:
    """A figure of a few digits; UNKNOWN where nothing could be told from nothing."""
    if value <= 0:
        return UNKNOWN
    whole = value.is_integer()
    rounded = int(value) if whole else float(f"{value:.{_DIGITS}g}")
    return Figure(rounded, Provenance.MEASURED, source)


def _median(values: list[float]) -> Figure:
    middle = float(f"{statistics.median(values):.{_DIGITS}g}")
    return Figure(middle, Provenance.CALIBRATED, "median of this file's kernel figures")


def _host_id(folder: Path) -> str:
    """The host's name as an id that no other target has."""
    name = re.sub(r"[^a-z0-9]+", "-", platform.node().split(".")[0].lower()).strip("-") or "here"
    taken = set(target_ids()) - {path.stem for path in folder.glob("*.toml")}
    return f"{name}-calibrated" if name in taken else name
