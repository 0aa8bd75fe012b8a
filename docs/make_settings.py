"""Write docs/settings.md from the settings themselves: every group, every setting, its type, default and meaning.

python docs/make_settings.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from potstill.config import Recipe
from potstill.recipe_curating import Curation
from potstill.recipe_writing import WritingJob

PAGE = Path(__file__).parent / "settings.md"
Schema = Mapping[str, Any]

INTRODUCTION = """\
# Settings

*Written by `python docs/make_settings.py` from the settings of the installed version; do not edit.*

A recipe is a YAML 1.2 file of the groups below. An unknown name, a value out of range or two settings that contradict
each other are refused before anything is loaded, all of them at once ([errors](errors.md)). What a recipe leaves out
has its default; `potstill validate FILE --resolved` prints the recipe with every setting written out, and
`potstill schema` prints the JSON schema, with which editors complete names.

On the command line a setting is `key.sub=value`, and entries of lists are counted from 0:

    potstill run classifier train.max_steps=200 stages.0.train.learning_rate=5e-5 evaluate.cost=null

Names follow the `transformers` Trainer and the `datasets` library where those have one.

The last groups are those of a [writing job](black-boxes.md), the file that `potstill write` reads, and of a
[curation](curation.md), which `potstill curate` reads.
"""


def page() -> str:
    """The whole page."""
    roots = {root.__name__: root.model_json_schema() for root in (Recipe, WritingJob, Curation)}
    groups = {**roots, **{name: group for schema in roots.values() for name, group in schema["$defs"].items()}}
    settings = {setting for group in groups.values() for setting in group["properties"]}
    explained = {name: explanations(group["description"], settings) for name, group in groups.items()}
    # A student is a model to load and more; what they share is explained once, on the model.
    inherited = {
        **dict.fromkeys(("StudentSettings", "QualitySettings"), explained["ModelSettings"][1]),
        "TopKSettings": explained["EndpointSettings"][1],
    }
    sections = []
    places_of: dict[str, list[str]] = {}
    for root in roots:
        for name, places in _places(root, groups).items():
            places_of.setdefault(name, places)
    for name, places in places_of.items():
        text, meanings = explained[name]
        sections.append(_section(name, places, groups[name], text, {**inherited.get(name, {}), **meanings}))
    return "\n".join([INTRODUCTION, *sections])


def _places(root: str, groups: Mapping[str, Schema]) -> dict[str, list[str]]:
    """Each group, in the order a reader meets it, with the paths at which it stands in a file of this root."""
    found: dict[str, list[str]] = {root: []}
    waiting = [("", groups[root])]
    while waiting:
        path, group = waiting.pop(0)
        for setting, values in group["properties"].items():
            for name, inside_list in _references(values):
                here = f"{path}{setting}{'[]' if inside_list else ''}"
                found.setdefault(name, []).append(here)
                waiting.append((f"{here}.", groups[name]))
    return found


def explanations(docstring: str, settings: Collection[str]) -> tuple[str, dict[str, str]]:
    """What a docstring says of the group, and of each setting it explains as `setting: meaning`."""
    names = "|".join(sorted(settings, key=len, reverse=True))
    marks = re.compile(rf"(?:^|(?<=[.;)] ))({names}): ")
    paragraphs, meanings = [], {}
    for paragraph in docstring.split("\n\n"):
        first, *rest = marks.split(" ".join(paragraph.split()))
        paragraphs.append(first.strip())
        meanings |= {name: meaning.strip().rstrip(".;") for name, meaning in zip(rest[::2], rest[1::2], strict=True)}
    return "\n\n".join(filter(None, paragraphs)), meanings


def _references(schema: Schema, inside_list: bool = False) -> Iterator[tuple[str, bool]]:
    if "$ref" in schema:
        yield schema["$ref"].rpartition("/")[2], inside_list
    for choice in schema.get("anyOf", ()):
        yield from _references(choice, inside_list)
    if "items" in schema:
        yield from _references(schema["items"], True)


def _section(name: str, places: Sequence[str], group: Schema, text: str, meanings: Mapping[str, str]) -> str:
    required = set(group.get("required", ()))
    rows = []
    for setting, values in group["properties"].items():
        value = "**required**" if setting in required else default(values)
        meaning = meanings.get(setting, "").replace("|", "\\|")
        rows.append(f"| `{setting}` | {words(values)} | {value} | {meaning} |")
    where = f"At {', '.join(f'`{place}`' for place in places)}.\n\n" if places else ""
    table = "\n".join(["| Setting | Type | Default | Meaning |", "|---|---|---|---|", *rows])
    return f"## {name}\n\n{where}{text}\n\n{table}\n"


def words(schema: Schema) -> str:
    """A JSON schema as a phrase: `whole number (at least 4) or null`."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(words(choice) for choice in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{choice}`" for choice in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        least = schema.get("minItems")
        return f"list of {words(schema['items'])}" + (f" (at least {least})" if least else "")
    if schema["type"] == "object":
        return f"names, each with a {words(schema['additionalProperties'])}"
    kinds = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "null": "null",
    }
    limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    parts = [f"{word} {schema[key]}" for key, word in limits.items() if key in schema]
    if "pattern" in schema:
        parts.append(schema["description"])
    if schema.get("minLength"):
        parts.append("not empty")
    return kinds[schema["type"]] + (f" ({', '.join(parts)})" if parts else "")


def default(schema: Schema) -> str:
    """The default in YAML's words; a group stands for its own defaults."""
    value = schema.get("default")
    if isinstance(value, dict):
        return "its own defaults"
    if isinstance(value, str):
        return f"`{value}`" if value else '`""`'
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
