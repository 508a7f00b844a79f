"""Pictures of a mix and of what mixes cost, as SVG, PNG or PDF by the name of the file.

The background is transparent and the ink a middle grey, so that a picture reads on a light
page and on a dark one. matplotlib is an extra, `report`, and loaded only here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm.errors import InvalidOption, Unsupported, writing
from edgeslm.files import atomic_path, ensure_writable
from edgeslm.packager.quantize.explain import Explanation, Point, Series
from edgeslm.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

_INK = "#7d7d7d"
"""About 4:1 against white, 4.5:1 against near-black."""
_GRID = "#7d7d7d40"
_CROWDED = 0.07
"""Points nearer than this part of an axis get their labels on opposite sides."""
_COLORS = ("#2f7fd6", "#d9762b", "#2f9e6e", "#c2508f", "#8a6fd1", "#a38a1e")
_MARKS = ("o", "s", "^", "D", "v", "P")
_FORMATS = ("svg", "png", "pdf")
_STYLE = {
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "edgeslm",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def save_bits_plot(explanation: Explanation, path: Path) -> None:
    """Draw the bits of each role in each layer, and each layer's mean.

    Raises:
        InvalidOption: a file name that is no picture's, or a model without layers.
        Unsupported: matplotlib is not installed.
        OutputFailure: the file cannot be written.
    """
    if not explanation.layers:
        raise InvalidOption("the mix has no layers to draw", hint="Plot a whole model.")
    roles = list(explanation.cells)
    size = (max(6.0, 2.8 + 0.26 * len(explanation.layers)), 2.4 + 0.3 * len(roles))

    def draw(figure: Figure) -> None:
        heights = (1.0, max(1.2, 0.3 * len(roles)))
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=heights)
        _draw_means(above, explanation)
        mesh = _draw_cells(below, explanation, roles)
        bar = figure.colorbar(mesh, ax=[above, below], fraction=0.03, pad=0.02)
        bar.set_label("bits per weight")
        bar.outline.set_visible(False)

    _save(path, size, draw)


def save_pareto_plot(
    series: Sequence[Series], path: Path, *, loss: str = "KL divergence, nats per token"
) -> None:
    """Draw quality against size: a line for each series, a point for each file.

    Args:
        series: One to six; none of them empty.
        path: Where the picture goes.
        loss: What the points' loss is, with its unit.

    Raises:
        InvalidOption: a file name that is no picture's, or points that cannot be drawn.
        Unsupported: matplotlib is not installed.
        OutputFailure: the file cannot be written.
    """
    points = [point for entry in series for point in entry.points]
    if not 1 <= len(series) <= len(_COLORS) or any(not entry.points for entry in series):
        raise InvalidOption(
            f"{len(series)} series, some of them empty perhaps",
            hint=f"Give 1 to {len(_COLORS)} with a point at least.",
        )
    if not all(0 < point.loss < math.inf and point.file_bytes > 0 for point in points):
        raise InvalidOption(
            "a point has no loss above zero, or no size",
            hint="The axis is logarithmic: leave the reference itself out.",
        )
    _save(path, (7.2, 4.6), lambda figure: _draw_pareto(figure, series, loss))


def _draw_means(axes: Axes, explanation: Explanation) -> None:
    numbers = list(explanation.layers)
    bits = [explanation.layers[number].bits_per_weight for number in numbers]
    mean = explanation.total.bits_per_weight
    axes.bar(numbers, bits, width=0.8, color=_COLORS[0])
    axes.set_ylabel("bits per weight")
    axes.set_title(
        f"{explanation.model}: {format_bytes(explanation.total.bytes)} of weights, "
        f"{mean:.2f} bits per weight",
        loc="left",
        fontsize=10,
    )
    axes.set_ylim(0, max(bits) * 1.1)
    axes.locator_params(axis="y", nbins=3, integer=True)
    axes.tick_params(bottom=False)


def _draw_cells(axes: Axes, explanation: Explanation, roles: Sequence[str]) -> QuadMesh:
    numbers = list(explanation.layers)
    bits = [
        [
            part.bits_per_weight if (part := explanation.cells[role].get(number)) else math.nan
            for number in numbers
        ]
        for role in roles
    ]
    edges = [number - 0.5 for number in numbers] + [numbers[-1] + 0.5]
    rows = [index - 0.5 for index in range(len(roles) + 1)]
    mesh = axes.pcolormesh(edges, rows, bits, cmap="viridis", edgecolor="none", linewidth=0)
    axes.set_yticks(range(len(roles)), roles)
    axes.invert_yaxis()
    axes.set_xlabel("layer")
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return mesh


def _draw_pareto(figure: Figure, series: Sequence[Series], loss: str) -> None:
    axes = figure.subplots()
    divisor, unit = _unit(series)
    for index, entry in enumerate(series):
        points = sorted(entry.points, key=lambda point: point.file_bytes)
        axes.plot(
            [point.file_bytes / divisor for point in points],
            [point.loss for point in points],
            label=entry.name,
            color=_COLORS[index],
            marker=_MARKS[index],
            markersize=5,
            linewidth=1.5,
        )
        for point, below in zip(points, _sides(points, series), strict=True):
            _label(axes, point, divisor, _COLORS[index], below=below)
    axes.set_yscale("log")
    axes.set_xlabel(f"file size, {unit}")
    axes.set_ylabel(f"{loss} (log scale)")
    axes.grid(visible=True, which="major", color=_GRID, linewidth=0.6)
    _plain_ticks(axes)
    axes.margins(0.1, 0.12)
    if len(series) > 1:
        axes.legend(frameon=False)


def _sides(points: Sequence[Point], series: Sequence[Series]) -> list[bool]:
    """Whether each label goes below its point: where the next one would be in its way."""
    everything = [point for entry in series for point in entry.points]
    sizes = [point.file_bytes for point in everything]
    losses = [math.log(point.loss) for point in everything]
    width = max(sizes) - min(sizes) or 1
    height = max(losses) - min(losses) or 1.0
    crowded = [
        abs(one.file_bytes - other.file_bytes) < _CROWDED * width
        and abs(math.log(one.loss / other.loss)) < _CROWDED * height
        for one, other in itertools.pairwise(points)
    ]
    return [*crowded, False]


def _label(axes: Axes, point: Point, divisor: float, color: str, *, below: bool) -> None:
    axes.annotate(
        point.label,
        (point.file_bytes / divisor, point.loss),
        xytext=(-4, -5) if below else (4, 5),
        textcoords="offset points",
        ha="right" if below else "left",
        va="top" if below else "bottom",
        fontsize=8,
        color=color,
    )


def _unit(series: Sequence[Series]) -> tuple[float, str]:
    largest = max(point.file_bytes for entry in series for point in entry.points)
    return (1e9, "GB") if largest >= 2e9 else (1e6, "MB")


def _plain_ticks(axes: Axes) -> None:
    """0.02 instead of 2 x 10^-2."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _save(path: Path, size: tuple[float, float], draw: Callable[[Figure], None]) -> None:
    """Draw and write a picture, complete or not at all."""
    kind = _kind(path)
    mpl, figure_type = _matplotlib()
    with mpl.rc_context(_STYLE):
        figure = figure_type(figsize=size, layout="constrained")
        draw(figure)
        # no dates: the same figures give the same file
        dates = {"svg": "Date", "pdf": "CreationDate"}
        metadata = {dates[kind]: None} if kind in dates else None
        with atomic_path(path) as temporary, writing(path):
            figure.savefig(temporary, format=kind, dpi=160, metadata=metadata)


def ensure_drawable(path: Path) -> None:
    """Return if a picture can be written to `path`: to be asked before long work.

    Raises:
        InvalidOption: no kind of picture ends like that.
        Unsupported: matplotlib is not installed.
        OutputFailure: nothing can be written there.
    """
    _kind(path)
    _matplotlib()
    ensure_writable(path)


def _kind(path: Path) -> str:
    kind = path.suffix.lower().removeprefix(".")
    if kind not in _FORMATS:
        raise InvalidOption(
            f"{path}: not the name of a picture", hint=f"End it in .{', .'.join(_FORMATS)}."
        )
    return kind


def _matplotlib() -> tuple[Any, Any]:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Unsupported(
            "pictures need matplotlib, which is not installed",
            hint="Install it: pip install matplotlib",
        ) from error
    return mpl, Figure
