"""From pydantic's errors to faults a person can act on: the line, the path, plain words, and the nearest name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from potstill.config import RECIPE_NAME, STAGE_NAME, Recipe
from potstill.core.errors import Fault
from potstill.recipe_names import Group, group_at, known_part, suggestion
from potstill.recipe_rules import nearest
from potstill.recipe_text import Document, Path, Place, dotted

# pydantic's error type -> what the value must be; {..} are pydantic's own values.
WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text (put it in quotes)",
    "tuple_type": "a list",
    "list_type": "a list",
    "model_type": "a group of settings",
    "model_attributes_type": "a group of settings",
    "dict_type": "a group of settings",
    "literal_error": "{expected}",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
}
PATTERNS = {
    RECIPE_NAME: "letters, digits and . _ - only, at most 100, beginning with a letter or digit",
    STAGE_NAME: "lower-case letters, digits and - only, at most 40, beginning with a letter",
}
LONGEST_SHOWN = 60


class Complaint(NamedTuple):
    """A fault before it is placed.

    without: what to leave out so that the rest of the recipe can still be checked. at_key: the name is wrong, not the
    value.
    """

    path: Path
    reason: str
    suggestion: str | None = None
    without: Path = ()
    at_key: bool = False

    def placed(self, document: Document) -> Fault:
        """With the line and column of the name or value, or of the nearest group around it that the recipe has."""
        reason = f"{self.reason}." if self.suggestion else self.reason
        place = place_of(document, self.path, at_key=self.at_key)
        return Fault(*place, path=dotted(self.path), reason=reason, suggestion=self.suggestion)


def place_of(document: Document, path: Path, *, at_key: bool = False) -> Place:
    """Where a path stands: its value if that begins on the line of its key, else its key, else the group around it."""
    key, value = document.keys.get(path), document.values.get(path)
    if value is not None and (key is None or (key.line == value.line and not at_key)):
        return value
    if key is not None:
        return key
    return place_of(document, path[:-1], at_key=True) if path else Place("recipe", 1, 1)


def complaints(errors: Sequence[Mapping[str, Any]], document: Document, root: Group = Recipe) -> list[Complaint]:
    """One complaint per fault; the branches of a union that all failed become one. root: the settings of the file."""
    found: list[Complaint] = []
    wanted: dict[Path, list[str]] = {}
    inputs: dict[Path, Any] = {}
    for error in errors:
        path = known_part(tuple(error["loc"]), root)
        phrase = _wanted(error)
        if error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]:
            continue  # pydantic counts only the entries that passed; the ones that did not have their own errors
        if phrase is None:
            found.extend(_structural(error, path, document, root))
        else:
            wanted.setdefault(path, []).append(phrase)
            inputs[path] = error["input"]
    for path, phrases in wanted.items():
        reason = f"must be {' or '.join(dict.fromkeys(phrases))}; it is {shown(inputs[path])}"
        found.append(Complaint(path, reason, _nearest_word(inputs[path], phrases), without=path))
    return found


def _wanted(error: Mapping[str, Any]) -> str | None:
    context = error.get("ctx", {})
    if error["type"] == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], f"like {context['pattern']}")
    template = WANTED.get(error["type"])
    return template.format(**context) if template else None


def _structural(error: Mapping[str, Any], path: Path, document: Document, root: Group) -> Iterator[Complaint]:
    if error["type"] == "missing":
        whole = root is Recipe and len(path) == 1
        reason = "is missing; every recipe needs it" if whole else "is missing; it has no default"
        yield Complaint(path, reason, without=path[:-1])
    elif error["type"] == "extra_forbidden":
        inside = f"`{dotted(path[:-1])}`" if len(path) > 1 else "a recipe" if root is Recipe else "this file"
        yield Complaint(path, f"is not a setting of {inside}", suggestion(path, root), without=path, at_key=True)
    elif error["type"] == "contradictions":
        for one in error["ctx"]["found"]:
            yield Complaint((*path, *one.path), one.reason, one.suggestion)
    elif error["type"] == "value_error":
        reason = str(error["ctx"]["error"])
        spoken_of = _field_spoken_of(reason, path, document, root)
        yield Complaint(spoken_of, reason, without=spoken_of)
    else:
        yield Complaint(path, f"{error['msg']}; it is {shown(error['input'])}", without=path)


def _field_spoken_of(reason: str, path: Path, document: Document, root: Group) -> Path:
    """A rule of a group reports the group; the line wanted is that of the setting its message names first."""
    group = group_at(path, root)
    for word in re.findall(r"[a-z_][a-z0-9_]*", reason):
        if group is not None and word in group.model_fields and (*path, word) in document.values:
            return (*path, word)
    return path


def _nearest_word(value: Any, phrases: Sequence[str]) -> str | None:
    choices = [word for phrase in phrases for word in re.findall(r"'([^']*)'", phrase)]
    return nearest(value, choices) if isinstance(value, str) else None


def shown(value: Any) -> str:
    """A value in an error message: short, in YAML's words."""
    if isinstance(value, Mapping):
        return "a group of settings"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}… ({len(str(value))} characters)"
