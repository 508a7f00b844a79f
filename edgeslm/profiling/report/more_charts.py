"""The charts of what lasts, and of what differs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgeslm.profiling.comparison import REPEATABLE, Verdict
from edgeslm.profiling.report.content import Difference, Long
from edgeslm.profiling.report.drawing import (
    FONT,
    WIDTH,
    Chart,
    line,
    path,
    picture,
    rectangle,
    text,
    x_axis,
    y_axis,
)
from edgeslm.profiling.report.labels import shortened
from edgeslm.profiling.report.markup import Markup, join, tag
from edgeslm.profiling.report.scales import Scale, scale
from edgeslm.profiling.report.words import change_text, interval_text
from edgeslm.units import format_seconds, significant

_MOST_RUNS = 6
_MOST_DIFFERENCES = 40
_ROW = 30.0
_LEAST_RANGE = 1.15
_LEFT, _RIGHT = 44.0, WIDTH - 12
_CSS = {
    Verdict.HIGHER: "up",
    Verdict.LOWER: "down",
    Verdict.NO_DIFFERENCE: "same",
    Verdict.TOO_FEW: "same",
}


def sustained(runs: Sequence[Long]) -> tuple[Chart, ...]:
    """Speed, and temperature where it was told, over time; a chart for each run."""
    return tuple(_sustained(each) for each in runs[:_MOST_RUNS])


def _sustained(long: Long) -> Chart:
    run = long.run
    title = f"{long.name} for {format_seconds(run.seconds)}"
    part = run.sustained.median / run.peak if run.peak else 0.0
    caption = (
        f"{significant(run.sustained.median)} tokens/s in the last third, {part:.0%} of the peak"
        + (f"; at most {run.hottest_celsius:.0f} °C" if run.hottest_celsius is not None else "")
        + (f"; held back by {', '.join(run.held_back)}" if run.held_back else "")
        + "."
    )
    warm = [
        (each.since, each.heat.celsius) for each in run.windows if each.heat.celsius is not None
    ]
    across = scale([0.0, run.seconds], _LEFT, _RIGHT, margin=0.01)
    speeds = [(each.since, each.tokens_per_second) for each in run.windows]
    middle = 150.0 if warm else 210.0
    parts = [_panel(speeds, across, 24.0, middle, "tokens/s", "s0", zero=True)]
    bottom = middle
    if warm:
        bottom = 260.0
        parts.append(
            tag(
                "g",
                _panel(warm, across, 24.0, 74.0, "°C", "s1", zero=False),
                transform=f"translate(0 {bottom - 74:g})",
            )
        )
    parts.append(x_axis(across, 24.0, bottom, "seconds"))
    return Chart(title, caption, caption, picture(bottom + 38, title, caption, *parts))


def _panel(
    points: Sequence[tuple[float, float]],
    across: Scale,
    top: float,
    bottom: float,
    name: str,
    css: str,
    *,
    zero: bool,
) -> Markup:
    values = [value for _, value in points]
    up = scale(values, bottom, top, from_zero=zero, ticks=4 if zero else 2)
    drawn = [(across(at), up(value)) for at, value in points]
    return join(y_axis(up, _LEFT, _RIGHT, name), path(drawn, f"line {css}"))


def differences(found: Sequence[Difference], baseline: str) -> Chart | None:
    """Each ratio to the baseline with its interval; None without any, or for too many to see."""
    if not 0 < len(found) <= _MOST_DIFFERENCES:
        return None
    across = _ratios(found)
    top = 16.0
    bottom = top + len(found) * _ROW
    grey_left, grey_right = across(1 - REPEATABLE), across(1 + REPEATABLE)
    parts = [
        rectangle(grey_left, top, grey_right - grey_left, bottom - top, "band"),
        x_axis(across, top, bottom, f"times {shortened(baseline, FONT, 200)}"),
        line(across(1.0), top, across(1.0), bottom, "one"),
        *(_row(each, across, top + at * _ROW) for at, each in enumerate(found)),
    ]
    title = f"Against {baseline}"
    said = "; ".join(f"{each.name}, {each.what}: {change_text(each.comparison)}" for each in found)
    caption = (
        "Dots are ratios of speeds, lines their intervals: where one reaches 1, it may be chance. "
        "In the grey band a second measurement may differ by as much."
    )
    return Chart(title, caption, f"{said}.", picture(bottom + 36, title, f"{said}.", *parts))


def _ratios(found: Sequence[Difference]) -> Scale:
    values = [1 / _LEAST_RANGE, _LEAST_RANGE]
    for each in found:
        ratio = each.comparison.ratio
        values += [
            min(max(value, ratio / 4), ratio * 4)
            for value in (ratio, each.comparison.low, each.comparison.high)
            if value is not None
        ]
    low, high = min(values) / 1.03, max(values) * 1.03
    ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2]
    ticks += [1.4, 2, 3, 5, 10, 20, 50, 100]
    inside = [tick for tick in ticks if low <= tick <= high]
    kept: list[float] = []
    for tick in sorted(inside, key=lambda tick: tick != 1):
        if all(abs(math.log(tick / other)) > math.log(high / low) / 9 for other in kept):
            kept.append(tick)
    return Scale(low, high, 6.0, WIDTH - 14, tuple(sorted(kept)), is_log=True)


def _row(found: Difference, across: Scale, y: float) -> Markup:
    compared = found.comparison
    css = _CSS[compared.verdict]
    x = across(compared.ratio)
    words = shortened(f"{found.name}, {found.what}", FONT, WIDTH - 90)
    parts = [
        text(2, y + 11, words, "label"),
        text(WIDTH - 2, y + 11, change_text(compared), f"value {css}", "end"),
    ]
    if compared.low is not None and compared.high is not None:
        low, high = max(compared.low, across.low), min(compared.high, across.high)
        parts.append(line(across(low), y + 20, across(high), y + 20, f"interval {css}"))
    hint = tag("title", f"{words}: {change_text(compared)} {interval_text(compared)}")
    parts.append(tag("circle", hint, cx=x, cy=y + 20, r=4.2, class_=f"ratio {css}"))
    return join(*parts)
