"""How fast a model should run on a target.

Decode reads every weight once per token, so its speed is memory bandwidth over bytes:

    seconds per token = sum over tensor types of bytes / the target's bytes per second, + KV cache
                        + the target's overhead, once and for each layer, where it states any

Where nobody measured the target's own machine, but somebody published rows of its board, the
factors are those of the physical model that is fitted to all rows (see `physics`, `speed_model`).

Read are all tensors but the token embedding, of which one row is looked up; where there is no
`output.weight` the embedding is also the output head and is read like the rest. The KV cache
counts at half the context, the mean depth of filling it once. Of a mixture's experts those count
that a token goes through.

Prefill computes: 2 FLOP per weight and token (multiply, add). Embedding and head are left out
(a lookup, and only the last token's logits), and so is attention.

What chooses types for a speed computes with `weight_seconds` and `standing_seconds` too, so that
what it promises is what is predicted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from edgeslm.estimate.cache import kv_bytes, layers
from edgeslm.estimate.physics import (
    Machine,
    machine_of,
    prefill_terms,
    standing_terms,
    weight_terms,
)
from edgeslm.estimate.speed_model import fitted, rests_on_rows
from edgeslm.estimate.work import bytes_read_per_token, work_of
from edgeslm.gguf.reader import Header
from edgeslm.gguf.types import tensor_type as tensor_type_of
from edgeslm.records import Figure, Provenance
from edgeslm.targets.target import Target

_PROMPT = 512


@dataclass(frozen=True)
class Cost:
    """Seconds of one generated token and how they were computed.

    Where the target's file lacks a figure, `seconds` is None and `source` says which.
    """

    seconds: float | None
    source: str


def decode_tokens_per_second(
    header: Header, target: Target, *, context_length: int = 2048, kv_type: str = "F16"
) -> Figure:
    """Tokens generated per second, at half of `context_length`.

    A figure without a value says in `source` what the target's file lacks.
    """
    costs = [
        weight_seconds(target, name, count)
        for name, count in bytes_read_per_token(header).most_common()
    ]
    costs.append(standing_seconds(header, target, context_length=context_length, kv_type=kv_type))
    seconds = 0.0
    for cost in costs:
        if cost.seconds is None:
            return Figure(None, None, cost.source)
        seconds += cost.seconds
    return Figure(
        1 / seconds if seconds else None,
        Provenance.ESTIMATED,
        f"bytes read per token / bandwidth of {target.id}: "
        + "; ".join(cost.source for cost in costs),
    )


def decode_figures(header: Header, target: Target, kv_type: str) -> list[Figure]:
    """The target's own figures that a decode speed would be computed from."""
    overhead = (target.overhead.token_seconds, target.overhead.layer_seconds)
    return [
        *(target.decode_gigabytes_per_second(name) for name in bytes_read_per_token(header)),
        target.cache_gigabytes_per_second(kv_type),
        *(figure for figure in overhead if figure.value is not None),
    ]


def prefill_figures(header: Header, target: Target) -> list[Figure]:
    """The same for a prefill speed."""
    return [target.prefill_gigaflops_for(name) for name in work_of(header).prompt]


def weight_seconds(target: Target, tensor_type: str, count: int) -> Cost:
    """What reading `count` bytes of weights of a type takes, and multiplying with them."""
    if rests_on_rows(target):
        machine = machine_of(target)
        seconds = count * _seconds_per_byte(machine, tensor_type)
        speed = f" at {count / seconds / 1e9:.3g} GB/s" if count else ""
        rows = fitted().types["decode"].get(machine.kind, {}).get(tensor_type, 0)
        rest = f"{_rows(target)}, {_with(tensor_type, rows, machine)}"
        return Cost(seconds, f"{tensor_type} {count / 1e6:.0f} MB{speed} ({rest})")
    rate = target.decode_gigabytes_per_second(tensor_type)
    if rate.value is None:
        return Cost(None, _lacks(target, f"decode bandwidth (memory or kernels.{tensor_type})"))
    return Cost(
        count / (rate.value * 1e9),
        f"{tensor_type} {count / 1e6:.0f} MB at {rate.value:g} GB/s ({rate.source})",
    )


def standing_seconds(header: Header, target: Target, *, context_length: int, kv_type: str) -> Cost:
    """What a token takes whatever types the weights have: the KV cache and the overhead."""
    depth = max(context_length // 2, 1)
    if rests_on_rows(target):
        terms = standing_terms(machine_of(target), work_of(header), depth, kv_type)
        seconds = fitted().decode.predict(terms).seconds
        what = f"KV cache at half of {context_length} tokens, attention and pauses"
        return Cost(seconds, f"{what} {seconds * 1e3:.2g} ms ({_rows(target)})")
    cache = kv_bytes(header, context_length=depth, kv_type=kv_type, ubatch=1)
    rate = target.cache_gigabytes_per_second(kv_type)
    if rate.value is None:
        return Cost(None, _lacks(target, "decode bandwidth (memory)"))
    source = f"KV cache at half of {context_length} tokens {cache / 1e6:.0f} MB"
    overhead = (target.overhead.token_seconds.value or 0.0) + len(layers(header)) * (
        target.overhead.layer_seconds.value or 0.0
    )
    if overhead:
        known = target.overhead.layer_seconds.source or target.overhead.token_seconds.source
        source += f"; overhead {overhead * 1e3:.2g} ms ({known})"
    return Cost(cache / (rate.value * 1e9) + overhead, source)


def prefill_tokens_per_second(header: Header, target: Target) -> Figure:
    """Tokens of a prompt processed per second.

    A figure without a value says in `source` what the target's file lacks.
    """
    if rests_on_rows(target):
        machine = machine_of(target)
        work = work_of(header)
        terms = prefill_terms(machine, work, _PROMPT / 2)
        value = fitted().speed("prefill", terms, machine).value
        by_type = fitted().rows_by_type("prefill", machine, work)
        rest = ", ".join([_rows(target), *(_with(*item, machine) for item in by_type.items())])
        return Figure(value, Provenance.ESTIMATED, f"a prompt of {_PROMPT} tokens, {rest}")
    seconds = 0.0
    used: list[str] = []
    for name, weights in Counter(work_of(header).prompt).most_common():
        rate = target.prefill_gigaflops_for(name)
        if rate.value is None:
            lacks = _lacks(target, f"prefill GFLOP/s (compute or kernels.{name})")
            return Figure(None, None, lacks)
        seconds += 2 * weights / (rate.value * 1e9)
        used.append(f"{name} {weights / 1e6:.0f} M at {rate.value:g} GFLOP/s ({rate.source})")
    return Figure(
        1 / seconds if seconds else None,
        Provenance.ESTIMATED,
        f"2 FLOP per weight and token / GFLOP/s of {target.id}: {'; '.join(used)}",
    )


@lru_cache(maxsize=1024)
def _seconds_per_byte(machine: Machine, tensor_type: str) -> float:
    kind = tensor_type_of(tensor_type)
    weights = kind.block_elements / kind.block_bytes
    terms = weight_terms(machine, tensor_type, 1.0, weights)
    return fitted().decode.predict(terms).seconds


def _rows(target: Target) -> str:
    count = sum(fitted().sources[target.board].values())
    return f"fitted to published rows, {count} of this board"


def _with(tensor_type: str, rows: int, machine: Machine) -> str:
    return f"{rows or 'none'} with {tensor_type} on {machine.where}"


def _lacks(target: Target, what: str) -> str:
    return f"unknown: the file of {target.id} has no {what}"
