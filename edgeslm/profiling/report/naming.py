"""Short names that tell results apart: only what differs between them; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from edgeslm.profiling.matrix import LOCAL
from edgeslm.profiling.results import Result, ResultHost

_Part = Callable[[Result], str]


def host_name(host: ResultHost) -> str:
    """As the matrix calls it, else the board, else the processor."""
    named = None if host.name == LOCAL else host.name
    return named or host.target or host.cpu or "unknown machine"


def counted(number: int, thing: str) -> str:
    """1 thread, 2 threads."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _kind(result: Result) -> str:
    bits = result.model.bits_per_weight
    return result.model.type or ("" if bits is None else f"{bits:.2f} bits")


_PARTS: tuple[_Part, ...] = (
    lambda result: result.model.label,
    _kind,
    lambda result: host_name(result.host),
    lambda result: counted(result.settings.threads, "thread"),
    lambda result: f"KV {result.settings.kv_type}",
    lambda result: f"batch {result.settings.batch}/{result.settings.ubatch}",
    lambda result: f"context {result.settings.context_length or 'unknown'}",
    lambda result: f"{result.settings.prompt_tokens}+{result.settings.generated_tokens} tokens",
    lambda result: result.host.build,
    lambda result: f"round {result.round}",
    lambda result: result.model.file,
    lambda result: result.source.name,
)
"""In the order in which they stand in a name; the later ones only where the others don't do."""
_HOST = 2
_ALWAYS = 3
"""Model, type and machine belong to a name whenever they differ, needed or not."""


def names(results: Sequence[Result]) -> tuple[str, ...]:
    """A name for each result, no two alike."""
    spelt = [tuple(part(result) for part in _PARTS) for result in results]
    differing = [index for index in range(len(_PARTS)) if len({row[index] for row in spelt}) > 1]
    used = [index for index in differing if index < _ALWAYS]
    for index in differing:
        if index in used:
            continue
        before = len({_spell(row, used) for row in spelt})
        if before == len(spelt):
            break
        if len({_spell(row, [*used, index]) for row in spelt}) > before:
            used.append(index)
    used = used or [0, 1]
    return _numbered([_spell(row, sorted(used)) for row in spelt])


def common(results: Sequence[Result]) -> tuple[str, ...]:
    """What all results share of model, type, machine, threads and type of KV cache."""
    return tuple(
        part(results[0])
        for part in _PARTS[:5]
        if results and len({part(result) for result in results}) == 1 and part(results[0])
    )


def _spell(row: Sequence[str], used: Sequence[int]) -> str:
    """Model and type, the machine, the rest: "SmolLM2 Q4_0 on pi5, 4 threads"."""
    model = " ".join(row[index] for index in used if index < _HOST and row[index])
    host = "".join(row[index] for index in used if index == _HOST)
    rest = [row[index] for index in used if index > _HOST and row[index]]
    first = f"{model} on {host}" if model and host else model or host
    return ", ".join([first, *rest] if first else rest) or "result"


def _numbered(spelt: Sequence[str]) -> tuple[str, ...]:
    total, seen = Counter(spelt), Counter[str]()
    taken, found = set(spelt), []
    for name in spelt:
        if total[name] > 1:
            seen[name] += 1
            while (numbered := f"{name} #{seen[name]}") in taken:
                seen[name] += 1
            name = numbered
            taken.add(name)
        found.append(name)
    return tuple(found)
