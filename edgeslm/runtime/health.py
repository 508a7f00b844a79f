"""Whether a model does on this machine what it did where it was packed, before it is put to use.

    python -m edgeslm.runtime.health < request     the child, which may die of what it tries

A new version is loaded and asked in a child process, so that whatever native code does there is a
sentence here. Checked are: that it loads; that it says nearly the same as on the machine that
packed it (a probe in the bundle has the likeliest tokens with their probabilities); how fast; and
what memory it takes at most.

How much "nearly" may be was measured on SmolLM2 in Q4_0, Q4_K_M and Q8_0. Between kernels of one
x86 processor (interleaved weights or not, flash attention or not, other batch sizes, a cache of
Q8_0) and between x86 (AVX2) and Arm (NEON with dot products, emulated) the mean divergence was
0.0073 nats at most, and 14 of 16 first choices were the same at least. With one of its 272 tensors
zeroed or shifted it was 0.15 to 0.61. Probes allow 0.05, and ask for 10 of 16.
"""

from __future__ import annotations

import json
import math
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgeslm.errors import EdgeslmError, NativeFailure
from edgeslm.files import small_text
from edgeslm.llama.native import child_command, child_environment
from edgeslm.records import LikelyTokens, Probe, from_json, to_json
from edgeslm.units import format_bytes, significant

_PATIENCE_SECONDS = 300
_SLOWEST_STORAGE_BYTES_PER_SECOND = 5_000_000
_OTHER_PROCESSOR = "the build of llama.cpp is for another processor"
_REASONS = {
    int(signal.SIGILL): _OTHER_PROCESSOR,
    int(signal.SIGKILL): "memory ran out, or somebody ended it",
    int(signal.SIGABRT): "llama.cpp gave up",
}


@dataclass(frozen=True)
class Demands:
    """What is asked of a model beside its answers; None for nothing.

    Attributes:
        tokens_per_second: To be reached in decode.
        memory_bytes: Resident, at most.
        threads: To compute with.
    """

    tokens_per_second: float | None = None
    memory_bytes: int | None = None
    threads: int = 1


@dataclass(frozen=True)
class Answers:
    """What a child found; None: not known, or not asked.

    Attributes:
        load_seconds: Until the model was open.
        divergence: In nats, on average over the probe's steps.
        same: The share of steps at which the same token was the likeliest.
        tokens_per_second: In decode, the median of the steps.
        peak_bytes: Most that was resident, the file's pages included.
    """

    load_seconds: float
    divergence: float | None = None
    same: float | None = None
    tokens_per_second: float | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Health:
    """The result of a check.

    Attributes:
        healthy: Whether nothing is wrong.
        problems: What is, a sentence each.
        answers: What was found; None where the child died or could not load the model.
        compared: Whether there was a probe to compare with.
        demands: What was asked for.
    """

    healthy: bool
    problems: tuple[str, ...]
    answers: Answers | None
    compared: bool
    demands: Demands


def check_health(
    model: Path,
    probe: Probe | None,
    demands: Demands | None = None,
    *,
    command: Sequence[str] | None = None,
) -> Health:
    """Load and ask a model in a child process.

    Args:
        model: A GGUF file.
        probe: What it said where it was packed; None to only see that it says something.
        demands: What else is asked for.
        command: What does that, told on stdin and answering on stdout; default: this module.
    """
    demands = demands or Demands()
    request = {"model": str(model), "threads": demands.threads, "probe": to_json(probe)}
    found = _ask(command or child_command(__name__), request, model)
    if isinstance(found, str):
        return Health(False, (found,), None, probe is not None, demands)
    problems = tuple(_problems(found, probe, demands))
    return Health(not problems, problems, found, probe is not None, demands)


def _ask(command: Sequence[str], request: dict[str, Any], model: Path) -> Answers | str:
    """What the child found, or why it found nothing."""
    patience = _PATIENCE_SECONDS + model.stat().st_size / _SLOWEST_STORAGE_BYTES_PER_SECOND
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request).encode(),
            capture_output=True,
            check=False,
            timeout=patience,
            env=child_environment(),
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {patience:.0f} seconds"
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return f"it died of {name}: {_REASONS.get(-done.returncode, 'native code failed')}"
    try:
        told = json.loads(done.stdout)
        return str(told["error"]) if "error" in told else from_json(Answers, told)
    except (ValueError, TypeError):
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return f"it ended with exit code {done.returncode}: {lines[-1] if lines else 'no words'}"


def _problems(found: Answers, probe: Probe | None, demands: Demands) -> list[str]:
    problems = []
    if probe is not None and found.divergence is not None and found.same is not None:
        if found.divergence > probe.most_divergence:
            problems.append(
                f"it answers otherwise than where it was packed: {significant(found.divergence)} "
                f"nats per token, at most {significant(probe.most_divergence)} are normal"
            )
        if found.same < probe.least_same:
            problems.append(
                f"its first choice was the same at {found.same:.0%} of the steps, "
                f"{probe.least_same:.0%} are asked for"
            )
    speed, wanted = found.tokens_per_second, demands.tokens_per_second
    if wanted is not None and speed is not None and speed < wanted:
        problems.append(
            f"it is too slow: {significant(speed)} tokens/s, {significant(wanted)} are asked for"
        )
    peak, most = found.peak_bytes, demands.memory_bytes
    if most is not None and peak is not None and peak > most:
        problems.append(
            f"it takes too much memory: {format_bytes(peak)}, {format_bytes(most)} are allowed"
        )
    return problems


def answer(model: Path, probe: Probe | None, threads: int) -> Answers:
    """Load a model here and ask it; native code may end the process.

    Raises:
        EdgeslmError: llama.cpp refuses it, or what it computes is no number.
    """
    from edgeslm.llama.likeliest import answers, make_probe, probing_context
    from edgeslm.llama.model import Model, ModelOptions

    began = time.perf_counter()
    with Model(model, ModelOptions(trusted=True)) as opened:
        seconds = time.perf_counter() - began
        asked = probe or make_probe(opened)
        if asked is None:
            return Answers(seconds, peak_bytes=_peak_bytes())
        _refuse_foreign(asked, opened.vocabulary_size)
        found, moments = [], []
        with probing_context(opened, threads) as context:
            for each in answers(context, asked):
                found.append(each)
                moments.append(time.perf_counter())
    steps = [after - before for before, after in pairwise(moments)]
    speed = 1 / statistics.median(steps) if steps else None
    if probe is None:
        return Answers(seconds, tokens_per_second=speed, peak_bytes=_peak_bytes())
    divergence = statistics.fmean(each for _, each in found)
    if not math.isfinite(divergence):
        raise NativeFailure("what it computes is no number")
    same = [token == said for (token, _), said in zip(found, probe.continuation, strict=True)]
    return Answers(seconds, divergence, statistics.fmean(same), speed, _peak_bytes())


def _refuse_foreign(probe: Probe, vocabulary: int) -> None:
    listed: list[LikelyTokens] = [*probe.likeliest]
    ids = [*probe.prompt, *probe.continuation, *(token for each in listed for token in each.tokens)]
    if max(ids) >= vocabulary:
        raise NativeFailure("its probe is of another model: it has tokens that this one lacks")


def _peak_bytes() -> int:
    for line in small_text(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _main() -> int:
    """The child."""
    request = json.load(sys.stdin)
    probe = None if request["probe"] is None else from_json(Probe, request["probe"])
    try:
        found = answer(Path(request["model"]), probe, int(request["threads"]))
    except EdgeslmError as error:
        print(json.dumps({"error": error.message}))
        return 1
    print(json.dumps(to_json(found)))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
