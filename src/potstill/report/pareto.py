"""The front of a trade: what is not beaten on both sides, and the chart of it as a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from markupsafe import Markup

from potstill.report.svg import Dot, scatter


def front(dots: Sequence[Dot]) -> list[Dot]:
    """Those to whom no other is at once as cheap (x) and as good (y), and better in one of them; the cheapest first."""
    return sorted(
        (one for one in dots if not any(_beats(other, one) for other in dots)), key=lambda dot: (dot.x, -dot.y)
    )


def _beats(one: Dot, other: Dot) -> bool:
    return one.x <= other.x and one.y >= other.y and (one.x, one.y) != (other.x, other.y)


def chart(dots: Sequence[Dot], *, x_label: str, y_label: str) -> str:
    """A self-contained SVG file of the dots with a line along their front."""
    return standalone(scatter(dots, x_label=x_label, y_label=y_label, through=front(dots)))


def standalone(drawing: Markup) -> str:
    """A chart of the page as a file: with its namespace and the page's own style sheet inside, on paper of its own."""
    style = files("potstill.report").joinpath("report.css").read_text(encoding="utf-8")
    opening = '<svg xmlns="http://www.w3.org/2000/svg" style="background:var(--paper)"'
    head, _, body = str(drawing).removeprefix("<svg").partition(">")
    return f"{opening}{head}><style>{style}</style>{body}\n"
