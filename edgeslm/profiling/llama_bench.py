"""llama-bench's JSON and JSON lines, read and written.

llama-bench (llama.cpp, tools/llama-bench) prints a row per test: a prompt of `n_prompt` tokens or
`n_gen` tokens written, with `n_depth` tokens in the cache. A result of ours is all rows with the
same model and settings. Rows are written with every field and type that llama-bench of the
llama.cpp in llama-cpp-python 0.3.36 writes, so that its readers (scripts/compare-llama-bench.py)
take them.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeslm.errors import writing
from edgeslm.files import atomic_path
from edgeslm.gguf.types import FILE_TYPES
from edgeslm.profiling.measurement import Speed
from edgeslm.profiling.results import (
    LLAMA_BENCH_SCHEMA,
    Result,
    ResultDepth,
    ResultHost,
    ResultModel,
    ResultSettings,
)
from edgeslm.profiling.speed import speed_of

_OF_A_TEST = frozenset(
    {
        *("n_prompt", "n_gen", "n_depth", "test_time", "samples_ns", "samples_ts"),
        *("avg_ns", "stddev_ns", "avg_ts", "stddev_ts"),
    }
)
_SIZES = {" - Small": "_S", " - Medium": "_M", " - Large": "_L"}
_OTHER_NAMES = {"Q2_K_M": "Q2_K", "IQ3_S mix": "IQ3_M", "MXFP4 MoE": "MXFP4_MOE"}
"""Types that llama.cpp describes by other words than those it names them by."""
_BITS_NOTE = re.compile(r" - [\d.]+ bpw.*$")
_FIXED: Mapping[str, Any] = {
    "gpu_info": "",
    "backends": "CPU",
    "cpu_mask": "0x0",
    "cpu_strict": False,
    "poll": 50,
    "n_gpu_layers": -1,
    "n_cpu_moe": 0,
    "split_mode": "layer",
    "main_gpu": 0,
    "no_kv_offload": False,
    "flash_attn": -1,
    "devices": "auto",
    "tensor_split": "0.00",
    "tensor_buft_overrides": "none",
    "load_mode": "auto",
    "lazy_mode": "auto",
    "embeddings": False,
    "no_op_offload": 0,
    "no_host": False,
    "repack": True,
    "fit_target": 0,
    "fit_min_ctx": 0,
}
"""What we leave as llama.cpp has it by default, as llama-bench does."""
_ORDER = (
    *("build_commit", "build_number", "cpu_info", "gpu_info", "backends", "model_filename"),
    *("model_type", "model_size", "model_n_params", "n_batch", "n_ubatch", "n_threads"),
    *("cpu_mask", "cpu_strict", "poll", "type_k", "type_v", "n_gpu_layers", "n_cpu_moe"),
    *("split_mode", "main_gpu", "no_kv_offload", "flash_attn", "devices", "tensor_split"),
    *("tensor_buft_overrides", "load_mode", "lazy_mode", "embeddings", "no_op_offload"),
    *("no_host", "repack", "fit_target", "fit_min_ctx", "n_prompt", "n_gen", "n_depth"),
    *("test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts"),
)


def read_rows(rows: Iterable[Mapping[str, Any]], source: Path) -> tuple[list[Result], list[str]]:
    """Results from llama-bench's rows, and what was left out and why.

    Raises:
        ValueError, KeyError, TypeError: these are no such rows.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    notes: list[str] = []
    for row in rows:
        if (row["n_prompt"] > 0) == (row["n_gen"] > 0):
            notes.append(
                f"left out: a run of {row['n_prompt']} tokens read and {row['n_gen']} written is "
                "neither prefill nor decode"
            )
            continue
        same = {name: value for name, value in row.items() if name not in _OF_A_TEST}
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(row)
    return [result for group in groups.values() for result in _results(group, source)], notes


def to_rows(result: Result) -> list[dict[str, Any]]:
    """The rows that llama-bench would have printed: a prompt and an answer for each depth."""
    threads = result.settings.threads
    rows = []
    for each in result.depths:
        if each.prefill is not None:
            prefill_threads = result.settings.prefill_threads or threads
            rows.append(_row(result, each.depth, each.prefill, prefill_threads, prompt=True))
        if each.decode is not None:
            rows.append(_row(result, each.depth, each.decode, threads, prompt=False))
    return rows


def export(results: Iterable[Result], path: Path) -> int:
    """Write them to `path`: JSON lines if it ends in .jsonl, else one JSON list; how many rows.

    Raises:
        OutputFailure: it cannot be written.
    """
    rows = [row for result in results for row in to_rows(result)]
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    if path.suffix == ".jsonl":
        text = "".join(f"{line}\n" for line in lines)
    else:
        text = "[\n" + ",\n".join(f"  {line}" for line in lines) + "\n]\n"
    with atomic_path(path) as temporary, writing(path):
        temporary.write_text(text, encoding="utf-8")
    return len(rows)


def type_in(described: str) -> str | None:
    """The type of a file in llama.cpp's description of a model: Q4_K_M in "llama 1B Q4_K - Medium".

    None where there is none that we know.
    """
    text = _BITS_NOTE.sub("", described)
    for words, letter in _SIZES.items():
        text = text.replace(words, letter)
    for words, name in _OTHER_NAMES.items():
        if text.endswith(words):
            return name
    last = text.rpartition(" ")[2]
    return last if last in FILE_TYPES.values() else None


def _results(rows: Sequence[Mapping[str, Any]], source: Path) -> list[Result]:
    """A result for each time that a test was run, or for each length that it was run with."""
    rounds: list[dict[tuple[int, bool], Mapping[str, Any]]] = []
    for row in rows:
        test = (_whole(row["n_depth"]), row["n_prompt"] > 0)
        free = next((each for each in rounds if test not in each), None)
        if free is None:
            rounds.append(free := {})
        free[test] = row
    return [_result(each, source) for each in rounds]


def _result(tests: Mapping[tuple[int, bool], Mapping[str, Any]], source: Path) -> Result:
    first = next(iter(tests.values()))
    kv_types = dict.fromkeys((_text(first["type_k"]), _text(first["type_v"])))
    return Result(
        model=_model(first),
        settings=ResultSettings(
            threads=_whole(first["n_threads"]),
            prefill_threads=_whole(first["n_threads"]),
            kv_type="/".join(kv_types).upper(),
            batch=_whole(first["n_batch"]),
            ubatch=_whole(first["n_ubatch"]),
            context_length=None,
            prompt_tokens=_length(tests, prompt=True),
            generated_tokens=_length(tests, prompt=False),
        ),
        host=_host(first),
        depths=tuple(
            ResultDepth(
                depth,
                _speed(tests.get((depth, True))),
                _speed(tests.get((depth, False))),
                None,
                None,
            )
            for depth in sorted({depth for depth, _ in tests})
        ),
        memory=None,
        energy=None,
        conditions=None,
        sustained=None,
        quality=None,
        tainted=False,
        taints=(),
        measured_at=_text(first["test_time"]) or None,
        cell=None,
        round=1,
        source=source,
        schema=LLAMA_BENCH_SCHEMA,
    )


def _model(row: Mapping[str, Any]) -> ResultModel:
    file, described = Path(_text(row["model_filename"])).name, _text(row["model_type"])
    size, parameters = _whole(row["model_size"]), _whole(row["model_n_params"])
    return ResultModel(
        label=Path(file).stem,
        file=file,
        sha256=None,
        architecture=described.partition(" ")[0] or None,
        type=type_in(described),
        bits_per_weight=size * 8 / parameters if parameters else None,
        file_bytes=None,
        parameters=parameters,
        described=described,
    )


def _host(row: Mapping[str, Any]) -> ResultHost:
    commit, number = _text(row["build_commit"]), _whole(row["build_number"])
    return ResultHost(
        name=None,
        target=None,
        cpu=_text(row["cpu_info"]) or None,
        cores=None,
        memory_bytes=None,
        system=None,
        build=f"llama.cpp {commit} ({number}), {_text(row['backends'])}",
        commit=commit if re.fullmatch("[0-9a-f]{7,40}", commit) else None,
        features=(),
    )


def _length(tests: Mapping[tuple[int, bool], Mapping[str, Any]], *, prompt: bool) -> int | None:
    name = "n_prompt" if prompt else "n_gen"
    return next((_whole(row[name]) for (_, kind), row in tests.items() if kind == prompt), None)


def _speed(row: Mapping[str, Any] | None) -> Speed | None:
    """Its samples; where a row has none, its mean as the only one."""
    if row is None:
        return None
    times = row.get("samples_ns") or [row["avg_ns"]]
    if not all(isinstance(each, int) and each > 0 for each in times):
        raise ValueError(f"no times of runs: {times!r}")
    return speed_of(_whole(row["n_prompt"]) + _whole(row["n_gen"]), [each / 1e9 for each in times])


def _row(result: Result, depth: int, speed: Speed, threads: int, *, prompt: bool) -> dict[str, Any]:
    model, settings, host = result.model, result.settings, result.host
    keys, _, values = settings.kv_type.lower().partition("/")
    times = [round(each * 1e9) for each in speed.seconds.samples]
    figures = [1e9 * speed.tokens / each for each in times]
    row = {
        **_FIXED,
        "build_commit": host.commit or "unknown",
        "build_number": 0,
        "cpu_info": host.cpu or "CPU",
        "model_filename": model.file,
        "model_type": model.described or f"{model.architecture or 'unknown'} {model.type or ''}",
        "model_size": round((model.bits_per_weight or 0) * (model.parameters or 0) / 8),
        "model_n_params": model.parameters or 0,
        "n_batch": settings.batch,
        "n_ubatch": settings.ubatch,
        "n_threads": threads,
        "type_k": keys,
        "type_v": values or keys,
        "n_prompt": speed.tokens if prompt else 0,
        "n_gen": 0 if prompt else speed.tokens,
        "n_depth": depth,
        "test_time": _zulu(result.measured_at),
        "avg_ns": round(statistics.mean(times)),
        "stddev_ns": round(_deviation(times)),
        "avg_ts": statistics.mean(figures),
        "stddev_ts": _deviation(figures),
        "samples_ns": times,
        "samples_ts": figures,
    }
    return {name: row[name] for name in _ORDER}


def _deviation(samples: Sequence[float]) -> float:
    return statistics.stdev(samples) if len(samples) > 1 else 0.0


def _zulu(moment: str | None) -> str:
    """RFC 3339 as llama-bench writes it: 2026-11-27T12:00:00Z."""
    if moment is None:
        return ""
    parsed = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    return parsed.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"no whole number: {value!r}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"no text: {value!r}")
    return value
