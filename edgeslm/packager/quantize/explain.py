"""Why a mix is what it is: what each role and layer got, and what that costs.

The solver spends bytes where they save the most loss. What it chose is shown by role (the
query matrices of all layers, say) and by layer, each with its share of the bytes and of the
loss that is predicted: a role that takes few bytes and most of the loss is where more bits
would help. `marginal` is the price at which the solver stopped: what one more byte would save.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeslm.gguf.reader import Header, TensorInfo
from edgeslm.gguf.types import TensorType
from edgeslm.units import format_bytes, significant

_LAYER = re.compile(r"blk\.(\d+)\.(.+?)(?:\.weight)?")
_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Part:
    """Some tensors taken together."""

    types: Mapping[str, int]
    """How many tensors have each type, the commonest first."""
    elements: int
    bytes: int
    loss: float | None
    """Sum of the predicted losses; None where the solver had none for these tensors."""

    @property
    def bits_per_weight(self) -> float:
        """Bytes * 8 / elements."""
        return self.bytes * 8 / self.elements


@dataclass(frozen=True)
class Explanation:
    """A mix in figures; shares are fractions of `total`."""

    model: str
    total: Part
    roles: Mapping[str, Part]
    """By what follows `blk.N.` in a name, or the name itself; the most bytes first."""
    layers: Mapping[int, Part]
    """By number, rising."""
    cells: Mapping[str, Mapping[int, Part]]
    """By role and layer, in the order of `roles`."""
    marginal: float | None
    """Loss that one more byte would save, as the solver prices it."""


def explain(
    header: Header,
    types: Mapping[str, TensorType],
    losses: Mapping[str, float],
    marginal: float | None = None,
) -> Explanation:
    """Sum up a mix.

    Args:
        header: The model that is quantized.
        types: The tensors that were up for choice, with their types; the others don't count.
        losses: The loss that is predicted for each of them at its type.
        marginal: The solver's price, loss per byte, where it has one.

    Raises:
        ValueError: none of the tensors is in the model.
    """
    tensors = [tensor for tensor in header.tensors if tensor.name in types]
    if not tensors:
        raise ValueError("none of the tensors is in the model")
    grouped: defaultdict[str, list[TensorInfo]] = defaultdict(list)
    layers: defaultdict[int, list[TensorInfo]] = defaultdict(list)
    for tensor in tensors:
        role, layer = _place(tensor.name)
        grouped[role].append(tensor)
        if layer is not None:
            layers[layer].append(tensor)

    def part(chosen: Sequence[TensorInfo]) -> Part:
        return _part(chosen, types, losses)

    roles = {role: part(found) for role, found in grouped.items()}
    order = sorted(roles, key=lambda role: -roles[role].bytes)
    name = header.get("general.name")
    return Explanation(
        model=name if isinstance(name, str) else header.path.name,
        total=part(tensors),
        roles={role: roles[role] for role in order},
        layers={number: part(layers[number]) for number in sorted(layers)},
        cells={
            role: {
                layer: part([tensor])
                for tensor in grouped[role]
                if (layer := _place(tensor.name)[1]) is not None
            }
            for role in order
            if _place(grouped[role][0].name)[1] is not None
        },
        marginal=marginal,
    )


def _part(
    tensors: Sequence[TensorInfo], types: Mapping[str, TensorType], losses: Mapping[str, float]
) -> Part:
    known = [losses[tensor.name] for tensor in tensors if tensor.name in losses]
    return Part(
        types=dict(Counter(types[tensor.name].name for tensor in tensors).most_common()),
        elements=sum(tensor.elements for tensor in tensors),
        bytes=sum(types[tensor.name].bytes_for(tensor.shape) for tensor in tensors),
        loss=sum(known) if known else None,
    )


def _place(name: str) -> tuple[str, int | None]:
    """Role and layer of a tensor."""
    found = _LAYER.fullmatch(name)
    return (found[2], int(found[1])) if found else (name.removesuffix(".weight"), None)


ROLE_HEADER = ("role", "types", "bits", "bytes", "of bytes", "of loss")


def role_table(explanation: Explanation) -> list[tuple[str, ...]]:
    """A row for each role under ROLE_HEADER, and one for all of them."""
    total = explanation.total
    rows = [_row(role, part, total) for role, part in explanation.roles.items()]
    return [*rows, _row("all", total, total)]


def _row(title: str, part: Part, total: Part) -> tuple[str, ...]:
    types = ", ".join(f"{count} x {name}" for name, count in part.types.items())
    loss = "-" if part.loss is None or not total.loss else f"{part.loss / total.loss:.1%}"
    return (
        title,
        types,
        f"{part.bits_per_weight:.2f}",
        format_bytes(part.bytes),
        f"{part.bytes / total.bytes:.1%}",
        loss,
    )


def layer_plot(explanation: Explanation) -> list[str]:
    """Bits by layer as lines for a terminal: one for each role, one for the whole layer.

    A column is a layer, as high as its bits between the least and the most of the whole plot.
    """
    if not explanation.layers:
        return []
    numbers = list(explanation.layers)
    rows = {**explanation.cells, "all": explanation.layers}
    bits = [part.bits_per_weight for row in rows.values() for part in row.values()]
    low, high = min(bits), max(bits)
    width = max(map(len, rows))
    lines = [f"bits per weight by layer, {numbers[0]} to {numbers[-1]} ({low:.2f} to {high:.2f})"]
    for role, row in rows.items():
        columns = "".join(_column(row.get(number), low, high) for number in numbers)
        size = sum(part.bytes for part in row.values())
        mean = size * 8 / sum(part.elements for part in row.values())
        lines.append(f"{role:{width}}  {columns}  {mean:.2f}")
    return lines


def _column(part: Part | None, low: float, high: float) -> str:
    if part is None:
        return _BLOCKS[0]
    above = (part.bits_per_weight - low) / (high - low) if high > low else 0.5
    return _BLOCKS[1 + round(above * 7)]


def marginal_text(explanation: Explanation) -> str | None:
    """What one more megabyte would save, in a sentence; None where the solver has no price."""
    if explanation.marginal is None:
        return None
    saved = explanation.marginal * 1e6
    text = f"one more megabyte would save about {significant(saved)} of the predicted loss"
    if explanation.total.loss:
        text += f" ({saved / explanation.total.loss:.1%})"
    return text


@dataclass(frozen=True)
class Point:
    """One file in a plot of quality against size."""

    label: str
    file_bytes: int
    loss: float
    """Lower is better, above zero: the axis is logarithmic."""


@dataclass(frozen=True)
class Series:
    """Files that belong together: one method, one line."""

    name: str
    points: Sequence[Point]
