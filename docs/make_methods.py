"""Write docs/methods.md: every method with its paper, how a recipe asks for it, the recipes that do, and what it did.

Methods are those of `potstill.recipes.methods`, what was measured is in docs/results/effects.yaml.

python docs/make_methods.py
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from potstill.recipes.methods import METHODS, Method, recipes_with

DOCS = Path(__file__).parent
PAGE, EFFECTS = DOCS / "methods.md", DOCS / "results" / "effects.yaml"

INTRODUCTION = """\
# Methods

*Written by `python docs/make_methods.py`; do not edit. What was measured stands in `docs/results/effects.yaml`.*

Methods compose: each is a setting of a training, and a recipe has as many trainings as it wants. The recipe
[`composed`](results/composed.md) has a tutor, layer losses, skew KL and difficult rows at once. What contradicts each
other is refused when the recipe is read, with the reason.

Effects are ours, on small models and two cores, negative ones included. "Not measured" means that the method does what
its paper says (its tests hold it against known answers), and that nobody here knows yet what it is worth.
"""


def effects() -> dict[str, Mapping[str, Any]]:
    """What was measured, by method."""
    return dict(YAML(typ="safe").load(EFFECTS.read_text(encoding="utf-8")))


def page() -> str:
    """The whole page. Raises KeyError for a method of which effects.yaml says nothing."""
    measured, parts = effects(), [INTRODUCTION]
    for group, members in itertools.groupby(METHODS.items(), key=lambda item: item[1].group):
        head = "| Method | Paper | In a recipe | Shipped in | Measured | Does not help |"
        lines = [_line(name, method, measured[name]) for name, method in members]
        parts.append("\n".join([f"## {group}", "", head, "|---" * 6 + "|", *lines]) + "\n")
    return "\n".join(parts)


def _line(name: str, method: Method, measured: Mapping[str, Any]) -> str:
    recipes = ", ".join(f"[`{one}`](results/{one}.md)" for one in recipes_with(name)) or "–"
    effect = f"{measured['says']} ([page]({measured['page']}))" if "page" in measured else measured["says"]
    cells = [method.title, method.paper, f"`{method.asked}`", recipes, effect, method.limit]
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
