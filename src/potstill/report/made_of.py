"""The ledger as a drawing: who was made from whom, from left to right, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

BOX, GAP_X, GAP_Y, HEIGHT = 168, 56, 14, 46
SHOWN = 24


def made_of(nodes: Sequence[Mapping[str, Any]]) -> Markup:
    """Boxes in columns by how many makings lie before them, an arrow from each thing to what was made of it.

    nodes: of a ledger's graph, parents before children; what does not fit that is left out, since a report is written
    of any run.
    """
    depths: dict[str, int] = {}
    for node in nodes:
        depths[node["hash"]] = 1 + max((depths.get(parent, -1) for parent in node["parents"]), default=-1)
    if not depths:
        return Markup("")
    columns: dict[int, list[Mapping[str, Any]]] = {}
    for node in {node["hash"]: node for node in nodes}.values():
        columns.setdefault(depths[node["hash"]], []).append(node)
    tall = max(len(some) for some in columns.values()) * (HEIGHT + GAP_Y)
    places = {
        node["hash"]: (column * (BOX + GAP_X), (row + 0.5) * tall / len(some) - HEIGHT / 2)
        for column, some in columns.items()
        for row, node in enumerate(some)
    }
    arrows = [
        _arrow(places[parent], places[node["hash"]]) for node in nodes for parent in node["parents"] if parent in places
    ]
    boxes = [_box(node, *places[node["hash"]]) for some in columns.values() for node in some]
    width = (max(columns) + 1) * (BOX + GAP_X) - GAP_X
    return Markup(
        f'<svg class="made" viewBox="-1 -1 {width + 2} {tall + 2:.0f}" role="img" aria-label="What was made of what" '
        f'style="max-width:{width * 1.25:.0f}px">{"".join(arrows)}{"".join(boxes)}</svg>'
    )


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    a, b = start[0] + BOX, start[1] + HEIGHT / 2
    c, d = end[0], end[1] + HEIGHT / 2
    bend = (c - a) / 2
    return f'<path class="edge" d="M{a:.1f},{b:.1f} C{a + bend:.1f},{b:.1f} {c - bend:.1f},{d:.1f} {c:.1f},{d:.1f}"/>'


def _box(node: Mapping[str, Any], x: float, y: float) -> str:
    kind = node["kind"] if node["kind"] in ("source", "writer", "teacher", "tutor", "checkpoint", "export") else "other"
    name = str(node["name"])
    short = name if len(name) <= SHOWN else f"…{name[1 - SHOWN :]}"
    licence = str(node["licence"])[:SHOWN]
    return (
        f'<g class="{kind}"><title>{escape(name)}\n{escape(node["revision"])}\n{escape(node["hash"])}</title>'
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{BOX}" height="{HEIGHT}" rx="5"/>'
        f'<text class="name" x="{x + 8:.1f}" y="{y + 19:.1f}">{escape(short)}</text>'
        f'<text class="tick" x="{x + 8:.1f}" y="{y + 36:.1f}">{escape(kind)} · {escape(licence)}</text></g>'
    )
