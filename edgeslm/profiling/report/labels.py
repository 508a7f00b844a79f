"""Where labels go so that they cover neither each other nor a point; pure.

Each label tries the places around its point, nearest first, and takes the first that is free. One
that finds none is left out: its point still has its name for those who point at it, and the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_WIDE, _NARROW = frozenset("mwMW%@—"), frozenset("iljtfI.,:;'|!()[] ")
_HEIGHT = 1.15
_GAP = 7.0
_POINT = 5.5
"""Half the side of the square that a point takes."""
_DISTANCES = (1.0, 1.9, 3.0)
_PLACES = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether they share more than an edge."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def inside(self, other: Box) -> bool:
        """Whether it lies in the other one whole."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True)
class Placed:
    """A label that has a place: the middle of its left edge, and whether it needs a line."""

    index: int
    box: Box
    is_far: bool


def text_width(text: str, size: float) -> float:
    """About how wide a text is in a font of that size; rather too wide than too narrow."""
    units = sum(
        0.95 if c in _WIDE or ord(c) > 0x2E80 else 0.36 if c in _NARROW else 0.63 for c in text
    )
    return units * size


def shortened(text: str, size: float, width: float) -> str:
    """`text`, or as much of its beginning and end as fits into `width`."""
    if text_width(text, size) <= width:
        return text
    for keep in range(len(text) - 1, 1, -1):
        head, tail = (keep + 1) // 2, keep // 2
        short = f"{text[:head]}…{text[len(text) - tail :]}"
        if text_width(short, size) <= width:
            return short
    return "…"


def place(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    bounds: Box,
    size: float,
    avoid: Sequence[Box] = (),
) -> tuple[Placed, ...]:
    """Places for the labels of points, in the order of the points, as far as there is room.

    Args:
        points: The middle of each.
        texts: Their labels; an empty one wants no place.
        bounds: No label may leave it.
        size: Of the font.
        avoid: Places that are taken already.
    """
    taken = [*avoid, *(Box(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in points)]
    placed = []
    for index, ((x, y), text) in enumerate(zip(points, texts, strict=True)):
        if not text:
            continue
        width, height = text_width(text, size), _HEIGHT * size
        for distance, (across, down) in ((d, p) for d in _DISTANCES for p in _PLACES):
            box = _box(x, y, width, height, across, down, distance * _GAP)
            if box.inside(bounds) and not any(box.meets(other) for other in taken):
                taken.append(box)
                placed.append(Placed(index, box, distance > 1))
                break
    return tuple(placed)


def spread(places: Sequence[float], gap: float, low: float, high: float) -> tuple[float, ...]:
    """The same places moved apart so that neighbours are `gap` apart, in their order.

    What does not fit between `low` and `high` is squeezed evenly.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    gap = min(gap, (high - low) / max(len(places) - 1, 1))
    moved = [0.0] * len(places)
    floor = low
    for index in order:
        moved[index] = floor = max(places[index], floor)
        floor += gap
    ceiling = high
    for index in reversed(order):
        moved[index] = ceiling = min(moved[index], ceiling)
        ceiling -= gap
    return tuple(moved)


def _box(
    x: float, y: float, width: float, height: float, across: int, down: int, gap: float
) -> Box:
    side = gap if not down else gap * 0.6
    left = x + side if across > 0 else x - side - width if across < 0 else x - width / 2
    top = y - height / 2 + down * (gap + height / 2 if not across else height * 0.6 + gap / 3)
    return Box(left, top, left + width, top + height)
