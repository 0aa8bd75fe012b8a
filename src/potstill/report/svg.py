"""Charts as inline SVG: drawn here because the page must open offline and run no script.

Every text that comes from data goes through `escape`. Colours are CSS classes named after the role a series plays
(`teacher`, `student`, `labels`, ...), so one legend serves the whole page in light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from potstill.report.axis import Axis, fit, short

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 16, 46
# Between the feet of two lines of small text.
LINE = 14


@dataclass(frozen=True, slots=True)
class Series:
    """A named curve; `role` is its CSS class."""

    name: str
    role: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a scatter with an optional vertical 95 % interval."""

    name: str
    role: str
    x: float
    y: float
    interval: tuple[float, float] | None = None


def lines(series: Sequence[Series], *, x_label: str, y_label: str, log_y: bool = False) -> Markup:
    """Curves over a shared pair of axes. A curve of a single point is drawn as a dot."""
    points = [point for one in series for point in one.points]
    if not points:
        return Markup("")
    x = fit([p[0] for p in points], LEFT, WIDTH - RIGHT, floor=0)
    y = fit([p[1] for p in points], HEIGHT - BOTTOM, TOP, log=log_y and min(p[1] for p in points) > 0)
    body = [_frame(x, y, x_label, y_label)]
    for one in series:
        where = [(x.at(a), y.at(b)) for a, b in one.points]
        path = " ".join(f"{a},{b}" for a, b in where)
        body.append(f'<polyline class="curve {one.role}" points="{path}"><title>{escape(one.name)}</title></polyline>')
        if len(where) <= 12:
            body.extend(f'<circle class="dot {one.role}" cx="{a}" cy="{b}" r="3"/>' for a, b in where)
    return _svg(body, f"{y_label} over {x_label}")


def scatter(dots: Sequence[Dot], *, x_label: str, y_label: str, through: Sequence[Dot] = ()) -> Markup:
    """Named dots; x is logarithmic because costs differ by factors. Names sit beside their dots, inside the frame, and
    make way for each other. through: dots that a line joins."""
    if not dots:
        return Markup("")
    x = fit([d.x for d in dots], LEFT, WIDTH - RIGHT, log=True)
    y = fit([v for d in dots for v in (d.y, *(d.interval or ()))], HEIGHT - BOTTOM, TOP)
    body = [_frame(x, y, x_label, y_label)]
    if through:
        path = " ".join(f"{x.at(dot.x)},{y.at(dot.y)}" for dot in through)
        body.append(f'<polyline class="ideal" fill="none" points="{path}"/>')
    heights = _apart([y.at(dot.y) + 4 for dot in dots])
    for dot, height in zip(dots, heights, strict=True):
        a, b = x.at(dot.x), y.at(dot.y)
        if dot.interval:
            low, high = (y.at(v) for v in dot.interval)
            body.append(f'<line class="whisker {dot.role}" x1="{a}" x2="{a}" y1="{low}" y2="{high}"/>')
        body.append(f'<circle class="dot {dot.role}" cx="{a}" cy="{b}" r="5"/>')
        anchor, shift = ("end", -9) if a > WIDTH * 0.7 else ("start", 9)
        where = f'x="{a + shift}" y="{height}" text-anchor="{anchor}"'
        body.append(f'<text class="name" {where}>{escape(dot.name)}</text>')
    return _svg(body, f"{y_label} against {x_label}")


def _apart(heights: Sequence[float]) -> list[float]:
    """The heights of names, in their order from top to bottom, none nearer to another than a line is high; as near to
    where they were as one walk down and, from the bottom of the frame, one walk up can have them."""
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    found = list(heights)
    for above, below in pairwise(order):
        found[below] = max(found[below], found[above] + LINE)
    lowest = float(HEIGHT - BOTTOM)
    for place in reversed(order):
        found[place] = min(found[place], lowest)
        lowest = found[place] - LINE
    return [round(height, 1) for height in found]


def reliability(curves: Sequence[Series]) -> Markup:
    """Accuracy over confidence; on the diagonal a model is as often right as it says it is."""
    x, y = Axis(0, 1, LEFT, WIDTH - RIGHT), Axis(0, 1, HEIGHT - BOTTOM, TOP)
    body = [_frame(x, y, "confidence", "share right")]
    body.append(f'<line class="ideal" x1="{x.at(0)}" y1="{y.at(0)}" x2="{x.at(1)}" y2="{y.at(1)}"/>')
    for one in curves:
        where = [(x.at(a), y.at(b)) for a, b in one.points]
        path = " ".join(f"{a},{b}" for a, b in where)
        body.append(f'<polyline class="curve {one.role}" points="{path}"><title>{escape(one.name)}</title></polyline>')
        body.extend(f'<circle class="dot {one.role}" cx="{a}" cy="{b}" r="3"/>' for a, b in where)
    return _svg(body, "Reliability diagram")


def heatmap(matrix: Sequence[Sequence[float | None]], names: Sequence[str]) -> Markup:
    """Square matrix of shares; opacity grows with the square root, since most off-diagonal shares are small.
    None is a class without rows."""
    count = len(names)
    cell = 420 / count
    size = round(cell - 0.4, 2) if cell > 3 else round(cell, 2)
    body = []
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            if value is None or value < 0.004:
                continue
            title = escape(f"{names[row]} → {names[column]}: {value:.1%}")
            body.append(
                f'<rect class="cell" x="{column * cell:.1f}" y="{row * cell:.1f}" width="{size}" height="{size}" '
                f'fill-opacity="{min(1.0, value) ** 0.5:.2f}"><title>{title}</title></rect>'
            )
    inner = "".join(str(part) for part in body)
    return Markup(
        f'<svg class="heat" viewBox="-1 -1 422 422" role="img" aria-label="Class similarity">'
        f'<rect class="ground" x="-1" y="-1" width="422" height="422"/>{inner}</svg>'
    )


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> str:
    parts = []
    for tick in y.ticks():
        at = y.at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{at + 4}" text-anchor="end">{short(tick)}</text>')
    for tick in x.ticks():
        at = x.at(tick)
        parts.append(
            f'<text class="tick" x="{at}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{short(tick)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    turn = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="axis" transform="translate(14 {turn}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _svg(body: Sequence[str], label: str) -> Markup:
    inner = "".join(str(part) for part in body)
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{inner}</svg>')
