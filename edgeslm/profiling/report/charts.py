"""The charts of a report: who beats whom in two respects, and bars, lines and parts of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgeslm.profiling.measurement import MemoryUse, Speed
from edgeslm.profiling.report.content import Entry
from edgeslm.profiling.report.drawing import (
    COLORS,
    FONT,
    SMALL,
    WIDTH,
    Chart,
    Style,
    label,
    legend,
    line,
    mark,
    path,
    picture,
    rectangle,
    text,
    x_axis,
    y_axis,
)
from edgeslm.profiling.report.labels import Box, place, shortened, spread, text_width
from edgeslm.profiling.report.markup import Markup, join, tag
from edgeslm.profiling.report.measures import (
    DECODE,
    ENERGY,
    MEMORY,
    Measure,
    energy_is_comparable,
    front,
    quality_measure,
)
from edgeslm.profiling.report.scales import scale
from edgeslm.profiling.results import ResultDepth
from edgeslm.units import format_bytes, significant

_MOST_LABELS = 14
_MOST_LINES = 8
_MOST_BARS = 40
_ROW = 33.0
_PARTS: tuple[tuple[str, str, Callable[[MemoryUse], int | None]], ...] = (
    ("weights", "m0", lambda memory: memory.weights_resident_bytes),
    ("weights copied", "m1", lambda memory: memory.weights_copied_bytes),
    ("KV cache", "m2", lambda memory: memory.kv_bytes),
    ("compute", "m3", lambda memory: memory.compute_bytes),
    ("Python, before loading", "m4", lambda memory: memory.before_load_rss_bytes),
)
_REST = ("rest of the peak", "m5")


def styles(entries: Sequence[Entry]) -> tuple[tuple[Style, ...], tuple[tuple[str, str], ...]]:
    """How each entry looks, and a legend where the looks stand for groups of entries.

    Few entries have a look each; many share that of their machine or else of their model.
    """
    if len(entries) <= COLORS:
        return tuple(Style(index, index) for index in range(len(entries))), ()
    hosts = list(dict.fromkeys(each.host for each in entries))
    models = list(dict.fromkeys(each.result.model.label for each in entries))
    by_host = len(hosts) > 1
    groups = hosts if by_host else models
    places = [groups.index(each.host if by_host else each.result.model.label) for each in entries]
    found = tuple(Style(at % COLORS, (at + at // COLORS) % COLORS) for at in places)
    named = tuple((name, f"s{at % COLORS}") for at, name in enumerate(groups))
    return found, named if len(groups) > 1 else ()


def trade_offs(entries: Sequence[Entry], looks: Sequence[Style]) -> tuple[Chart, ...]:
    """Every pair of measures that at least two entries have, and that says something."""
    results = [each.result for each in entries]
    quality = quality_measure(results)
    pairs = [(DECODE, quality), (MEMORY, quality), (MEMORY, DECODE)]
    if energy_is_comparable(results):
        pairs += [(ENERGY, quality), (ENERGY, DECODE)]
    found = [trade_off(entries, looks, one, other) for one, other in pairs]
    return tuple(each for each in found if each is not None)


def trade_off(
    entries: Sequence[Entry], looks: Sequence[Style], one: Measure, other: Measure
) -> Chart | None:
    """Two measures against each other; who is beaten in both is faded. None for fewer than two."""
    shown = [
        (index, a / one.divisor, b / other.divisor)
        for index, each in enumerate(entries)
        if (a := one.value(each.result)) is not None and (b := other.value(each.result)) is not None
    ]
    if len({(a, b) for _, a, b in shown}) < 2:
        return None
    best = front([each.result for each in entries], one, other)
    left, top, right, bottom = 44.0, 24.0, WIDTH - 10, 240.0
    across = scale([a for _, a, _ in shown], left, right, may_be_log=True, margin=0.12)
    up = scale([b for _, _, b in shown], bottom, top, may_be_log=True, margin=0.12)
    points = [(across(a), up(b)) for _, a, b in shown]
    corner = _corner(one, other, left, top, right, bottom)
    title = f"{_first_upper(other.name)} against {one.name}"
    undominated = [entries[index].name for index, _, _ in shown if index in best]
    description = f"Not beaten in both by any other: {', '.join(undominated)}."
    parts = [
        x_axis(across, top, bottom, one.axis),
        y_axis(up, left, right, other.axis),
        corner[0],
        path(_front_line(shown, points, best), "front"),
        *_points(entries, looks, shown, points, best, one, other),
        *_point_labels(
            entries, looks, shown, points, best, corner[1], Box(left, top, right, bottom)
        ),
    ]
    return Chart(title, description, description, picture(278, title, description, *parts))


def _front_line(
    shown: Sequence[tuple[int, float, float]],
    points: Sequence[tuple[float, float]],
    best: frozenset[int],
) -> list[tuple[float, float]]:
    return sorted(
        point for (index, _, _), point in zip(shown, points, strict=True) if index in best
    )


def _points(
    entries: Sequence[Entry],
    looks: Sequence[Style],
    shown: Sequence[tuple[int, float, float]],
    points: Sequence[tuple[float, float]],
    best: frozenset[int],
    one: Measure,
    other: Measure,
) -> list[Markup]:
    found = []
    for (index, a, b), (x, y) in zip(shown, points, strict=True):
        hint = (
            f"{entries[index].name}: {one.text(a * one.divisor)}, {other.text(b * other.divisor)}"
        )
        css = "mark" if index in best else "mark beaten"
        found.append(mark(x, y, looks[index], hint, css))
    return found


def _point_labels(
    entries: Sequence[Entry],
    looks: Sequence[Style],
    shown: Sequence[tuple[int, float, float]],
    points: Sequence[tuple[float, float]],
    best: frozenset[int],
    corner: Box,
    bounds: Box,
) -> list[Markup]:
    """Of all points, or of the front alone where there are many; the front has the first choice."""
    many = len(shown) > _MOST_LABELS
    order = sorted(range(len(shown)), key=lambda at: shown[at][0] not in best)
    words = [
        ""
        if many and shown[at][0] not in best
        else shortened(entries[shown[at][0]].name, FONT, 130)
        for at in order
    ]
    placed = place([points[at] for at in order], words, bounds, FONT, avoid=(corner,))
    return [
        label(
            each,
            points[order[each.index]],
            words[each.index],
            looks[shown[order[each.index]][0]],
            "label" if shown[order[each.index]][0] in best else "label beaten",
        )
        for each in placed
    ]


def _corner(
    one: Measure, other: Measure, left: float, top: float, right: float, bottom: float
) -> tuple[Markup, Box]:
    """An arrow to the corner where the best would lie, and the place that it takes."""
    arrows = {(False, True): "↖", (True, True): "↗", (False, False): "↙", (True, False): "↘"}
    arrow = arrows[one.higher_is_better, other.higher_is_better]
    words = f"better {arrow}" if one.higher_is_better else f"{arrow} better"
    width = text_width(words, SMALL)
    x = right - width - 4 if one.higher_is_better else left + 4
    y = top + 12 if other.higher_is_better else bottom - 6
    return text(x, y, words, "better"), Box(x - 2, y - 10, x + width + 2, y + 4)


def by_depth(entries: Sequence[Entry], looks: Sequence[Style]) -> tuple[Chart, ...]:
    """How speed falls as the context fills; only of entries with several depths."""
    several = [
        (entry, look)
        for entry, look in zip(entries, looks, strict=True)
        if len(entry.result.depths) > 1
    ]
    found = []
    for name, take in (("Writing", _decode), ("Reading", _prefill)):
        lines = [
            (entry, look, runs) for entry, look in several if len(runs := _runs(entry, take)) > 1
        ]
        if lines:
            found.append(_depth_chart(name, lines))
    return tuple(found)


_Line = tuple[Entry, Style, list[tuple[int, Speed]]]


def _decode(depth: ResultDepth) -> Speed | None:
    return depth.decode


def _prefill(depth: ResultDepth) -> Speed | None:
    return depth.prefill


def _runs(entry: Entry, take: Callable[[ResultDepth], Speed | None]) -> list[tuple[int, Speed]]:
    return [
        (each.depth, speed) for each in entry.result.depths if (speed := take(each)) is not None
    ]


def _depth_chart(name: str, lines: Sequence[_Line]) -> Chart:
    left_out = len(lines) - _MOST_LINES
    lines = lines[:_MOST_LINES]
    words = [shortened(entry.name, FONT, 110) for entry, _, _ in lines]
    room = max(text_width(each, FONT) for each in words) + 12
    left, top, right, bottom = 44.0, 24.0, WIDTH - room, 220.0
    depths = [float(depth) for _, _, runs in lines for depth, _ in runs]
    speeds = [speed.tokens_per_second.maximum for _, _, runs in lines for _, speed in runs]
    across = scale(depths, left, right, margin=0.03, ticks=3)
    up = scale([0.0, *speeds], bottom, top, from_zero=True)
    title = f"{name} by depth"
    parts = [
        x_axis(across, top, bottom, "tokens in the context"),
        y_axis(up, left, right, "tokens/s"),
    ]
    ends = []
    for at, (entry, look, runs) in enumerate(lines):
        aside = 1.6 * (at - (len(lines) - 1) / 2)
        points = [
            (across(depth) + aside, up(speed.tokens_per_second.median)) for depth, speed in runs
        ]
        parts.append(path(points, f"line {look.css}"))
        for (x, y), (depth, speed) in zip(points, runs, strict=True):
            figures = speed.tokens_per_second
            parts.append(line(x, up(figures.minimum), x, up(figures.maximum), f"line {look.css}"))
            hint = f"{entry.name} at {depth}: {significant(figures.median)} tokens/s"
            parts.append(mark(x, y, look, hint))
        ends.append(points[-1][1])
    for y, each, (_, look, _) in zip(spread(ends, 13, top + 4, bottom), words, lines, strict=True):
        parts.append(text(right + 8, y + 3.8, each, f"label {look.css}"))
    kept = "; ".join(_kept(entry, runs) for entry, _, runs in lines)
    more = f" {left_out} more are in the table." if left_out > 0 else ""
    caption = f"Medians; the lines through them reach from the slowest to the fastest run.{more}"
    return Chart(title, caption, f"{kept}.", picture(258, title, f"{kept}.", *parts))


def _kept(entry: Entry, runs: Sequence[tuple[int, Speed]]) -> str:
    (first, before), (last, after) = runs[0], runs[-1]
    part = after.tokens_per_second.median / (before.tokens_per_second.median or 1.0)
    return f"{entry.name} keeps {part:.0%} of its speed from {first} to {last} tokens"


def speeds(entries: Sequence[Entry], looks: Sequence[Style]) -> tuple[Chart, ...]:
    """Every run at the first depth as a dot, its median as a bar."""
    found = []
    for name, take in (("Writing", _decode), ("Reading", _prefill)):
        rows = [
            (entry, look, speed)
            for entry, look in zip(entries, looks, strict=True)
            if entry.result.depths and (speed := take(entry.result.depths[0])) is not None
        ][:_MOST_BARS]
        if rows:
            found.append(_speed_chart(name, rows))
    return tuple(found)


def _speed_chart(name: str, rows: Sequence[tuple[Entry, Style, Speed]]) -> Chart:
    left, right, top = 2.0, WIDTH - 12, 8.0
    bottom = top + len(rows) * _ROW
    across = scale(
        [0.0, *(speed.tokens_per_second.maximum for _, _, speed in rows)],
        *(left, right),
        from_zero=True,
        margin=0.04,
    )
    parts = [x_axis(across, top, bottom, "tokens/s")]
    for at, (entry, look, speed) in enumerate(rows):
        y = top + at * _ROW
        figures = speed.tokens_per_second
        value = f"{significant(figures.median)}"
        parts.append(text(left, y + 12, shortened(entry.name, FONT, right - 70), "label"))
        parts.append(text(right, y + 12, value, "value", "end"))
        parts.append(rectangle(left, y + 17, across(figures.median) - left, 9, f"bar {look.css}"))
        parts += [
            tag("circle", cx=across(run), cy=y + 21.5, r=2.1, class_="dot")
            for run in figures.samples
        ]
    title = f"{name}, tokens per second"
    said = "; ".join(
        f"{entry.name} {significant(speed.tokens_per_second.median)}" for entry, _, speed in rows
    )
    caption = "Bars end at the median; each dot is a run."
    return Chart(title, caption, f"{said}.", picture(bottom + 36, title, f"{said}.", *parts))


def memory(entries: Sequence[Entry]) -> Chart | None:
    """What the resident memory consists of; None where nobody measured it."""
    rows = [(entry.name, used) for entry in entries if (used := entry.result.memory) is not None][
        :_MOST_BARS
    ]
    if not rows:
        return None
    parts_of = [memory_parts(used) for _, used in rows]
    sums = [sum(count for _, _, count in parts) for parts in parts_of]
    peaks = [used.peak_rss_bytes for _, used in rows]
    shown = list(dict.fromkeys((name, css) for parts in parts_of for name, css, _ in parts))
    shown.sort(key=lambda item: item[1])
    head, top = legend(shown, WIDTH, 12)
    left, right = 2.0, WIDTH - 12
    bottom = top + len(rows) * _ROW
    across = scale(
        [0.0, *(count / 1e6 for count in [*sums, *peaks])], left, right, from_zero=True, margin=0.04
    )
    parts = [head, x_axis(across, top, bottom, "MB")]
    for at, ((name, used), pieces) in enumerate(zip(rows, parts_of, strict=True)):
        y = top + at * _ROW
        parts.append(text(left, y + 12, shortened(name, FONT, right - 90), "label"))
        parts.append(text(right, y + 12, format_bytes(used.peak_rss_bytes), "value", "end"))
        parts.append(_stack(pieces, across, y + 17))
        peak = across(used.peak_rss_bytes / 1e6)
        parts.append(line(peak, y + 14, peak, y + 29, "peak"))
    title = "What memory goes to"
    said = "; ".join(f"{name} {format_bytes(used.peak_rss_bytes)} at peak" for name, used in rows)
    caption = (
        "The line is the peak of the process. Parts need not add up to it: buffers are as "
        "allocated, pages that nobody touched included."
    )
    return Chart(title, caption, f"{said}.", picture(bottom + 36, title, f"{said}.", *parts))


def memory_parts(used: MemoryUse) -> list[tuple[str, str, int]]:
    """Name, class and bytes of each part, without those of none."""
    found = [(name, css, take(used) or 0) for name, css, take in _PARTS]
    rest = used.peak_rss_bytes - sum(count for _, _, count in found)
    return [each for each in [*found, (*_REST, rest)] if each[2] > 0]


def _stack(
    pieces: Sequence[tuple[str, str, int]], across: Callable[[float], float], y: float
) -> Markup:
    parts, reached = [], 0.0
    for name, css, count in pieces:
        x = across(reached / 1e6)
        reached += count
        width = across(reached / 1e6) - x
        parts.append(rectangle(x, y, width, 9, f"part {css}", f"{name}: {format_bytes(count)}"))
    return join(*parts)


def _first_upper(words: str) -> str:
    return words[:1].upper() + words[1:]
