r"""Rules that give tensors their types: patterns of names, and a mapping as few rules.

A pattern is a tensor's name in which may stand

    *            any characters but a dot: one part of the name, or a piece of it
    **           any characters
    {0..3,29}    one of these: whole numbers, ranges of them, or words: {attn_q,attn_k}
    \x           the character x itself, whatever it means elsewhere

The first rule whose pattern matches decides.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from edgeslm.gguf.types import TensorType

_MAX_PATTERN = 500
_MAX_STARS = 4
"""Bounds the time a match can take."""
_MAX_RANGE = 10_000
_PIECE = re.compile(r"\\(?P<escaped>.)|(?P<stars>\*{1,2})|\{(?P<items>[^{}]*)\}|(?P<plain>.)", re.S)
_ITEM = re.compile(r"(?P<first>0|[1-9]\d{0,8})\.\.(?P<last>0|[1-9]\d{0,8})|[\w-]+", re.ASCII)
_SPECIAL = re.compile(r"[\\*{}]")
_LAYER = re.compile(r"blk\.(0|[1-9]\d{0,3})\.(.+)", re.DOTALL | re.ASCII)
_ROLE = re.compile(r"([\w-]+)\.weight", re.ASCII)


@dataclass(frozen=True)
class Rule:
    """Tensors whose names match the pattern `tensors` get `type`."""

    tensors: str
    type: TensorType


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern is for the tensor `name`.

    Raises:
        ValueError: the pattern is malformed; `pattern_problem` says how.
    """
    return _compiled(pattern).fullmatch(name) is not None


def rule_for(rules: Sequence[Rule], name: str) -> Rule | None:
    """The first rule that is for the tensor `name`."""
    return next((rule for rule in rules if matches(rule.tensors, name)), None)


def pattern_problem(pattern: str) -> str | None:
    """What is wrong with a pattern, in words; None where nothing is."""
    try:
        _compiled(pattern)
    except ValueError as error:
        return str(error)
    return None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    if not pattern or len(pattern) > _MAX_PATTERN:
        raise ValueError(f"must have 1 to {_MAX_PATTERN} characters")
    pieces = list(_PIECE.finditer(pattern))
    if sum(piece["stars"] is not None for piece in pieces) > _MAX_STARS:
        raise ValueError(f"has more than {_MAX_STARS} stars")
    return re.compile("".join(map(_regex, pieces)), re.DOTALL)


def _regex(piece: re.Match[str]) -> str:
    if piece["stars"] is not None:
        return ".*" if len(piece["stars"]) > 1 else r"[^.]*"
    if piece["items"] is not None:
        return f"(?:{'|'.join(_choices(piece['items']))})"
    plain = piece["plain"]
    if plain is not None and plain in "\\{}":
        raise ValueError(f"has a {plain} that belongs to nothing; write \\{plain} for itself")
    return re.escape(piece["escaped"] or plain)


def _choices(text: str) -> list[str]:
    """What a {list} stands for, as regular expressions."""
    choices: list[str] = []
    for item in text.split(","):
        found = _ITEM.fullmatch(item.strip(" "))
        if found is None:
            raise ValueError(f"has {item.strip()!r} in braces, which is no number, range or word")
        if found["first"] is None:
            choices.append(re.escape(found[0]))
            continue
        first, last = int(found["first"]), int(found["last"])
        if not 0 <= last - first < _MAX_RANGE:
            raise ValueError(f"has the range {found[0]}, which is backwards or too long")
        choices += map(str, range(first, last + 1))
    return choices


def compress(types: Mapping[str, TensorType]) -> tuple[Rule, ...]:
    """Few rules that give every tensor in `types` exactly its type.

    Tensors outside the layers come first, by name. A role (what follows `blk.N.`) gets a rule
    with a star for the type most of its layers have, after rules that list its other layers.
    Roles that agree share a rule.
    """
    single: list[Rule] = []
    roles: defaultdict[str, dict[int, TensorType]] = defaultdict(dict)
    for name, kind in types.items():
        if layered := _LAYER.fullmatch(name):
            roles[layered[2]][int(layered[1])] = kind
        else:
            single.append(Rule(_literal(name), kind))
    shared: defaultdict[tuple[str, TensorType], list[str]] = defaultdict(list)
    for role, layers in roles.items():
        for numbers, kind in _by_type(layers):
            shared[numbers, kind].append(role)
    listed = [
        Rule(f"blk.{numbers}.{joined}", kind)
        for (numbers, kind), names in shared.items()
        for joined in _joined(names)
    ]
    return (*single, *sorted(listed, key=lambda rule: rule.tensors.startswith("blk.*.")))


def _by_type(layers: Mapping[int, TensorType]) -> list[tuple[str, TensorType]]:
    """Which layers have which type; the commonest type has a star for its layers."""
    counts = Counter(layers.values())
    commonest = max(counts, key=lambda kind: (counts[kind], -kind.id))
    by_type: defaultdict[TensorType, list[int]] = defaultdict(list)
    for number in sorted(layers):
        by_type[layers[number]].append(number)
    return [
        ("*" if kind == commonest else _numbers(numbers), kind) for kind, numbers in by_type.items()
    ]


def _numbers(numbers: Iterable[int]) -> str:
    """Rising numbers as a pattern: 7, or {0..3,29}."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    items = [f"{first}..{last}" if last > first + 1 else f"{first},{last}" for first, last in runs]
    items = [
        item if first != last else str(first)
        for item, (first, last) in zip(items, runs, strict=True)
    ]
    single = len(runs) == 1 and runs[0][0] == runs[0][1]
    return items[0] if single else "{" + ",".join(items) + "}"


def _joined(roles: Sequence[str]) -> list[str]:
    """Roles as patterns: attn_q.weight and attn_k.weight become {attn_q,attn_k}.weight."""
    words = [found[1] for role in roles if (found := _ROLE.fullmatch(role))]
    others = [_literal(role) for role in roles if not _ROLE.fullmatch(role)]
    if len(words) > 1:
        return [f"{{{','.join(words)}}}.weight", *others]
    return [*(f"{word}.weight" for word in words), *others]


def _literal(name: str) -> str:
    """A pattern that matches `name` alone."""
    return _SPECIAL.sub(r"\\\g<0>", name)
