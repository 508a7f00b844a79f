"""What charts are drawn of: axes, marks, text, as SVG that takes its colours from the page.

A chart is 360 units wide, about what a phone has, so that its text is as large as the page's
everywhere. Colours are classes; the page has them twice, for light and for dark. Shapes differ too,
for those who see no colours and for printers that have none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeslm.profiling.report.labels import Placed, shortened, text_width
from edgeslm.profiling.report.markup import Markup, join, tag
from edgeslm.profiling.report.scales import Scale, tick_text

WIDTH = 360.0
FONT = 11.0
SMALL = 10.0
COLORS = 6
_R = 4.6


@dataclass(frozen=True)
class Chart:
    """A picture with what it shows in words.

    Attributes:
        title: Above it.
        caption: Below it; what to look for.
        description: For who hears the page instead of seeing it.
        svg: The picture.
    """

    title: str
    caption: str
    description: str
    svg: Markup


@dataclass(frozen=True)
class Style:
    """How a series looks: one of `COLORS` colours, one of as many shapes."""

    color: int
    shape: int

    @property
    def css(self) -> str:
        """The class of its colour."""
        return f"s{self.color}"


def picture(height: float, title: str, description: str, *parts: str) -> Markup:
    """A whole picture."""
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        *parts,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_label=f"{title}. {description}",
    )


def text(x: float, y: float, words: str, css: str = "", anchor: str = "start") -> Markup:
    """Text whose baseline begins, ends or has its middle at a place."""
    place = None if anchor == "start" else anchor
    return tag("text", words, x=x, y=y, class_=css or None, text_anchor=place)


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=css)


def path(points: Sequence[tuple[float, float]], css: str) -> Markup:
    """A line through points."""
    corners = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return tag("path", d=f"M{corners}", class_=css)


def rectangle(x: float, y: float, width: float, height: float, css: str, hint: str = "") -> Markup:
    """A filled rectangle; `hint` is shown to who points at it."""
    hints = (tag("title", hint),) if hint else ()
    return tag("rect", *hints, x=x, y=y, width=max(width, 0.0), height=height, class_=css)


def mark(x: float, y: float, style: Style, hint: str, css: str = "mark") -> Markup:
    """A point of a series."""
    return tag("path", tag("title", hint), d=_shape(x, y, style.shape), class_=f"{css} {style.css}")


def _shape(x: float, y: float, shape: int) -> str:
    r = _R
    if shape == 0:
        return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
    if shape == 1:
        s = r * 0.88
        return f"M{x - s:.1f} {y - s:.1f}h{2 * s:.1f}v{2 * s:.1f}h{-2 * s:.1f}z"
    sides, turn = {2: (3, -90.0), 3: (4, 0.0), 4: (3, 90.0), 5: (5, -90.0)}[shape % COLORS]
    r *= 1.25
    angles = [math.radians(turn + 360 / sides * corner) for corner in range(sides)]
    corners = "L".join(f"{x + r * math.cos(a):.1f} {y + r * math.sin(a):.1f}" for a in angles)
    return f"M{corners}z"


def x_axis(axis: Scale, top: float, bottom: float, name: str) -> Markup:
    """Grid lines, ticks and the name below."""
    parts = []
    largest = max(map(abs, axis.ticks), default=0)
    for tick in axis.ticks:
        x = axis(tick)
        parts.append(line(x, top, x, bottom, "grid"))
        parts.append(text(x, bottom + 14, tick_text(tick, largest), "tick", "middle"))
    parts.append(text(WIDTH - 2, bottom + 30, name, "axis", "end"))
    return join(*parts)


def y_axis(axis: Scale, left: float, right: float, name: str) -> Markup:
    """Grid lines, ticks and the name above, to be read without turning the head."""
    parts = []
    largest = max(map(abs, axis.ticks), default=0)
    for tick in axis.ticks:
        y = axis(tick)
        parts.append(line(left, y, right, y, "grid"))
        parts.append(text(left - 6, y + 3.5, tick_text(tick, largest), "tick", "end"))
    parts.append(text(2, 12, name, "axis"))
    return join(*parts)


def label(
    placed: Placed, point: tuple[float, float], words: str, style: Style, css: str = "label"
) -> Markup:
    """A placed label, with a line to its point if that is not beside it."""
    box = placed.box
    lead = ""
    if placed.is_far:
        x = min(max(point[0], box.left), box.right)
        y = min(max(point[1], box.top), box.bottom)
        lead = line(point[0], point[1], x, y, "lead")
    return join(lead, text(box.left, box.bottom - 3.2, words, f"{css} {style.css}"))


def legend(items: Sequence[tuple[str, str]], width: float, y: float) -> tuple[Markup, float]:
    """Coloured squares with words, in as many lines as they take; and where the next line would be.

    Args:
        items: Words, and the class of the colour.
        width: Of a line.
        y: The baseline of the first line.
    """
    parts, x = [], 0.0
    for words, css in items:
        words = shortened(words, SMALL, width - 20)
        needed = 15 + text_width(words, SMALL) + 8
        if x > 0 and x + needed > width:
            x, y = 0.0, y + 15
        parts.append(rectangle(x, y - 8, 9, 9, css))
        parts.append(text(x + 14, y, words, "tick"))
        x += needed
    return join(*parts), y + 15
