"""A mix of types as a small file: which tensors get which type, and how to get there again.

A recipe is TOML that people can read and change. Its rules are tried in order, and the first
whose pattern matches a tensor decides. What a mix was made for (model, budget, measured loss)
is written beside the rules, and so are the options that make a second run give the same bytes.

    schema = "edgeslm.recipe/1"
    name = "SmolLM2 in 90 MB"

    [made_for]
    model = "SmolLM2 135M Instruct"
    size_bytes = 90000000

    [replay]
    encoder = "ggml"

    [[rule]]
    tensors = "blk.{0..3,29}.attn_v.weight"
    type = "Q5_1"
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from edgeslm.errors import InvalidOption, InvalidRecipe, Unsupported, reading, writing
from edgeslm.files import atomic_path
from edgeslm.gguf.reader import Header, TensorInfo
from edgeslm.gguf.types import TENSOR_TYPES, TensorType, tensor_type
from edgeslm.packager.quantize.rules import Rule, compress, pattern_problem, rule_for
from edgeslm.packager.quantize.types import nearest_type, type_info
from edgeslm.records import RECIPE_SCHEMA

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["MadeFor", "Recipe", "Replay", "Rule", "compress", "load_recipe", "save_recipe"]

ENCODERS = ("ggml", "error-feedback")
_MAX_BYTES = 2**20
_HINT = "docs/quantize.md shows the form."


@dataclass(frozen=True)
class MadeFor:
    """What a recipe was made for, as far as it is known. It is never needed to apply it."""

    model: str | None = None
    """The model's own name."""
    source_sha256: str | None = None
    """Of the file that was quantized."""
    size_bytes: int | None = None
    """The budget, if it was a size."""
    bits_per_weight: float | None = None
    """The budget, if it was a width."""
    predicted_kld: float | None = None
    """Nats of KL divergence the solver expected."""
    measured_kld: float | None = None
    """Nats of KL divergence that were measured on the finished file."""
    calibration_sha256: str | None = None
    """Of the calibration text."""


@dataclass(frozen=True)
class Replay:
    """How the bytes were made. The same options, text and machine make the same ones again."""

    encoder: str | None = None
    """One of ENCODERS; "ggml" needs no calibration."""
    damping: float | None = None
    """For error feedback: what is added to the diagonal, relative to its mean."""
    calibration_tokens: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Recipe:
    """A chosen mix of types."""

    name: str
    rules: tuple[Rule, ...]
    made_for: MadeFor = field(default_factory=MadeFor)
    replay: Replay = field(default_factory=Replay)

    def types_for(
        self, header: Header, names: Collection[str] | None = None
    ) -> dict[str, TensorType]:
        """The type of each tensor, in file order.

        Args:
            header: The model that is to be quantized.
            names: The tensors that need a type, as `quantizable_tensors` finds them. By
                default all matrices called `*.weight` that are no norms.

        Raises:
            InvalidRecipe: no rule is for a tensor, or its type does not fit the width; the
                message names the tensor and the nearest type that fits.
            Unsupported: a type that no weight can have.
        """
        wanted = [
            tensor
            for tensor in header.tensors
            if (_is_matrix(tensor) if names is None else tensor.name in names)
        ]
        return {tensor.name: self._type_of(tensor) for tensor in wanted}

    def _type_of(self, tensor: TensorInfo) -> TensorType:
        rule = rule_for(self.rules, tensor.name)
        if rule is not None:
            _refuse_unfit(self.name, rule, tensor)
            return rule.type
        raise InvalidRecipe(
            f"recipe {self.name!r}: no rule is for tensor {tensor.name}",
            hint=f'Add one with tensors = "{tensor.name}", or "**" for all that are left.',
        )


def _is_matrix(tensor: TensorInfo) -> bool:
    plain = tensor.name.endswith("weight") and "_norm.weight" not in tensor.name
    return plain and sum(size > 1 for size in tensor.shape) > 1


def _refuse_unfit(recipe: str, rule: Rule, tensor: TensorInfo) -> None:
    if not type_info(rule.type).encodable:
        raise Unsupported(
            f"recipe {recipe!r}: rule {rule.tensors!r} gives {tensor.name} the type "
            f"{rule.type.name}, which no weight can have",
            hint="`edgeslm inspect --types` lists the types.",
        )
    if not rule.type.fits(tensor.shape):
        nearest = nearest_type(rule.type, tensor.shape, importance=True)
        raise InvalidRecipe(
            f"recipe {recipe!r}: rule {rule.tensors!r} gives {tensor.name} the type "
            f"{rule.type.name}, but its rows of {tensor.shape[0]} are no multiple of "
            f"{rule.type.block_elements}",
            hint=f"The nearest type that fits is {nearest.name}.",
        )


# Files


def save_recipe(path: Path, recipe: Recipe) -> None:
    """Write `recipe` to `path`, complete or not at all.

    Raises:
        OutputFailure: the file cannot be written.
    """
    with atomic_path(path) as temporary, writing(path):
        temporary.write_text(recipe_text(recipe), encoding="utf-8")


def recipe_text(recipe: Recipe) -> str:
    """The recipe as TOML."""
    lines = [f"schema = {_toml(RECIPE_SCHEMA)}", f"name = {_toml(recipe.name)}"]
    for title, table in (("made_for", recipe.made_for), ("replay", recipe.replay)):
        known = {
            key: value for key, value in dataclasses.asdict(table).items() if value is not None
        }
        lines += ["", f"[{title}]", *(f"{key} = {_toml(value)}" for key, value in known.items())]
    for rule in recipe.rules:
        lines += ["", "[[rule]]", f"tensors = {_toml(rule.tensors)}"]
        lines += [f"type = {_toml(rule.type.name)}"]
    return "\n".join(lines) + "\n"


def _toml(value: str | float) -> str:
    return '"' + "".join(map(_escaped, value)) + '"' if isinstance(value, str) else repr(value)


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"


def load_recipe(path: Path) -> Recipe:
    """Read a recipe, strictly: a key it does not know is an error.

    Raises:
        InvalidRecipe: the file breaks the form; the message names the line or the key.
        NotFound: there is no such file.
    """
    with reading(path), path.open("rb") as stream:
        raw = stream.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise InvalidRecipe(f"{path}: over {_MAX_BYTES} bytes, so no recipe", hint=_HINT)
    try:
        text = raw.decode("utf-8")
        content: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRecipe(f"{path}: not a TOML file: {error}", hint=_HINT) from error
    return _Reader(path, text).recipe(content)


class _Reader:
    """Turns what TOML holds into a recipe; each complaint names the line where that is known."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()

    def recipe(self, content: Mapping[str, Any]) -> Recipe:
        self._known(content, ("schema", "name", "made_for", "replay", "rule"), "")
        if content.get("schema") != RECIPE_SCHEMA:
            found = content.get("schema")
            self._fail("schema", f"is {found!r}; this version reads {RECIPE_SCHEMA!r}")
        name = content.get("name")
        if not isinstance(name, str) or not name:
            self._fail("name", "must be a text")
        rules = content.get("rule", [])
        if not isinstance(rules, list) or not rules:
            self._fail("rule", "must be a list of [[rule]] tables, and not an empty one")
        replay = self._options(Replay, "replay", content)
        if replay.encoder is not None and replay.encoder not in ENCODERS:
            self._fail("replay.encoder", f"must be one of {', '.join(ENCODERS)}")
        return Recipe(
            name=name,
            rules=tuple(self._rule(index, rule) for index, rule in enumerate(rules)),
            made_for=self._options(MadeFor, "made_for", content),
            replay=replay,
        )

    def _options(self, kind: type[Any], title: str, content: Mapping[str, Any]) -> Any:
        """A table whose keys are the fields of a dataclass, with values of their types."""
        table = content.get(title, {})
        if not isinstance(table, dict):
            self._fail(title, "must be a table")
        fields = {entry.name: str(entry.type) for entry in dataclasses.fields(kind)}
        self._known(table, tuple(fields), f"{title}.")
        for key, value in table.items():
            self._check(f"{title}.{key}", value, fields[key])
        return kind(**table)

    def _check(self, key: str, value: Any, kind: str) -> None:
        if kind.startswith("str"):
            if not isinstance(value, str):
                self._fail(key, "must be a text")
            if key.endswith("sha256") and not re.fullmatch(r"[0-9a-f]{64}", value):
                self._fail(key, "must be 64 hexadecimal digits")
            return
        whole = kind.startswith("int")
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            self._fail(key, f"must be a {'whole ' if whole else ''}number")
        if not 0 <= value < math.inf:
            self._fail(key, "must not be negative")

    def _rule(self, index: int, rule: Any) -> Rule:
        key = f"rule {index + 1}"
        if not isinstance(rule, dict):
            self._fail(key, "must be a [[rule]] table")
        self._known(rule, ("tensors", "type"), f"{key}: ")
        for name in ("tensors", "type"):
            if not isinstance(rule.get(name), str):
                self._fail(f"{key}: {name}", "must be a text")
        if problem := pattern_problem(rule["tensors"]):
            self._fail(f"{key}: tensors", problem)
        try:
            kind = tensor_type(rule["type"])
        except InvalidOption:
            names = [item.name for item in TENSOR_TYPES.values()]
            close = difflib.get_close_matches(rule["type"].upper(), names, n=3, cutoff=0.5)
            self._fail(
                f"{key}: type",
                f"is {rule['type']!r}, which is no tensor type",
                f"Did you mean {' or '.join(close)}?"
                if close
                else f"There are {', '.join(names)}.",
            )
        return Rule(rule["tensors"], kind)

    def _known(self, table: Mapping[str, Any], keys: tuple[str, ...], prefix: str) -> None:
        for key in table:
            if key not in keys:
                hint = f"Known here: {', '.join(keys)}. {_HINT}"
                self._fail(f"{prefix}{key}", "is not a known key", hint)

    def _fail(self, key: str, problem: str, hint: str = _HINT) -> NoReturn:
        line = self._line(key)
        place = f"{self._path}:{line}" if line else f"{self._path}"
        raise InvalidRecipe(f"{place}: {key} {problem}", hint=hint)

    def _line(self, key: str) -> int | None:
        """The line of "rule 2: type", "replay.encoder" or "name"; None where it is not plain."""
        table, _, name = key.rpartition(": ") if ": " in key else key.rpartition(".")
        start, numbered = 0, re.fullmatch(r"rule (\d+)", table or key)
        heads = [index for index, line in enumerate(self._lines) if line.strip() == "[[rule]]"]
        if numbered:
            if int(numbered[1]) > len(heads):
                return None
            start = heads[int(numbered[1]) - 1]
        elif table:
            titles = (
                index for index, line in enumerate(self._lines) if line.strip() == f"[{table}]"
            )
            start = next(titles, 0)
        for index in range(start, len(self._lines)):
            if re.match(rf"\s*{re.escape(name)}\s*=", self._lines[index]):
                return index + 1
            if numbered and index > start and self._lines[index].lstrip().startswith("["):
                break
        return start + 1 if numbered else None
